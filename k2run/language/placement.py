"""Which action may not be where it is: what a symptom, a steady state and a delegated step may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.language.vocabulary import HARMS, ONLY_LOOKS, RUN, SKIP_SECTION, STOP, Effect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.language.document import Trail
    from k2run.language.model import Step
    from k2run.language.reading import Reading

_NO_PROBES = frozenset({RUN.name, STOP.name, SKIP_SECTION.name})
"""Words of the language that answer nothing."""
_BLOCK = ("block", "rescue", "always")
CODE = "K306"


def check_symptoms(reading: Reading, steps: Sequence[Step], trail: Trail) -> None:
    """Symptoms are checked on stacks where something has failed: they only observe."""
    hint = "use an action that observes; `k2run doc` says what each does"
    for index, step in enumerate(steps):
        if step.block:
            message = "a symptom is one probe, not a block"
            reading.problem(CODE, message, (*trail, index, "block"), key=True, hint="list its steps as symptoms")
        elif step.action in _NO_PROBES:
            message = f"`{step.action}` is no probe, so it cannot be a symptom"
            reading.problem(CODE, message, (*trail, index, step.action), key=True, hint=hint)
        elif step.effect not in ONLY_LOOKS:
            message = f"`{step.action}` {step.effect} something, and a symptom only observes"
            reading.problem(CODE, message, (*trail, index, step.action), key=True, hint=hint)


def check_steady_state(reading: Reading, steps: Sequence[Step], trail: Trail) -> None:
    """The steady state holds before a fault and again after it: it injects none itself."""
    for step, where in _all(steps, trail):
        if step.effect is Effect.BREAKS:
            message = f"`{step.action}` breaks something, and the steady state is what holds without a fault"
            reading.problem(CODE, message, (*where, step.action), key=True, hint="move it into a section")


def check_delegate(reading: Reading, step: Step, trail: Trail) -> None:
    """The undos of a run belong to the stack that it holds: on another one it breaks and destroys nothing."""
    if not step.delegate or step.action == RUN.name:  # which takes no `delegate`
        return
    hint = "a run holds one stack; run a runbook of its own on the other one"
    for part, where in _parts(step, trail):
        if part.action == RUN.name:
            message = "a runbook cannot be delegated to another stack"
            reading.problem(CODE, message, (*where, part.action), key=True, hint=hint)
        elif part.effect in HARMS:
            message = f"`{part.action}` {part.effect} something, so it cannot be delegated to {step.delegate}"
            reading.problem(CODE, message, (*where, part.action), key=True, hint=hint)


def _all(steps: Sequence[Step], trail: Trail) -> Iterator[tuple[Step, Trail]]:
    for index, step in enumerate(steps):
        yield from _parts(step, (*trail, index))


def _parts(step: Step, trail: Trail) -> Iterator[tuple[Step, Trail]]:
    """A step and all steps inside it, each with its trail in the document."""
    yield step, trail
    for key in _BLOCK:
        yield from _all(getattr(step, key), (*trail, key))

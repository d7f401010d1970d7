"""The keywords of a step: how the value of each is read, and which keywords and actions are allowed where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.language.model import Backoff, Severity
from k2run.language.reading import MAX_WORKERS
from k2run.language.references import looks_like_a_file
from k2run.language.vocabulary import ASSERT, HARMS, ONLY_LOOKS, RUN, SET, SKIP_SECTION, STOP, WAIT, Effect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from k2run.language.document import Trail
    from k2run.language.model import Step
    from k2run.language.reading import Reading
    from k2run.language.step_reader import Draft
    from k2run.language.vocabulary import Scope

_WHOLE = 100


def _name(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    text = draft.reading.text(value, path, "`name`")
    draft.fields[key] = draft.reading.rendered(text, path, scope)


def _condition(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    draft.fields[key] = draft.reading.expression(value, path, f"`{key}`", scope)


def _conditions(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    draft.fields[key] = draft.reading.conditions(value, path, f"`{key}`", scope)


def _time(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.duration(value, path, f"`{key}`")


def _pause(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    """A duration, or pauses that grow."""
    reading = draft.reading
    if not isinstance(value, dict):
        draft.fields[key] = reading.duration(value, path, f"`{key}`")
        return
    given = reading.fields(value, path, f"`{key}`", ("from", "to", "factor", "jitter"))
    for needed in {"from", "to"} - given.keys():
        reading.problem("K203", f"`{key}` needs `{needed}`", path, key=True, hint="write every: {from: 1s, to: 30s}")
    first, most = (
        reading.duration(given.get(name, "1s"), (*path, name) if name in given else path, f"`{name}`")
        for name in ("from", "to")
    )
    factor, jitter = given.get("factor", 2), str(given.get("jitter", "0%"))
    if not isinstance(factor, int | float) or isinstance(factor, bool) or factor < 1:
        reading.problem("K204", "`factor` is a number of at least 1", (*path, "factor"), hint="such as 2")
        factor = 2
    share = jitter.removesuffix("%")
    if not jitter.endswith("%") or not share.isdecimal() or int(share) > _WHOLE:
        reading.problem("K204", "`jitter` is a share from 0% to 100%", (*path, "jitter"), hint="such as 20%")
        share = "0"
    draft.fields[key] = Backoff(first=first, most=most, factor=float(factor), jitter=int(share) / _WHOLE)


def _flag(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.boolean(value, path, f"`{key}`")


def _count(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.whole(value, path, f"`{key}`", least=1)


def _workers(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.workers(value, path, MAX_WORKERS)


def _new_name(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.name(value, path, f"`{key}`")


def _id(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.text(value, path, "`id`")
    draft.reader.note_id(draft.fields[key], path)


def _severity(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.choice(Severity, value, path, "`severity`")


def _tags(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = frozenset(draft.reading.texts(value, path, "`tags`"))


def _requires(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    draft.fields[key] = draft.reading.texts(value, path, "`requires`")
    draft.reading.uses_stack = True
    if any("{{" in each for each in draft.fields[key]):
        hint = "an action on a service that the stack does not have is not applicable by itself"
        draft.reading.problem("K204", "`requires` takes names as they are, no templates", path, hint=hint)


def _worth(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    draft.fields[key] = draft.reader.points.read(value, path, scope, draft.category)


def _figures(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    reading = draft.reading
    written = reading.mapping(value, path, "`figures`")
    for name in written:
        reading.name(name, (*path, name), "a figure", key=True)
    draft.fields[key] = {
        name: reading.expression(item, (*path, name), f"the figure `{name}`", scope) for name, item in written.items()
    }
    reading.figures.update(dict.fromkeys(written, Any))


def _failure(draft: Draft, _key: str, value: Any, path: Trail, _scope: Scope) -> None:
    reading = draft.reading
    if isinstance(value, str):
        key = "recovery" if looks_like_a_file(value) else "hint"
        hint = {key: value}
        at = {key: path}
    else:
        hint = reading.fields(value, path, "`on_failure`", ("hint", "recovery"))
        at = {key: (*path, key) for key in hint}
    for key, item in hint.items():
        if key in ("hint", "recovery"):
            text = reading.text(item, at[key], f"`{key}`")
            draft.fields["on_failure" if key == "hint" else "recovery"] = text
            if key == "recovery":
                draft.reader.references.recovery(text, at[key])


def _stack(draft: Draft, key: str, value: Any, path: Trail, _scope: Scope) -> None:
    text = draft.reading.text(value, path, f"`{key}`")
    if "{{" in text:
        hint = "stacks are locked before the run begins, so they must be known then"
        draft.reading.problem("K204", f"`{key}` is the plain name of a stack", path, hint=hint)
    elif text:
        draft.reader.references.stack(text, path)
    draft.fields[key] = text


def _skip(draft: Draft, key: str, value: Any, path: Trail, scope: Scope) -> None:
    """Read before the others."""


KEYWORDS: dict[str, Callable[[Draft, str, Any, Trail, Scope], None]] = {
    "name": _name,
    "id": _id,
    "when": _condition,
    "loop": _skip,
    "loop_var": _new_name,
    "parallel": _workers,
    "register": _new_name,
    "expect": _conditions,
    "until": _condition,
    "every": _pause,
    "retries": _count,
    "timeout": _time,
    "within": _time,
    "failed_when": _condition,
    "ignore_failure": _flag,
    "severity": _severity,
    "points": _worth,
    "figures": _figures,
    "tags": _tags,
    "vars": _skip,
    "requires": _requires,
    "on_failure": _failure,
    "no_log": _flag,
    "approve": _flag,
    "delegate": _stack,
}
"""Every keyword; an action is whatever else stands in a step."""


ACTION, BLOCK = "an action", "a block"
_LEAPS = (STOP.name, SKIP_SECTION.name)
PLACES = (ACTION, ASSERT.name, SET.name, WAIT.name, BLOCK, RUN.name, *_LEAPS)
"""What a step may be; in a loop and in a parallel section it accepts the same keywords."""

_REPEATING = ("until", "every", "retries")
_REFUSED: dict[str, frozenset[str]] = {
    BLOCK: frozenset({"register", "expect", "failed_when", "figures", "points", "no_log", "approve"}),
    RUN.name: frozenset({"approve", "delegate"}),
    **dict.fromkeys(
        _LEAPS, frozenset({*_REPEATING, "timeout", "approve", "expect", "failed_when", "figures", "points"})
    ),
}
_NEEDS = {"loop_var": ("loop",), "parallel": ("loop",), "every": ("until", "retries")}
"""Keywords that mean nothing without one of others."""


def place_of(action: str, *, is_block: bool) -> str:
    """What a step is, as `PLACES` calls it."""
    return BLOCK if is_block else action if action in PLACES else ACTION


def refused(keyword: str, place: str) -> bool:
    """Whether a keyword is a problem there."""
    return keyword in _REFUSED.get(place, frozenset())


def needed(keyword: str) -> tuple[str, ...]:
    """The keywords of which one must stand beside this one; empty when it stands alone."""
    return _NEEDS.get(keyword, ())


def table() -> list[tuple[str, ...]]:
    """For each keyword what it is at each place: accepted, accepted beside another keyword, or refused."""
    return [
        (f"`{keyword}`", *(_cell(keyword, place) for place in PLACES), _cell(keyword, ACTION), _cell(keyword, ACTION))
        for keyword in KEYWORDS
    ]


def _cell(keyword: str, place: str) -> str:
    if refused(keyword, place):
        return "K209"
    return f"with {' or '.join(f'`{each}`' for each in needed(keyword))}" if needed(keyword) else "yes"


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

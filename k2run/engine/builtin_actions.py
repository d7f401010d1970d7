"""The three actions that belong to the language itself: `assert`, `wait` and `set`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.engine.events import Outcome
from k2run.engine.step_record import Attempt, judge
from k2run.engine.variables import computed
from k2run.errors import ExpressionFailed
from k2run.language.expressions import render
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.actions.deadline import Deadline


def _assert(args: dict[str, Any], names: dict[str, Any], deadline: Deadline) -> Attempt:  # noqa: ARG001 - one form for all words
    attempt = judge(Attempt(headline="holds", answered=True), args["that"], names)
    if attempt.outcome is not Outcome.PASSED:
        attempt.headline = "does not hold"
    return attempt


def _wait(args: dict[str, Any], names: dict[str, Any], deadline: Deadline) -> Attempt:
    try:
        length = Duration.parse(render(args["for"], names))
    except ValueError as error:
        raise ExpressionFailed(f"wait: {error}") from error
    if length:
        deadline.sleep(length)
    return Attempt(headline=f"waited {length}", answered=True)


def _set(args: dict[str, Any], names: dict[str, Any], deadline: Deadline) -> Attempt:  # noqa: ARG001 - one form for all words
    values = computed(args, names)
    headline = ", ".join(f"{name} = {value}" for name, value in values.items())
    return Attempt(result=values, headline=headline, answered=True)


WORDS: dict[str, Callable[[dict[str, Any], dict[str, Any], Deadline], Attempt]] = {
    "assert": _assert,
    "wait": _wait,
    "set": _set,
}

"""What comes of one attempt of an action, and the three actions that belong to the language itself."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from k2run.actions.action import Judged, Result
from k2run.engine.events import Outcome
from k2run.engine.variables import computed
from k2run.errors import (
    ExpressionFailed,
    Inapplicable,
    Interrupted,
    JournalLost,
    K2runError,
    NotApplicable,
    NotConfirmed,
    NotWhole,
    Unknown,
)
from k2run.language.expressions import render
from k2run.language.quantities import Duration
from k2run.language.vocabulary import ITEM, METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from k2run.actions.deadline import Deadline
    from k2run.language.expressions import Expression
    from k2run.language.vocabulary import Reference

_SHOWN = 80
_NOTHING = " = none"


class Attempt(Struct, kw_only=True):
    """What came of one attempt.

    Attributes:
        judged: The objectives that the action itself was given.
    """

    outcome: Outcome = Outcome.PASSED
    result: Any = None
    headline: str = ""
    message: str = ""
    hint: str = ""
    answered: bool = False
    judged: list[Judged] = []

    def failing(self, message: str, hint: str = "") -> Attempt:
        """The same attempt, found wanting; what was measured is kept."""
        return replace(self, outcome=Outcome.FAILED, message=message, hint=hint)

    def unresolved(self, error: ExpressionFailed) -> Attempt:
        """The same attempt, of which an expression could not be evaluated; what it could not see is unknown."""
        attempt = self.failing(error.message, error.hint)
        if isinstance(error, Inapplicable):
            return replace(attempt, outcome=Outcome.NOT_APPLICABLE)
        return replace(attempt, outcome=Outcome.UNKNOWN) if isinstance(error, NotWhole) else attempt


def observed(result: Any) -> Attempt:
    """An action returned."""
    if isinstance(result, Result):
        return Attempt(result=result, headline=result.headline(), answered=True, judged=result.judged())
    return Attempt(result=result, headline="" if result is None else short(result), answered=True)


def refused(error: BaseException, message: str, hint: str) -> Attempt:
    """An action raised; the kind of error says whether it failed or could not be seen.

    Raises:
        Interrupted, JournalLost: These end the run rather than the step.
    """
    match error:
        case Interrupted() | JournalLost():
            raise error
        case Unknown():
            outcome = Outcome.UNKNOWN
        case NotApplicable() | Inapplicable():
            outcome = Outcome.NOT_APPLICABLE
        case NotConfirmed():
            outcome = Outcome.NOT_CONFIRMED
        case _:
            outcome = Outcome.FAILED
    return Attempt(outcome=outcome, message=message, hint=hint, result=getattr(error, "result", None))


def judge(attempt: Attempt, expectations: Iterable[Expression], names: dict[str, Any]) -> Attempt:
    """Hold a result against its expectations; the first that is not true fails the attempt, and says what was found."""
    for expectation in expectations:
        try:
            if expectation.evaluate(names):
                continue
            found = operands(expectation, names)
            hidden = _unknowable(attempt.result, expectation)
            if hidden:
                message = f"expected {expectation.text}; it cannot be known here: {', '.join(hidden)}"
                return replace(attempt.failing(message), outcome=Outcome.UNKNOWN)
            unmeasured = _unmeasured(attempt.result) if any(each.endswith(_NOTHING) for each in found) else ""
            says = [f"expected {expectation.text}", *([f"found {'; '.join(found)}"] if found else [])]
            return attempt.failing("; ".join([*says, *([f"not measured: {unmeasured}"] if unmeasured else [])]))
        except ExpressionFailed as error:
            return attempt.unresolved(error)
    return attempt


def _unknowable(result: Any, expectation: Expression) -> list[str]:
    """The fields that an expectation builds on and that cannot be known."""
    hidden = result.unknowable if isinstance(result, Result) else frozenset()
    named = [each.path[0] for each in expectation.syntax.references if each.name == "result" and each.path]
    return [name for name in named if name in hidden and getattr(result, name) is None]


def _unmeasured(result: Any) -> str:
    """Why figures of a result are missing, where it says so; empty elsewhere."""
    return str(getattr(result, "not_measured", "") or "") if isinstance(result, Result) else ""


def held(attempt: Attempt) -> Attempt:
    """Hold a result against the objectives of its own action: one missed, or not measured, fails the attempt."""
    missed = [f"missed: {each.objective} ({each.says})" for each in attempt.judged if each.met is False]
    unseen = [each for each in attempt.judged if each.met is None and not each.excused]
    ways = [*missed, *(f"not measured: {each.objective} ({each.says})" for each in unseen)]
    return attempt.failing("; ".join(ways)) if ways else attempt


def operands(expression: Expression, names: dict[str, Any]) -> list[str]:
    """The values that an expression was made of: `result.rows = 12`."""
    from k2run.language.expressions import Expression as Compiled

    found: dict[str, str] = {}
    for reference in expression.syntax.references:
        operand = _written(reference, expression.text)
        if operand and operand not in found:
            with suppress(K2runError):
                found[operand] = f"{operand} = {short(Compiled(operand, expression.place).evaluate(names))}"
    return list(found.values())


def _written(reference: Reference, text: str) -> str:
    """A reference as the author wrote it, without a method at its end; empty for a function."""
    path, offsets = reference.path, reference.offsets
    while path and path[-1] in METHODS:
        path, offsets = path[:-1], offsets[:-1]
    if reference.called:
        return ""
    at = offsets[len(path)]
    end = (text.find("]", at) + 1 or at) if path and path[-1] == ITEM else at + len((reference.name, *path)[-1])
    return text[offsets[0] : end]


def figures_in(result: Any) -> dict[str, Any] | None:
    """The single values of a result, for the record of an attempt: rows and bodies would be repeated with each."""
    if not isinstance(result, Result):
        return None
    return {name: value for name, value in result.plain().items() if isinstance(value, int | float | str)}


def short(value: Any) -> str:
    """A value on one line."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else f"{value:,}" if type(value) is int else f"{value!r}"
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


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

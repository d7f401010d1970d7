"""One attempt of one action, and what is expected of its result."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from k2run.actions.action import Judged, Result
from k2run.engine.events import Outcome
from k2run.errors import (
    ExpressionFailed,
    Interrupted,
    JournalLost,
    K2runError,
    NotApplicable,
    NotConfirmed,
    Unknown,
)
from k2run.language.syntax import ITEM
from k2run.language.words import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.language.expressions import Expression
    from k2run.language.syntax import Reference

_SHOWN = 80


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
        case NotApplicable():
            outcome = Outcome.NOT_APPLICABLE
        case NotConfirmed():
            outcome = Outcome.NOT_CONFIRMED
        case _:
            outcome = Outcome.FAILED
    return Attempt(outcome=outcome, message=message, hint=hint)


def judge(attempt: Attempt, expectations: Iterable[Expression], names: dict[str, Any]) -> Attempt:
    """Hold a result against its expectations; the first that is not true fails the attempt, and says what was found."""
    for expectation in expectations:
        try:
            if expectation.evaluate(names):
                continue
            found = "; ".join(operands(expectation, names))
            message = f"expected {expectation.text}" + (f"; found {found}" if found else "")
            hint = ""
        except ExpressionFailed as error:
            message, hint = error.message, error.hint
        return attempt.failing(message, hint)
    return attempt


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
    end = text.index("]", at) + 1 if path and path[-1] == ITEM else at + len((reference.name, *path)[-1])
    return text[offsets[0] : end]


def figures_in(result: Any) -> dict[str, Any] | None:
    """The single values of a result, for the record of an attempt: rows and bodies would be repeated with each."""
    if not isinstance(result, Result):
        return None
    return {name: value for name, value in result.plain().items() if isinstance(value, int | float | str)}


def short(value: Any) -> str:
    """A value on one line."""
    text = value if isinstance(value, str) else f"{value:,}" if type(value) is int else f"{value!r}"
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"

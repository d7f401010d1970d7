"""Why an expression could not be evaluated, in words for the person who reads the failed step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.utils import missing
from msgspec import Struct

from k2run.language.evaluation import Missing, compiled
from k2run.language.problems import did_you_mean
from k2run.language.quantities import UnitMismatch
from k2run.language.syntax import ITEM, read_expression
from k2run.language.words import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable


def explain(error: Exception, text: str, scope: Mapping[str, Any]) -> tuple[str, str]:
    """The reason (one clause) and a hint.

    Args:
        error: What evaluating the expression raised.
        text: The expression.
        scope: The names it had.
    """
    if isinstance(error, UndefinedError):
        return _missing(text, scope) or (str(error), "")
    if isinstance(error, TemplateSyntaxError):
        fault = next(iter(read_expression(text).faults), None)
        return (fault.message, fault.hint) if fault else (str(error), "")
    if isinstance(error, SecurityError | UnitMismatch):
        return str(error), ""
    if isinstance(error, TypeError):
        return _types(text, scope) or str(error), ""
    return _otherwise(error)


def _otherwise(error: Exception) -> tuple[str, str]:
    """What Python says too briefly, or in words of its own."""
    match error:
        case ZeroDivisionError():
            return "division by zero", "guard it: (a / b) if b else …"
        case OverflowError():
            return "the number is too large", ""
        case RecursionError() | MemoryError() | SyntaxError():
            return "it is too long, too deep or makes too much", "compute it in several steps, with `set`"
    return f"{error}" or type(error).__name__, ""


def _missing(text: str, scope: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first path of the expression that leads nowhere."""
    for reference in read_expression(text).references:
        if reference.called:
            if reference.name not in FUNCTIONS:
                return f"`{reference.name}` is not a function", did_you_mean(reference.name, FUNCTIONS)
            continue
        if reference.name not in scope:
            return f"`{reference.name}` has no value here", did_you_mean(reference.name, scope)
        path = reference.name
        for step in reference.path:
            if step == ITEM:
                break
            owner = _value(path, scope)
            path = f"{path}.{step}"
            if isinstance(_value(path, scope), Missing):
                return f"`{path}` does not exist: {_described(owner)}", did_you_mean(step, _names(owner))
    return None


def _value(text: str, scope: Mapping[str, Any]) -> Any:
    try:
        return compiled(text)(scope)
    except Exception:  # noqa: BLE001 - this is already the search for a reason
        return Missing(name=text, obj=missing)


def _names(owner: Any) -> Iterable[str]:
    if isinstance(owner, Mapping):
        return [str(key) for key in owner]
    return owner.__struct_fields__ if isinstance(owner, Struct) else ()


def _described(owner: Any) -> str:
    names = list(_names(owner))
    if names:
        return f"there are {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"  # noqa: PLR2004 - a line's worth
    return "its owner is none" if owner is None else f"its owner is {owner!r:.60}"


def _types(text: str, scope: Mapping[str, Any]) -> str:
    """For an operation on values that do not fit: which values those were."""
    shown = []
    for reference in read_expression(text).references:
        if reference.called or ITEM in reference.path:
            continue
        path = ".".join((reference.name, *reference.path))
        value = _value(path, scope)
        shown.append(f"`{path}` is {'none' if value is None else repr(value)[:60]}")
    return "the values do not fit the operation: " + ", ".join(dict.fromkeys(shown)) if shown else ""

"""The values of a runbook's inputs: given with `-e`, or their defaults, each converted to its declared type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.errors import UsageError
from k2run.language.quantities import Duration, Size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from k2run.language.model import Input, Runbook


def _boolean(text: Any) -> bool:
    if isinstance(text, bool):
        return text
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if str(text).lower() in words:
        return words[str(text).lower()]
    raise ValueError(f"expected true or false, found {text!r}")


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "string": str,
    "secret": str,
    "enum": str,
    "integer": int,
    "number": float,
    "boolean": _boolean,
    "duration": Duration.parse,
    "size": Size.parse,
}


def resolve_inputs(runbook: Runbook, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every input.

    Args:
        runbook: Declares them.
        extra: What was given with `-e`; names that are neither an input nor a variable are refused.

    Raises:
        UsageError: A value is missing, unknown or of the wrong type.
    """
    declared = {entry.name: entry for entry in runbook.inputs}
    known = {*declared, *runbook.vars, *(name for section in runbook.sections for name in section.vars)}
    for name in extra:
        if name not in known:
            raise UsageError(f"-e {name}: the runbook has no such input or variable", hint=_nearest(name, known))
    values: dict[str, Any] = {}
    for name, entry in declared.items():
        if name in extra:
            values[name] = _convert(entry, extra[name])
        elif entry.required:
            raise UsageError(f"the input {name!r} has no value", hint=f"give it with -e {name}=…  ({entry.help})")
        else:
            values[name] = entry.default if entry.default is None else _convert(entry, entry.default)
    return values


def _convert(entry: Input, value: Any) -> Any:
    try:
        converted = _CONVERT[entry.type](value)
    except (ValueError, TypeError) as error:
        raise UsageError(f"-e {entry.name}={value}: not of type {entry.type}: {error}", hint=entry.help) from error
    if entry.choices and converted not in entry.choices:
        raise UsageError(f"-e {entry.name}={value}: not one of {', '.join(entry.choices)}", hint=entry.help)
    return converted


def _nearest(name: str, known: set[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(known)) or 'none'}"

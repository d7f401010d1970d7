"""The values of a runbook's inputs: given with `-e`, or their defaults, each converted to its declared type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.errors import UsageError
from k2run.language.quantities import Duration, Size
from k2run.stack.redactor import MASK
from k2run.stack.secrets import is_secret, read_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from k2run.language.model import Input, Runbook
    from k2run.stack.stack import Stack


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


def resolve_inputs(runbook: Runbook, extra: Mapping[str, Any], stack: Stack | None = None) -> dict[str, Any]:
    """The value of every input; secrets are read from where they are, and masked from then on.

    Args:
        runbook: Declares them.
        extra: What was given with `-e`; names that are neither an input nor a variable are refused.
        stack: Masks secrets; without one they stay references.

    Raises:
        UsageError: A value is missing, unknown or of the wrong type.
        StackInvalid: A secret cannot be read.
    """
    declared = {entry.name: entry for entry in runbook.inputs}
    known = {*declared, *runbook.vars, *(name for section in runbook.sections for name in section.vars)}
    for name in extra:
        if name not in known:
            raise UsageError(
                f"{name}: the runbook {runbook.name} has no such input or variable", hint=_nearest(name, known)
            )
    values: dict[str, Any] = {}
    for name, entry in declared.items():
        if name in extra:
            values[name] = convert(entry, extra[name])
        elif entry.required:
            raise UsageError(f"the input {name!r} has no value", hint=f"give it with -e {name}=…  ({entry.help})")
        else:
            values[name] = entry.default if entry.default is None else convert(entry, entry.default)
        if entry.type == "secret" and stack is not None and values[name] is not None:
            values[name] = _reveal(values[name], runbook, stack)
    return values


def restore_inputs(
    runbook: Runbook, recorded: Mapping[str, Any], extra: Mapping[str, Any], stack: Stack
) -> dict[str, Any]:
    """The inputs of a run that goes on: as its journal has them, and secrets, which it does not have, once more.

    Raises:
        UsageError: A secret was given by hand and must be given again.
    """
    declared = {entry.name: entry for entry in runbook.inputs}
    secrets = {name for name, entry in declared.items() if entry.type == "secret"}
    for name in secrets:
        if recorded.get(name) is not None and name not in extra and _default(runbook, name) is None:
            raise UsageError(f"the secret input {name!r} is not kept with the run", hint=f"give it again: -e {name}=…")
    known = {
        name: Duration(value) if name in declared and declared[name].type == "duration" else value  # kept as seconds
        for name, value in recorded.items()
        if name not in secrets and value is not None
    }
    given = {name: value for name, value in extra.items() if name in secrets}
    return resolve_inputs(runbook, {**known, **given}, stack)


def shown_inputs(runbook: Runbook, values: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as a journal may have them: of a secret only that there is one."""
    secrets = {entry.name for entry in runbook.inputs if entry.type == "secret"}
    return {name: MASK if name in secrets and value is not None else value for name, value in values.items()}


def shown_extra(runbook: Runbook, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What was given with `-e` as a journal may have it: a secret only by where it is."""
    secrets = {entry.name for entry in runbook.inputs if entry.type == "secret"}
    return {name: value for name, value in extra.items() if name not in secrets or is_secret(str(value))}


def has_secret_inputs(runbook: Runbook) -> bool:
    """Whether it, or a runbook that it runs, takes a secret."""
    return any(entry.type == "secret" for entry in runbook.inputs) or any(map(has_secret_inputs, runbook.runs.values()))


def _default(runbook: Runbook, name: str) -> Any:
    return next(entry.default for entry in runbook.inputs if entry.name == name)


def _reveal(value: str, runbook: Runbook, stack: Stack) -> str:
    """The secret itself, which no record will show."""
    secret = read_secret(value, near=Path(runbook.home)) if is_secret(value) else value
    stack.redact.add(secret)
    return secret


def convert(entry: Input, value: Any) -> Any:
    """A value as one of the declared type.

    Raises:
        UsageError: It does not fit.
    """
    try:
        converted = _CONVERT[entry.type](value)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"the input {entry.name}={value}: not of type {entry.type}: {error}", hint=entry.help
        ) from error
    if entry.choices and converted not in entry.choices:
        raise UsageError(f"the input {entry.name}={value}: not one of {', '.join(entry.choices)}", hint=entry.help)
    return converted


def _nearest(name: str, known: set[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(known)) or 'none'}"

"""The values of a runbook's inputs: given with `-e`, or their defaults, each converted to its declared type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.engine.masking import BY_HAND
from k2run.errors import UsageError
from k2run.language.inputs import input_value
from k2run.language.quantities import QUANTITIES, Duration
from k2run.stack.redactor import MASK
from k2run.stack.secrets import Reference, as_text, as_written, check_long_enough, is_secret, read_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k2run.language.model import Input, Runbook
    from k2run.stack.stack import Stack


def resolve_inputs(runbook: Runbook, extra: Mapping[str, Any], stack: Stack | None = None) -> dict[str, Any]:
    """The value of every input; secrets are read from where they are, and masked from then on.

    Args:
        runbook: Declares them.
        extra: What was given; names that are neither an input nor a variable are refused. A secret is read from
            where it is only for a `Reference`; a text is the secret itself.
        stack: Masks secrets; without one they stay references.

    Raises:
        UsageError: A value is missing, unknown or of the wrong type, or a text names a place to read a secret from.
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
    if stack is not None:
        stack.redact.publish(runbook.source)
    for name, entry in declared.items():
        if name not in extra and entry.required:
            raise UsageError(f"the input {name!r} has no value", hint=f"give it with -e {name}=…  ({entry.help})")
        given = extra[name] if name in extra else as_written(entry.default)
        if given is None and name not in extra:
            values[name] = None
        elif entry.type == "secret" and stack is not None:
            values[name] = _reveal(name, given, runbook, stack)
        else:
            values[name] = convert(entry, given)
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
        name: recorded_input(declared[name], value) if name in declared else value
        for name, value in recorded.items()
        if name not in secrets and value is not None
    }
    given = {name: value for name, value in extra.items() if name in secrets}
    return resolve_inputs(runbook, {**known, **given}, stack)


def recorded_input(entry: Input, value: Any) -> Any:
    """An input as its run had it, from what its journal has: a duration of older journals is a number of seconds."""
    if value is None:
        return None
    return Duration(value) if entry.type == "duration" and isinstance(value, int | float) else convert(entry, value)


def shown_inputs(runbook: Runbook, values: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as a journal may have them: of a secret only that there is one."""
    secrets = {entry.name for entry in runbook.inputs if entry.type == "secret"}
    shown = {name: MASK if name in secrets and value is not None else value for name, value in values.items()}
    return {name: value.exact() if isinstance(value, QUANTITIES) else value for name, value in shown.items()}


def shown_extra(runbook: Runbook, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What was given with `-e` as a journal may have it: a secret only by where it is."""
    secrets = {entry.name for entry in runbook.inputs if entry.type == "secret"}
    return {
        name: as_text(value) for name, value in extra.items() if name not in secrets or isinstance(value, Reference)
    }


def recorded_extra(runbook: Runbook, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What `shown_extra` has kept, as it was given: only what an operator wrote stands there for a secret."""
    secrets = {entry.name for entry in runbook.inputs if entry.type == "secret"}
    return {name: as_written(value) if name in secrets else value for name, value in recorded.items()}


def _default(runbook: Runbook, name: str) -> Any:
    return next(entry.default for entry in runbook.inputs if entry.name == name)


def _reveal(name: str, given: Any, runbook: Runbook, stack: Stack) -> str:
    """The secret itself, which no record will show."""
    if isinstance(given, Reference):
        secret, source = read_secret(given.text, near=Path(runbook.home)), given.text
    else:
        secret, source = str(given), f"{BY_HAND}{name}"
        check_long_enough(secret, f"given for the input {name!r}")
        if is_secret(secret):
            raise UsageError(
                f"the secret input {name!r} was given the name of a place ({secret.partition(':')[0]}:…) as its value",
                hint="a place is read only from the default in the runbook or from `-e` on a terminal",
            )
    stack.redact.add(secret, source)
    return secret


def convert(entry: Input, value: Any) -> Any:
    """A value as one of the declared type.

    Raises:
        UsageError: It does not fit.
    """
    value = as_text(value)
    try:
        return input_value(entry, value)
    except ValueError as error:
        raise UsageError(f"the input {entry.name}={value}: {error}", hint=entry.help) from error


def _nearest(name: str, known: set[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(known)) or 'none'}"

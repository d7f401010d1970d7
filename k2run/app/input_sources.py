"""The inputs of a run: from a file, from `-e`, and asked for on the terminal when a required one is missing."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.engine.input_values import convert, recorded_input
from k2run.errors import UsageError
from k2run.language.document import read_file
from k2run.stack.secrets import as_written

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TextIO

    from k2run.language.model import Input, Runbook


def read_inputs(path: str) -> dict[str, Any]:
    """The values in a file of inputs: a mapping in YAML (or JSON).

    Raises:
        UsageError: It is not there, cannot be read, or is no mapping.
    """
    document = read_file(Path(path))
    if document.problems or not isinstance(document.data, dict):
        reason = document.problems[0].message if document.problems else "it is no mapping of names to values"
        raise UsageError(f"{path} has no inputs: {reason}", hint="write one `name: value` a line")
    return {str(name): value for name, value in document.data.items()}


def ask_missing(
    runbook: Runbook,
    given: Mapping[str, Any],
    *,
    reads: TextIO | None = None,
    writes: TextIO | None = None,
    hidden: Callable[[str], str] = getpass.getpass,
) -> dict[str, Any]:
    """The given values and those of required inputs that are missing, asked for one by one until they fit.

    Args:
        runbook: Declares the inputs.
        given: What is known already.
        reads: Where answers come from.
        writes: Where questions go.
        hidden: Asks for a secret without showing what is typed.
    """
    values = dict(given)
    for entry in runbook.inputs:
        if entry.required and entry.name not in values:
            values[entry.name] = _ask(entry, reads or sys.stdin, writes or sys.stderr, hidden)
    return values


def given_again(runbook: Runbook, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values given to a resumed run: its secrets, and nothing that it has kept and computed with.

    Args:
        runbook: Declares the inputs.
        recorded: The inputs as the run's journal has them.
        given: With `-e` or in a file, which may repeat the inputs of the run.

    Raises:
        UsageError: An input is to change in the middle of the run.
    """
    declared = {entry.name: entry for entry in runbook.inputs}
    for name, value in given.items():
        entry = declared.get(name)
        if entry is None or (
            entry.type != "secret" and convert(entry, value) != recorded_input(entry, recorded.get(name))
        ):
            kept = f", where {name} is {recorded[name]}" if name in recorded else ""
            raise UsageError(
                f"{name} cannot be given to a resumed run",
                hint=f"it keeps what it began with{kept}; only secret inputs are given again",
            )
    return {name: value for name, value in given.items() if declared[name].type == "secret"}


def _is_again(entry: Input, value: Any, recorded: Any) -> bool:
    """Whether a value is a secret, which no journal has, or what the run began with."""
    return entry.type == "secret" or convert(entry, value) == recorded_input(entry, recorded)


def ask_again(
    runbook: Runbook,
    recorded: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    hidden: Callable[[str], str] = getpass.getpass,
) -> dict[str, Any]:
    """The given values and the secrets that a run had, does not keep, and cannot find again: asked for.

    Args:
        runbook: Declares the inputs.
        recorded: The inputs as the run's journal has them.
        given: What is known already.
        hidden: Asks for a secret without showing what is typed.
    """
    values = dict(given)
    for entry in runbook.inputs:
        lost = entry.type == "secret" and entry.default is None and recorded.get(entry.name) is not None
        if lost and entry.name not in values:
            values[entry.name] = _ask(entry, sys.stdin, sys.stderr, hidden)
    return values


def _ask(entry: Input, reads: TextIO, writes: TextIO, hidden: Callable[[str], str]) -> Any:
    kind = "/".join(entry.choices) or entry.type
    question = f"{entry.name} ({kind}){f', {entry.help}' if entry.help else ''}: "
    while True:
        if entry.type == "secret":
            typed = hidden(question)
        else:
            print(question, end="", file=writes, flush=True)
            typed = reads.readline()
        if not typed:
            raise UsageError(f"the input {entry.name!r} has no value", hint=f"give it with -e {entry.name}=…")
        try:
            convert(entry, typed.strip())
        except UsageError as error:
            print(f"  {error.message}", file=writes)
        else:
            return as_written(typed.strip())

"""Runs as processes of their own: a run continues when the process that started it dies."""

from __future__ import annotations

import subprocess
import sys
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from k2run.errors import UsageError
from k2run.stack.secrets import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import TextIO

GIVEN = "--given"
"""The option with which a run takes its inputs from standard input."""


class Order(Struct, frozen=True, kw_only=True):
    """A run that is to be started.

    Attributes:
        by: Who asks for it, for its journal.
        inputs: Values, and what the author of a schedule wrote as a `Reference`.
        inbox: Questions are answered through the run's inbox; otherwise there are no prompts.
    """

    runbook: Path
    stack: str
    by: str
    inputs: Mapping[str, Any] = {}
    tags: tuple[str, ...] = ()
    inbox: bool = False


def command_of(order: Order) -> list[str]:
    """The command line that does it; values come apart from it, on standard input."""
    words = [sys.executable, "-m", "k2run", "run", str(order.runbook), "--json", f"--by={order.by}"]
    words += [f"--stack={order.stack}"] if order.stack else []
    words += [f"--tags={','.join(order.tags)}"] if order.tags else []
    words += ["--inbox" if order.inbox else "--unattended"]
    return [*words, *(f"-e={name}={value}" for name, value in order.inputs.items() if isinstance(value, Reference))]


def start_detached(order: Order, home: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a run in a session of its own; signals for this process do not reach it.

    Args:
        order: What to run.
        home: The k2run home.
        log: Where its events and messages go.
    """
    values = {name: as_word(value) for name, value in order.inputs.items() if not isinstance(value, Reference)}
    return spawn(command_of(order), home, log, values)


def spawn(
    command: Sequence[str], home: Path, log: Path, values: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own.

    Args:
        command: Its words.
        home: The k2run home.
        log: Where what it prints goes.
        values: Inputs of the run. They do not stand on the command line, which everybody on the machine can read, and
            where a text could name a place to read a secret from.
    """
    import os

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output, TemporaryFile() as given:
        given.write(msgspec.json.encode(values or {}))
        given.seek(0)
        return subprocess.Popen(
            [*command, *([GIVEN] if values else [])],
            stdin=given,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "K2RUN_HOME": str(home)},
            start_new_session=True,
        )


def read_given(reads: TextIO) -> dict[str, str]:
    """The values that `spawn` hands to a run: texts, each of them the value itself.

    Raises:
        UsageError: They are something else.
    """
    try:
        return msgspec.json.decode(reads.read(), type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{GIVEN}: no values on standard input: {error}", hint='it takes what programs hand over: {"name": "value"}'
        ) from error


def last_words(log: Path, lines: int = 4) -> str:
    """What a run that never began said at the end of its log."""
    try:
        return "; ".join(log.read_text(errors="replace", encoding="utf-8").strip().splitlines()[-lines:])
    except OSError:
        return ""


def as_word(value: Any) -> str:
    """A value as an input takes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

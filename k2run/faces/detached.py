"""Runs as processes of their own: whoever starts one may die, and the run goes on."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Order(Struct, frozen=True, kw_only=True):
    """A run that is to be started.

    Attributes:
        by: Who asks for it, for its journal.
        inbox: Questions are answered through the run's inbox; otherwise nobody is asked.
    """

    runbook: Path
    stack: str
    by: str
    inputs: Mapping[str, Any] = {}
    tags: tuple[str, ...] = ()
    inbox: bool = False


def command_of(order: Order) -> list[str]:
    """The command line that does it."""
    words = [sys.executable, "-m", "k2run", "run", str(order.runbook), "--json", f"--by={order.by}"]
    words += [f"--stack={order.stack}"] if order.stack else []
    words += [f"--tags={','.join(order.tags)}"] if order.tags else []
    words += ["--inbox" if order.inbox else "--unattended"]
    return [*words, *(f"-e={name}={as_word(value)}" for name, value in order.inputs.items())]


def start_detached(order: Order, home: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a run in a session of its own; signals for this process do not reach it.

    Args:
        order: What to run.
        home: The k2run home.
        log: Where its events and messages go.
    """
    return spawn(command_of(order), home, log)


def spawn(command: Sequence[str], home: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own.

    Args:
        command: Its words.
        home: The k2run home.
        log: Where what it prints goes.
    """
    import os

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "K2RUN_HOME": str(home)},
            start_new_session=True,
        )


def last_words(log: Path, lines: int = 4) -> str:
    """What a run that never began said at the end of its log."""
    try:
        return "; ".join(log.read_text(errors="replace").strip().splitlines()[-lines:])
    except OSError:
        return ""


def as_word(value: Any) -> str:
    """A value as `-e` takes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

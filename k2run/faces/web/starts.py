"""Starts runs as processes of their own, which neither need the server nor end with it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from secrets import token_hex
from typing import TYPE_CHECKING

import msgspec

from k2run.engine.events import AnyEvent, RunStarted
from k2run.errors import OperatorError
from k2run.faces.detached import spawn

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.engine.store import Store

PATIENCE_S = 20.0
"""Seconds in which a process must have begun its run, or said why it cannot."""
LOOK_S = 0.05
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


async def start(store: Store, words: Sequence[str]) -> str:
    """Start `k2run run …` and wait until the run has begun.

    Args:
        store: The k2run home.
        words: The command line from `run` on, without how it is to report.

    Returns:
        The run's id.

    Raises:
        OperatorError: It did not begin; the message is the command's own.
    """
    process, log = _begin(store, [*words, "--json"])
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        run = _begun(log)
        if run:
            return run
        if process.poll() is not None:
            run = _begun(log)
            if run:
                return run
            raise OperatorError(_said(log) or f"the command ended with {process.returncode}")
        await asyncio.sleep(LOOK_S)
    raise OperatorError(f"the run did not begin within {PATIENCE_S:g}s", hint=f"see {log}")


async def carry_on(store: Store, words: Sequence[str], ready: float) -> None:
    """Start `k2run resume …` or `k2run undo …`, and give it a moment to refuse.

    Args:
        store: The k2run home.
        words: The command line.
        ready: Seconds after which it counts as on its way.

    Raises:
        OperatorError: It refused; the message is the command's own.
    """
    process, log = _begin(store, words)
    end = time.monotonic() + ready
    while time.monotonic() < end:
        if process.poll() is not None:
            if process.returncode:
                raise OperatorError(_said(log) or f"the command ended with {process.returncode}")
            return
        await asyncio.sleep(LOOK_S)


def _begin(store: Store, words: Sequence[str]) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a command in a session of its own, with what it prints in a file."""
    log = store.home / "serve" / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{token_hex(4)}.log"
    process = spawn([sys.executable, "-m", "k2run", *words], store.home, log)
    threading.Thread(target=process.wait, name=f"reaper of {process.pid}", daemon=True).start()
    return process, log


def _begun(log: Path) -> str:
    """The id of the run whose first event is in the log."""
    for line in log.read_bytes().splitlines():
        try:
            event = _decoder.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(event, RunStarted):
            return event.run
    return ""


def _said(log: Path) -> str:
    """What a command said before it gave up, without the events."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line and not line.startswith("{")]
    return " ".join(line.strip() for line in lines[-6:]).removeprefix("error: ")

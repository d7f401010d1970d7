"""Turns SIGINT, SIGTERM and SIGHUP into a request that the run ends in good order."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Self

from k2run.heard_signals import listen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 3
"""The third signal gives up what still runs: undos that were not played stay on record for `k2run undo`."""


_REQUESTER = "stop-requested-by"


def sign_request(folder: Path, name: str) -> None:
    """Leave, before a run is signalled, the name of who wants it to end; the run puts it into its journal."""
    (folder / _REQUESTER).write_text(name)


def requester(folder: Path) -> str:
    """Who asked the run to end; empty when nobody left a name. The note is taken away."""
    note = folder / _REQUESTER
    try:
        name = note.read_text().strip()
        note.unlink()
    except OSError:
        return ""
    return name


class StopRequest:
    """Listens for signals while a run goes on; works in the main thread only, elsewhere it does nothing.

    A hangup that k2run was started to ignore (`nohup`) stays ignored.

    Attributes:
        run: Set by the first signal: the sections end.
        cleanup: Set by the third signal: `always` steps and undos end too.
        name: The first signal's name.
        count: Signals so far.
    """

    def __init__(self) -> None:
        self.run = threading.Event()
        self.cleanup = threading.Event()
        self.name = ""
        self.count = 0
        self._end: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            self._end = listen([each for each in STOP_SIGNALS if each is not signal.SIGHUP or not outlives], self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._end is not None:
            self._end()

    def _hear(self, number: signal.Signals) -> None:
        self.count += 1
        self.name = self.name or number.name
        self.run.set()
        if self.count >= PATIENCE:
            self.cleanup.set()

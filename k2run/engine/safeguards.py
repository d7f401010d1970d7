"""What keeps the undo of a run from being cut off: signals become requests to end; what is done for people may fail."""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeVar

from k2run.errors import K2runError
from k2run.signals import has_terminal, leave_the_group_of_the_terminal, listen
from k2run.stack.redactor import unsecret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALWAYS_HEARD = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Also where k2run was started to ignore them: a script's shell ignores the first two for what it starts with `&`."""
STOP_SIGNALS = (
    *ALWAYS_HEARD, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU
)  # fmt: skip
PATIENCE = 3
"""The third signal gives up what still runs: undos that were not played stay on record for `k2run undo`."""
ONE_WAVE_S = 0.5
"""Signals within this time are one request: `timeout`, `uv run` and a shell whose terminal is closed send several."""


_REQUESTER = "stop-requested-by"


def sign_request(folder: Path, name: str) -> None:
    """Leave, before a run is signalled, the name of who wants it to end; the run puts it into its journal."""
    (folder / _REQUESTER).write_text(name, encoding="utf-8")


def requester(folder: Path) -> str:
    """Who asked the run to end; empty without a name. The note is taken away."""
    note = folder / _REQUESTER
    try:
        name = note.read_text(encoding="utf-8").strip()
        note.unlink()
    except OSError:
        return ""
    return name


class StopRequest:
    """Listens for signals while a run goes on; works in the main thread only, elsewhere it does nothing.

    A signal that k2run was started to ignore (`nohup`) stays ignored, but for those of `ALWAYS_HEARD`.

    Attributes:
        run: Set by the first signal: the sections end.
        cleanup: Set by the third signal: `always` steps and undos end too.
        name: The first signal's name.
        count: Requests so far; however often the terminal hangs up, that is one.
        say: Told, in a sentence, what the requests after the first one do.
    """

    def __init__(self) -> None:
        self.run = threading.Event()
        self.cleanup = threading.Event()
        self.name = ""
        self.count = 0
        self.say: Callable[[str], None] = lambda _text: None
        self._last = 0.0
        self._at_terminal = has_terminal() and not _is_ignored(signal.SIGHUP)
        self._leaving = threading.Lock()
        self._end: Callable[..., None] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heard = [each for each in STOP_SIGNALS if each in ALWAYS_HEARD or not _is_ignored(each)]
            self._end = listen(heard, self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._end is not None:  # a terminal that has hung up does so again while the reports are written
            self._end([signal.SIGHUP] if self.name == signal.SIGHUP.name else [])

    def leave_terminal(self) -> None:
        """Before anything is done for the end: have nothing more to do with a terminal that is gone."""
        with self._leaving:
            if self._at_terminal and not has_terminal():
                self._at_terminal = False
                self.name = self.name or signal.SIGHUP.name  # its signal may still be on the way
                self.run.set()
                leave_the_group_of_the_terminal()

    def _hear(self, number: signal.Signals) -> None:
        now = time.monotonic()
        again = self.count > 0
        if again and (number is signal.SIGHUP or now - self._last < ONE_WAVE_S):
            return
        self.leave_terminal()
        self._last = now
        self.count += 1
        self.name = self.name or number.name
        self.run.set()
        if self.count >= PATIENCE:
            self.cleanup.set()
        if again:
            # in a thread of its own: the next signal is heard whatever becomes of the words
            threading.Thread(target=self.say, args=(f"{number.name} received again",), daemon=True).start()


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


T = TypeVar("T")

TRACEBACKS = "debug.log"


class Wall:
    """Stands between one run and whatever writes for people beside its journal: faces, observers, guides, debug logs.

    Attributes:
        broken: What has failed so far, with its first reason.
    """

    def __init__(self, folder: Path, redact: Callable[[str], str] = str) -> None:
        self._log = folder / TRACEBACKS
        self._redact = redact
        self._lock = threading.Lock()
        self.broken: dict[str, str] = {}

    def beside(self, what: str, do: Callable[[], T], otherwise: T) -> T:
        """Do something for people; when it raises, that is kept, and the run gets `otherwise`."""
        try:
            return do()
        except BaseException as error:  # noqa: BLE001 - nothing that is done for people may end a run, not even by an exit
            self.fell(what, error)
            return otherwise

    def fell(self, what: str, error: BaseException) -> None:
        """Take note that something for people has failed; its first traceback is kept."""
        with self._lock:
            known = what in self.broken
            self.broken.setdefault(what, said(error))
        if not known:
            self.keep(error)

    def keep(self, error: BaseException) -> None:
        """Keep a traceback beside the journal, for whoever repairs k2run; where there is no room, it is lost."""
        with suppress(Exception), self._log.open("a", encoding="utf-8", errors="replace") as file:
            file.write(self._redact("".join(traceback.format_exception(error))) + "\n")


def aside(what: str, do: Callable[[], T], otherwise: T) -> T:
    """Do something for people after a run; when it raises, that is said on stderr, and `otherwise` is returned.

    Args:
        what: What could not be done, for the warning: `the report`.
        do: What is to be done.
        otherwise: Stands for its result.
    """
    try:
        return do()
    except Exception as error:  # noqa: BLE001 - the run has ended; its outcome no longer changes
        with suppress(Exception):
            print(f"warning: {what} failed: {unsecret(said(error))}", file=sys.stderr, flush=True)
        return otherwise


def said(error: BaseException) -> str:
    """An error in one sentence."""
    with suppress(Exception):
        text = str(error)
        if text and isinstance(error, K2runError):
            return text
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return type(error).__name__

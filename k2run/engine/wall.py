"""One wall around undo: what is done for people may fail, and keeps nothing from being done to the stack."""

from __future__ import annotations

import sys
import threading
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from k2run.errors import K2runError
from k2run.stack.redactor import unsecret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

TRACEBACKS = "debug.log"


class Wall:
    """Stands between one run and whatever writes for people beside its journal: faces, observers, guides, debug logs.

    Args:
        folder: The run's folder.
        redact: Takes secrets out of a text.

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

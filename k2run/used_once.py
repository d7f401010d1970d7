"""Marks that count once, or not any more: signatures of deliveries, sessions that were signed out."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from k2run.files import open_own, own_folder, read_own, rewritten

if TYPE_CHECKING:
    from pathlib import Path

KEPT = 100_000
"""Marks in memory; far more than can come within their time, at the rate that the guard lets through."""


class Spent:
    """Remembers marks for as long as they could be used again; a restarted server knows them too.

    Args:
        path: Where they are kept.
        seconds: How long.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._lock = threading.Lock()
        self._known = _read(path, time.time() - seconds)

    def __contains__(self, mark: str) -> bool:
        with self._lock:
            return time.time() - self._known.get(mark, 0.0) < self._seconds

    def take(self, mark: str) -> bool:
        """Spend a mark for now; whether it was still good. What comes of it is told by `keep` or `give_back`."""
        with self._lock:
            now = time.time()
            if now - self._known.get(mark, 0.0) < self._seconds:
                return False
            self._known.pop(mark, None)
            self._known[mark] = now
            oldest = next(iter(self._known))
            if len(self._known) > KEPT or now - self._known[oldest] > self._seconds:
                del self._known[oldest]
            return True

    def keep(self, mark: str) -> None:
        """Keep a spent mark beyond the life of this server; where nothing can be written, for as long as it lives."""
        with self._lock, suppress(OSError):
            own_folder(self._path.parent, self._path.parent.parent)
            with os.fdopen(open_own(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "w", encoding="utf-8") as out:
                out.write(f"{time.time():.0f} {mark}\n")

    def give_back(self, mark: str) -> None:
        """A mark with which nothing was done is good again."""
        with self._lock:
            self._known.pop(mark, None)


def _read(path: Path, since: float) -> dict[str, float]:
    """The marks that still matter; the others are taken out of the file."""
    try:
        lines = [line.split(" ", 1) for line in read_own(path).decode(errors="replace").splitlines()]
    except OSError:
        return {}
    whole = [line for line in lines if len(line) == 2 and line[0].isdecimal()]  # noqa: PLR2004 - a time and a mark
    fresh = {mark: float(at) for at, mark in whole if float(at) > since}
    if len(fresh) < len(lines):
        rewritten(path, "".join(f"{at:.0f} {mark}\n" for mark, at in fresh.items()).encode())
    return fresh

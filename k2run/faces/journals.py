"""The two ends of a journal: what a run was, and how it ended, without reading all between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from k2run.engine.events import AnyEvent, RunFinished, RunStarted
from k2run.engine.journal import JOURNAL

if TYPE_CHECKING:
    from pathlib import Path

_TAIL = 16 * 1024
"""Bytes at a journal's end that hold its last event."""
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def ends_of(folder: Path) -> tuple[RunStarted | None, RunFinished | None]:
    """The first event of a run and its last one, where it is over; None for what is not there or cannot be read."""
    try:
        with (folder / JOURNAL).open("rb") as file:
            first = _decode(file.readline())
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            last = _decode(file.read().rstrip(b"\n").rpartition(b"\n")[2])
    except OSError:
        return None, None
    return (first if isinstance(first, RunStarted) else None), (last if isinstance(last, RunFinished) else None)


def _decode(line: bytes) -> AnyEvent | None:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return None

"""Chooses the face for a stream; JSON lines for programs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, TextIO

import msgspec

from k2run.language.quantities import encode_quantity
from k2run.terminal.face import Face
from k2run.terminal.safe_stream import SafeStream

if TYPE_CHECKING:
    from k2run.engine.events import AnyEvent

Mode = Literal["auto", "live", "plain", "json"]


def open_face(mode: Mode, stream: TextIO) -> Face:
    """The face for a stream.

    Args:
        mode: `auto` is live on a terminal that can move its cursor, and plain everywhere else.
        stream: Where it writes.
    """
    if mode == "json":
        return JsonFace(stream)
    if mode == "live" or (mode == "auto" and _can_redraw(stream)):
        from k2run.terminal.live import LiveFace

        return LiveFace(stream)
    from k2run.terminal.plain import PlainFace

    return PlainFace(stream)


def _can_redraw(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}


class JsonFace(Face):
    """For programs.

    Args:
        stream: Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._outlet = SafeStream(stream)
        self._encoder = msgspec.json.Encoder(enc_hook=encode_quantity)

    def show(self, event: AnyEvent) -> None:
        """Write the event."""
        self._outlet.write(self._encoder.encode(event).decode())

    def remember(self, event: AnyEvent) -> None:
        """Nothing: each line stands for itself."""

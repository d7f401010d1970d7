"""The events themselves, one JSON object a line, as they stand in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import msgspec

from k2run.faces.terminal.face import Face
from k2run.faces.terminal.outlet import Outlet
from k2run.language.quantities import encode_quantity

if TYPE_CHECKING:
    from k2run.engine.events import AnyEvent


class JsonFace(Face):
    """For programs.

    Args:
        stream: Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._outlet = Outlet(stream)
        self._encoder = msgspec.json.Encoder(enc_hook=encode_quantity)

    def show(self, event: AnyEvent) -> None:
        """Write the event."""
        self._outlet.write(self._encoder.encode(event).decode())

    def remember(self, event: AnyEvent) -> None:
        """Nothing: each line stands for itself."""

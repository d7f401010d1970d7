"""A stream that may go away, or may not know every character: neither is the run's fault."""

from __future__ import annotations

import os
from typing import TextIO

_ASCII = str.maketrans({
    "✓": "+", "✗": "x", "·": "-", "…": "~", "≤": "<=", "∅": "/", "☐": "o", "■": "#", "▸": ">",
    "↯": "*", "↺": "<", "±": "+/-", "━": "=", "─": "-",
})  # fmt: skip


class Outlet:
    """Writes whole lines and flushes each batch, until the reader has gone.

    Args:
        stream: Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._closed = False

    def write(self, *lines: str) -> None:
        """Write lines; when nobody reads any more (a closed pipe, a full disk), say nothing from then on."""
        if self._closed or not lines:
            return
        text = "\n".join(lines) + "\n"
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.translate(_ASCII).encode("ascii", "replace").decode())
            self._stream.flush()
        except (OSError, ValueError):
            self._closed = True
            self._discard()

    def _discard(self) -> None:
        """What the stream still holds back would be written, and fail again, when the program ends."""
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            return

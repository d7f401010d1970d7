"""A stream that may close, or may not encode every character; neither may fail the run."""

from __future__ import annotations

import codecs
import os
import sys
from typing import Any, TextIO

PLAIN_SIGNS = "k2run.plain_signs"
"""The name under which a stream's `errors` finds it."""
_PLAIN = {
    "✓": "+", "✗": "x", "·": "-", "…": "~", "≤": "<=", "≥": ">=", "∅": "/", "☐": "o", "■": "#", "▸": ">",
    "↯": "*", "↺": "<", "±": "+/-", "━": "=", "─": "-", "→": "->", "\u00d7": "x", "µ": "u", "•": "*",
    "├": "+", "└": "+", "│": "|", **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
}  # fmt: skip


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """A sign that means nearly the same, else a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(PLAIN_SIGNS, _replaced)


def say(*lines: str) -> None:
    """Print lines for people, who may be gone: a run and its exit code do not depend on them.

    Whatever is printed about a stack or a run goes through here, `complain`, `say_json` or the face of the run: none of
    them shows a secret that this process has read.
    """
    from k2run.stack.redactor import unsecret_layout

    SafeStream(sys.stdout).write(*map(unsecret_layout, lines))


def complain(*lines: str) -> None:
    """The same, on stderr."""
    from k2run.stack.redactor import unsecret_layout

    SafeStream(sys.stderr).write(*map(unsecret_layout, lines))


def say_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    import msgspec

    from k2run.stack.redactor import unsecret_value

    SafeStream(sys.stdout).write(msgspec.json.encode(unsecret_value(value)).decode())


class SafeStream:
    """Writes whole lines and flushes each batch, until the reader has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._closed = False

    def write(self, *lines: str) -> None:
        """Write lines; after a failed write (a closed pipe, a full disk), write nothing more."""
        if self._closed or not lines:
            return
        text = "\n".join(lines) + "\n"
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", PLAIN_SIGNS).decode())
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

"""What a stream gets that does not know our signs, such as one of a system without UTF-8."""

from __future__ import annotations

import codecs

PLAIN_SIGNS = "k2run.ascii_signs"
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

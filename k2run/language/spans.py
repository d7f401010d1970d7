"""From a character of a YAML text value to the character of the file that wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yaml.nodes import ScalarNode

if TYPE_CHECKING:
    from yaml.nodes import Node

_BLANK = " \t\r\n"
_ESCAPES = {"x": 4, "u": 6, "U": 10}
"""Characters of a numeric escape in double quotes, backslash included."""


def token_length(text: str, node: Node, start: int) -> int:
    """Characters to underline from `start`: the rest of a scalar, the first key of a mapping, on its first line."""
    if isinstance(node, ScalarNode):
        end = node.end_mark.index
        if node.style in ("|", ">") and start == node.start_mark.index:
            end = start + 1
    elif text[start : start + 1] in ("{", "["):
        end = node.end_mark.index
    elif node.value:
        first = node.value[0]
        first = first[0] if isinstance(first, tuple) else first
        end = first.end_mark.index if isinstance(first, ScalarNode) else start + 1
    else:
        end = start + 1
    line_end = text.find("\n", start)
    return max(1, min(end, line_end if line_end >= 0 else len(text)) - start)


def inside(text: str, node: ScalarNode, at: int) -> int:
    """The offset in `text` of character `at` of the scalar's value."""
    start, end = node.start_mark.index, node.end_mark.index
    if node.style in ("'", '"'):
        start, end = start + 1, end - 1
    elif node.style in ("|", ">"):
        start = text.find("\n", start, end) + 1
    if text.startswith(node.value[: at + 1], start):
        return int(start + at)
    return min(_aligned(text, node, at, start), max(end - 1, start))


def _aligned(text: str, node: ScalarNode, at: int, start: int) -> int:
    """Walk value and source side by side through folding, indentation and escapes."""
    value, here = node.value, start
    for wanted in value[:at]:
        here = _find(text, wanted, here, node.style)
        here += _width(text, wanted, here, node.style)
    return _find(text, value[at], here, node.style) if at < len(value) else here


def _find(text: str, wanted: str, here: int, style: str) -> int:
    """Skip the indentation (and escaped line ends) that stand before the next character of the value."""
    while here < len(text) and text[here] != wanted:
        if style == '"' and text.startswith("\\\n", here):
            here += 2
        elif text[here] in _BLANK and wanted not in _BLANK:
            here += 1
        else:
            break
    return here


def _width(text: str, wanted: str, here: int, style: str) -> int:
    """How many characters of the source make one character of the value."""
    if style == '"' and text.startswith("\\", here):
        return _ESCAPES.get(text[here + 1 : here + 2], 2)
    if style == "'" and text.startswith("''", here):
        return 2
    if wanted in _BLANK and text[here : here + 1] in tuple(_BLANK) and text[here : here + 1] != wanted:
        end = here
        while end < len(text) and text[end] in _BLANK:
            end += 1
        return end - here
    return 1

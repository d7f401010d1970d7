"""Cuts a text into its literal pieces and the expressions between `{{` and `}}`."""

from __future__ import annotations

import re

from msgspec import Struct

_END = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\}\}|[{}]|\{\{""", re.DOTALL)
"""What matters while looking for the end: quoted texts are skipped, braces of mappings are counted."""


class Piece(Struct, frozen=True):
    """A literal text, or an expression.

    Attributes:
        at: Offset of its first character in the whole text.
    """

    text: str
    at: int
    is_expression: bool


class Cut(Struct, frozen=True):
    """A text in pieces.

    Attributes:
        unclosed: Offset of a `{{` without its `}}`, or -1.
        statement: Offset of a `{%`, or -1.
    """

    pieces: tuple[Piece, ...]
    unclosed: int = -1
    statement: int = -1


def cut(text: str) -> Cut:
    """Cut a text at its `{{ … }}`; a single blank inside the braces belongs to them."""
    pieces: list[Piece] = []
    here, statement = 0, -1
    while True:
        start = text.find("{{", here)
        literal = text[here:] if start < 0 else text[here:start]
        if "{%" in literal and statement < 0:
            statement = here + literal.index("{%")
        if literal:
            pieces.append(Piece(literal, here, is_expression=False))
        if start < 0:
            return Cut(tuple(pieces), statement=statement)
        end = _end(text, start + 2)
        if end < 0:
            return Cut((*pieces, Piece(text[start:], start, is_expression=False)), start, statement)
        inner = text[start + 2 : end]
        lead = len(inner) - len(inner.lstrip())
        pieces.append(Piece(inner.strip(), start + 2 + lead, is_expression=True))
        here = end + 2


def _end(text: str, here: int) -> int:
    """Offset of the `}}` that closes an expression, or -1."""
    depth = 0
    for token in _END.finditer(text, here):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
        elif token[0] == "}}":
            if depth <= 0:
                return token.start()
            depth -= 2
            if depth < 0:  # the first brace closed a mapping, the second is half of the end
                return token.start() + 1 if text.startswith("}", token.end()) else -1
    return -1

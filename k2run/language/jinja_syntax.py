"""Reads expressions with Jinja2's own parser: the last word on what is an expression."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jinja2 import TemplateSyntaxError, nodes
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser

from k2run.language.evaluation import environment
from k2run.language.syntax import ITEM, Fault, Findings, Reference, Syntax

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOO_DEEP = Fault("K401", "this expression is nested too deeply", 0, hint="split it with `set`")


def read_with_jinja(text: str) -> Syntax:
    """Read an expression; what is wrong with it stands in the faults."""
    try:
        reader = _Reader(text)
        reader.walk(parse(text))
        return reader.syntax()
    except TemplateSyntaxError as error:
        return Syntax(faults=(_explain(text, error),))
    except RecursionError:
        return Syntax(faults=(_TOO_DEEP,))
    except ValueError as error:  # a number of more digits than Python reads
        return Syntax(faults=(Fault("K401", f"a value cannot be read: {error}", 0, len(text)),))


def parse(text: str) -> nodes.Expr:
    """The expression as Jinja2's tree; `lineno` of every node is its offset in characters.

    Raises:
        TemplateSyntaxError: It is not one; `lineno` is the offset.
    """
    parser = Parser(environment(), "", state="variable")
    parser.stream = TokenStream(_tokens(text), None, None)
    expression = parser.parse_expression()
    if not parser.stream.eos:
        raise TemplateSyntaxError("chunk after expression", parser.stream.current.lineno)
    return expression


def _tokens(text: str) -> Iterator[Token]:
    """Tokens whose line number is their offset."""
    lexer = environment().lexer
    offset = 0
    try:
        for _, kind, value in lexer.tokeniter(text, None, None, "variable"):
            offset = text.find(value, offset)  # the lexer drops blanks at a line's end
            yield from lexer.wrap(iter([(offset, kind, value)]))
            offset += len(value)
    except (TemplateSyntaxError, ValueError) as error:
        message = getattr(error, "message", None) or str(error)
        raise TemplateSyntaxError(message, offset) from None


class _Reader(Findings):
    """Reads Jinja2's tree of an expression."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def _name_at(self, name: str, node: nodes.Node) -> int:
        """Where the name of an attribute or test begins; its node begins at the dot, or at `is`."""
        return max(self._text.find(name, node.lineno), 0)

    def walk(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.Name | nodes.Getattr | nodes.Getitem):
            self._path(node)
        elif isinstance(node, nodes.Call):
            self._call(node)
        else:
            if isinstance(node, nodes.Filter):
                self.filter(node.name, node.lineno)
            elif isinstance(node, nodes.Test):
                self.test(node.name, self._name_at(node.name, node))
            for child in node.iter_child_nodes():
                self.walk(child)

    def _path(self, node: nodes.Node) -> None:
        path: list[str] = []
        offsets: list[int] = []
        while isinstance(node, nodes.Getattr | nodes.Getitem):
            if isinstance(node, nodes.Getattr):
                offsets.append(self._name_at(node.attr, node))
                self.attribute(node.attr, offsets[-1])
                path.append(node.attr)
            else:
                offsets.append(node.lineno)
                self.walk(node.arg)
                path.append(ITEM)
            node = node.node
        if isinstance(node, nodes.Name):
            offsets.append(node.lineno)
            self.references.append(Reference(node.name, tuple(reversed(path)), tuple(reversed(offsets))))
        else:
            self.walk(node)

    def _call(self, node: nodes.Call) -> None:
        function = node.node
        if isinstance(function, nodes.Name):
            self.function(function.name, function.lineno)
        elif isinstance(function, nodes.Getattr):
            offset = self._name_at(function.attr, function)
            self.attribute(function.attr, offset)
            self.method(function.attr, offset)
            self._path(function.node)
        else:
            self.call(node.lineno)
            self.walk(function)
        for child in node.iter_child_nodes(exclude=("node",)):
            self.walk(child)


_LIKELY = (
    (re.compile(r"(?<![=!<>])=(?!=)"), "to compare, write =="),
    (re.compile(r"==="), "to compare, write =="),
    (re.compile(r"&&"), "write `and`"),
    (re.compile(r"\|\|"), "write `or`"),
    (re.compile(r"!(?!=)"), "write `not`"),
    (re.compile(r"<>"), "write !="),
    (re.compile(r"\b\d+(?:\.\d+)?[A-Za-z]+"), "quantities are written 500ms, 30s, 1m30s, 2h or 10MiB"),
)
"""Habits from other languages."""


def _explain(text: str, error: TemplateSyntaxError) -> Fault:
    offset = min(error.lineno or 0, max(len(text) - 1, 0))
    offset += len(text[offset:]) - len(text[offset:].lstrip())
    message = error.message or "not an expression"
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", lambda quoted: " " * len(quoted[0]), text)
    for pattern, hint in _LIKELY:
        if found := pattern.search(bare):
            return Fault("K401", f"`{found[0]}` means nothing here", found.start(), len(found[0]), hint)
    if not text.strip():
        return Fault("K401", "an expression is missing", 0)
    if unclosed := re.search(r"['\"]", bare):
        return Fault("K401", "this quote is never closed", unclosed.start(), hint="close it with the same quote")
    if offset >= len(text.rstrip()) - 1 or "end of" in message:
        offset = len(text.rstrip()) - 1
        if not re.match(r"unexpected '[^e]", message):
            wanted = re.search(r"expected ('[^']*')\.?$", message)
            more = f": expected {wanted[1]}".replace("'", "`") if wanted else ""
            return Fault("K401", f"the expression ends too early{more}", offset)
    word = re.compile(r"\w+").match(text, offset)
    return Fault("K401", _said(message), offset, len(word[0]) if word else 1)


def _said(message: str) -> str:
    if message == "chunk after expression":
        return "the expression ends before this"
    message = message.replace("end of print statement", "end of the expression").replace("'", "`")
    return f"not an expression: {message[:1].lower()}{message[1:]}"

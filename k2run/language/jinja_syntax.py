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
        reader = _Reader()
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
    for _, kind, value in lexer.tokeniter(text, None, None, "variable"):
        offset = text.find(value, offset)  # the lexer drops blanks at a line's end
        try:
            yield from lexer.wrap(iter([(offset, kind, value)]))
        except ValueError as error:
            raise TemplateSyntaxError(str(error), offset) from None
        offset += len(value)


class _Reader(Findings):
    def walk(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.Name | nodes.Getattr | nodes.Getitem):
            self._path(node)
        elif isinstance(node, nodes.Call):
            self._call(node)
        else:
            if isinstance(node, nodes.Filter):
                self.filter(node.name, node.lineno)
            elif isinstance(node, nodes.Test):
                self.test(node.name, node.lineno)
            for child in node.iter_child_nodes():
                self.walk(child)

    def _path(self, node: nodes.Node) -> None:
        path: list[str] = []
        offsets: list[int] = []
        while isinstance(node, nodes.Getattr | nodes.Getitem):
            offsets.append(node.lineno)
            if isinstance(node, nodes.Getattr):
                self.attribute(node.attr, node.lineno)
                path.append(node.attr)
            else:
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
            self.references.append(Reference(function.name, (), (function.lineno,), called=True))
        elif isinstance(function, nodes.Getattr):
            self.attribute(function.attr, function.lineno)
            self.method(function.attr, function.lineno)
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
)
"""Habits from other languages."""


def _explain(text: str, error: TemplateSyntaxError) -> Fault:
    offset = min(error.lineno or 0, max(len(text) - 1, 0))
    message = error.message or "not an expression"
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", lambda quoted: " " * len(quoted[0]), text)
    for pattern, hint in _LIKELY:
        if found := pattern.search(bare):
            return Fault("K401", f"`{found[0]}` means nothing here", found.start(), len(found[0]), hint)
    if not text.strip():
        return Fault("K401", "an expression is missing", 0)
    if unclosed := re.search(r"['\"]", bare):
        return Fault("K401", "this quote is never closed", unclosed.start(), hint="close it with the same quote")
    if "end of" in message or "unexpected end" in message:
        offset = max(len(text.rstrip()) - 1, 0)
    word = re.compile(r"\w+").match(text, offset)
    return Fault("K401", _said(message), offset, len(word[0]) if word else 1)


def _said(message: str) -> str:
    if message == "chunk after expression":
        return "the expression ends before this"
    message = message.replace("end of print statement", "end of the expression").replace("'", "`")
    return f"not an expression: {message[:1].lower()}{message[1:]}"

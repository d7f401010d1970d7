"""The syntax of expressions: which names an expression uses, and what is wrong with it.

Expressions are Jinja2's. Nearly all of them are also Python's, and Python's own parser (in C) reads them ten times as
fast as Jinja2's and without importing it; it is asked first. What it does not know for certain is left to Jinja2's.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from k2run.language.units import masked
from k2run.language.words import CONSTANTS, FILTERS, METHODS, QUANTITY_FILTERS, QUANTITY_FUNCTIONS, TESTS

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH = 4_000
"""Characters of one expression."""

ITEM = "[]"
"""Stands for any subscript in a path of attributes."""


class Reference(Struct, frozen=True):
    """A name in an expression and the attributes taken from it: `result.rows[0].id` is result, (rows, [], id).

    Attributes:
        offsets: Where the name and each attribute begin, in characters.
        called: The name itself is called, as in `range(3)`.
    """

    name: str
    path: tuple[str, ...]
    offsets: tuple[int, ...]
    called: bool = False


class Fault(Struct, frozen=True):
    """Something wrong in an expression, at a character offset."""

    code: str
    message: str
    offset: int
    length: int = 1
    hint: str = ""
    expected: str = ""


class Syntax(Struct, frozen=True):
    """What reading an expression gave.

    Attributes:
        quantified: It writes a quantity out, or makes one.
    """

    references: tuple[Reference, ...] = ()
    faults: tuple[Fault, ...] = ()
    quantified: bool = False


@lru_cache(maxsize=8192)
def read_expression(text: str) -> Syntax:
    """Read an expression; what is wrong with it stands in the faults."""
    if len(text) > MAX_LENGTH:
        return Syntax(faults=(Fault("K401", f"an expression has at most {MAX_LENGTH:,} characters", 0),))
    if _ODD.search(text) is not None:
        hidden = masked(text)
        return replace(_read(hidden), quantified=True) if hidden != text else _read(text)
    return _read(text)


def _read(text: str) -> Syntax:
    if _ODD.search(text) is None:
        try:
            return _Reader(text).read()
        except (_Unsure, SyntaxError, ValueError, MemoryError, RecursionError):
            pass
    from k2run.language.jinja_syntax import read_with_jinja

    return read_with_jinja(text)


def read_alike(text: str) -> ast.expr | None:
    """The tree of an expression that Python and Jinja2 certainly read alike, without fault; None for any other."""
    if len(text) > MAX_LENGTH or _ODD.search(text) is not None:
        return None
    try:
        reader = _Reader(text)
        return None if reader.read().faults else reader.tree
    except (_Unsure, SyntaxError, ValueError, MemoryError, RecursionError):
        return None


_ODD = re.compile(r"""[^\x20-\x7e] | [\\#;~`] | \"{3} | '{3} | (?<!\w)\d[\d.]*[A-Za-z_]""", re.VERBOSE)
"""Line ends, letters that Python might fold, escapes, comments, numbers with letters, what means something else."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
"""Numbers that both read alike."""


class _Unsure(Exception):
    """Python's parser and Jinja2's might not agree here."""


class Findings:
    """Collects what a reader finds in one expression."""

    def __init__(self) -> None:
        self.references: list[Reference] = []
        self.faults: list[Fault] = []
        self.quantified = False

    def syntax(self) -> Syntax:
        """All findings, the faults in order."""
        faults = tuple(sorted(self.faults, key=lambda fault: fault.offset))
        return Syntax(tuple(self.references), faults, self.quantified)

    def filter(self, name: str, offset: int) -> None:
        """A filter is used."""
        self._known("filter", name, FILTERS, offset)
        self.quantified = self.quantified or name in QUANTITY_FILTERS

    def test(self, name: str, offset: int) -> None:
        """A test is used, as in `is defined`."""
        self._known("test", name, TESTS, offset)

    def attribute(self, name: str, offset: int) -> None:
        """An attribute is taken."""
        if name.startswith("_"):
            message = f"`{name}` is private: names that begin with _ cannot be reached"
            self.faults.append(
                Fault("K405", message, offset, len(name), "an item of a mapping is reached as x['_name']")
            )

    def function(self, name: str, offset: int) -> None:
        """A function is called by its name."""
        self.references.append(Reference(name, (), (offset,), called=True))
        self.quantified = self.quantified or name in QUANTITY_FUNCTIONS

    def method(self, name: str, offset: int) -> None:
        """A method is called."""
        if name not in METHODS and not name.startswith("_"):
            from k2run.language.problems import did_you_mean

            hint = did_you_mean(name, METHODS) or "use a filter: value | filter"
            self.faults.append(Fault("K405", f"`{name}` cannot be called", offset, len(name), hint))

    def call(self, offset: int) -> None:
        """Something is called that is neither a name nor a method."""
        self.faults.append(Fault("K405", "only functions and methods can be called", offset))

    def _known(self, kind: str, name: str, names: frozenset[str], offset: int) -> None:
        if name not in names:
            from k2run.language.problems import did_you_mean

            message = f"there is no {kind} `{name}`"
            self.faults.append(Fault("K403", message, offset, len(name), did_you_mean(name, names)))


_BINARY = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_UNARY = (ast.Not, ast.USub, ast.UAdd)


class _Reader(Findings):
    """Reads an expression with Python's parser; leaves whatever Jinja2 might read differently."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self._indent = len(text) - len(text.lstrip())
        self.tree = ast.parse(text.strip(), mode="eval").body

    def read(self) -> Syntax:
        if isinstance(self.tree, ast.Tuple):
            raise _Unsure
        self._walk(self.tree)
        return self.syntax()

    def _walk(self, node: ast.AST) -> None:
        handler = self._handlers.get(node.__class__)
        if handler is None:
            raise _Unsure
        handler(self, node)

    def _constant(self, node: ast.Constant) -> None:
        written = self._text[self._start(node) : self._end(node)]
        if isinstance(node.value, str):
            alike = len(written) == len(node.value) + 2
        elif isinstance(node.value, bool) or node.value is None:
            alike = True
        else:
            alike = isinstance(node.value, int | float) and _NUMBER.fullmatch(written) is not None
        if not alike:
            raise _Unsure

    def _path(self, node: ast.expr) -> None:
        """A name, or attributes and items of one."""
        path: list[str] = []
        offsets: list[int] = []
        while True:
            if isinstance(node, ast.Attribute):
                offset = self._end(node) - len(node.attr)
                self.attribute(node.attr, offset)
                path.append(node.attr)
                offsets.append(offset)
                node = node.value
            elif isinstance(node, ast.Subscript):
                self._walk(node.slice)
                path.append(ITEM)
                offsets.append(self._end(node))
                node = node.value
            else:
                break
        if not isinstance(node, ast.Name):
            self._walk(node)
        elif node.id not in CONSTANTS:
            offsets.append(self._start(node))
            self.references.append(Reference(node.id, tuple(reversed(path)), tuple(reversed(offsets))))

    def _call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name):
            self.function(function.id, self._start(function))
        elif isinstance(function, ast.Attribute):
            offset = self._end(function) - len(function.attr)
            self.attribute(function.attr, offset)
            self.method(function.attr, offset)
            self._path(function.value)
        else:
            self.call(self._start(node))
            self._walk(function)
        self._arguments(node)

    def _arguments(self, node: ast.Call) -> None:
        for argument in node.args:
            self._walk(argument)
        for keyword in node.keywords:
            if keyword.arg is None:
                raise _Unsure
            self._walk(keyword.value)

    def _binary(self, node: ast.BinOp) -> None:
        self._walk(node.left)
        if isinstance(node.op, ast.BitOr):
            self.filter(*self._applied(node.right))
        elif isinstance(node.op, _BINARY):
            self._walk(node.right)
        else:
            raise _Unsure

    def _applied(self, node: ast.expr) -> tuple[str, int]:
        """The filter or test on the right of `|` or `is`, its arguments read."""
        name = node.func if isinstance(node, ast.Call) else node
        if not isinstance(name, ast.Name):
            raise _Unsure
        if isinstance(node, ast.Call):
            self._arguments(node)
        return name.id, self._start(name)

    def _comparison(self, node: ast.Compare) -> None:
        self._walk(node.left)
        tests = [isinstance(op, ast.Is | ast.IsNot) for op in node.ops]
        if any(tests):
            if len(tests) > 1:
                raise _Unsure
            self.test(*self._applied(node.comparators[0]))
        else:
            for item in node.comparators:
                self._walk(item)

    def _unary(self, node: ast.UnaryOp) -> None:
        if not isinstance(node.op, _UNARY):
            raise _Unsure
        self._walk(node.operand)

    def _bool(self, node: ast.BoolOp) -> None:
        for item in node.values:
            self._walk(item)

    def _choice(self, node: ast.IfExp) -> None:
        for item in (node.body, node.test, node.orelse):
            self._walk(item)

    def _items(self, node: ast.List | ast.Tuple) -> None:
        for item in node.elts:
            self._walk(item)

    def _dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                raise _Unsure
            self._walk(key)
            self._walk(value)

    def _slice(self, node: ast.Slice) -> None:
        for item in (node.lower, node.upper, node.step):
            if item is not None:
                self._walk(item)

    def _start(self, node: ast.expr) -> int:
        return self._indent + node.col_offset

    def _end(self, node: ast.expr) -> int:
        return self._indent + (node.end_col_offset or 0)

    _handlers: ClassVar[dict[type[ast.AST], Callable[[_Reader, Any], None]]] = {
        ast.Constant: _constant,
        ast.Name: _path,
        ast.Attribute: _path,
        ast.Subscript: _path,
        ast.Call: _call,
        ast.BinOp: _binary,
        ast.Compare: _comparison,
        ast.UnaryOp: _unary,
        ast.BoolOp: _bool,
        ast.IfExp: _choice,
        ast.List: _items,
        ast.Tuple: _items,
        ast.Dict: _dict,
        ast.Slice: _slice,
    }

"""Checks before the run that the quantities of an expression go together: `5m + 1GiB` is a problem with a place."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, get_args, get_origin

from k2run.language.quantities import Duration, Rate, Size
from k2run.language.syntax import ITEM, Fault
from k2run.language.units import TYPES, Unit, literals, masked, outcome, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    Shape = Callable[[str, tuple[str, ...]], Any]

_CODE = "K408"
_MAKES = {"to_duration": Unit.DURATION, "age": Unit.DURATION, "to_size": Unit.SIZE, "to_rate": Unit.RATE}
_MAKES |= {"duration": Unit.DURATION, "size": Unit.SIZE, "rate": Unit.RATE}
_MAKES |= dict.fromkeys(("int", "float", "length", "count", "len", "now"), Unit.NUMBER)
_KEEPS = frozenset({"abs", "default", "d"})
"""Filters whose result counts what their value counts."""
_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_ALIKE = frozenset({"+", "-", "<", "<=", ">", ">=", "==", "!="})
"""Operators whose two sides are in the same unit."""
_SCALED = {
    Unit.DURATION: (re.compile(r"_(?:ms|us|ns|minutes|min|hours|days)$"), "seconds"),
    Unit.SIZE: (re.compile(r"_(?:[kmgt]i?b)$", re.IGNORECASE), "bytes"),
}
"""Names of numbers that are not in the base unit of a quantity, and that base unit."""


def measured(text: str, shapes: Shape) -> tuple[Unit | None, list[Fault]]:
    """What the value of an expression counts, as far as that is known, and where its quantities do not go together.

    Args:
        text: The expression.
        shapes: The type of a name and a path of attributes; Any where nothing is known.
    """
    hidden = masked(text)
    try:
        tree = ast.parse(hidden.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None, []
    measuring = _Measuring(hidden, {literal.at: literal.unit for literal in literals(text)}, shapes)
    try:
        return measuring.unit(tree), measuring.faults
    except RecursionError:
        return None, []


@lru_cache(maxsize=1024)
def is_quantity(shape: Any) -> bool:
    """Whether a type is one of the quantities, or may be."""
    return _shape_unit(shape) in TYPES


def _shape_unit(shape: Any) -> Unit | None:
    """What values of a type count."""
    parts = [part for part in get_args(shape) if part is not type(None)] if get_origin(shape) is not list else []
    if len(parts) == 1:
        shape = parts[0]
    if not isinstance(shape, type):
        return None
    for kind, unit in ((Duration, Unit.DURATION), (Size, Unit.SIZE), (Rate, Unit.RATE), (str, Unit.TEXT)):
        if issubclass(shape, kind):
            return unit
    return Unit.NUMBER if issubclass(shape, int | float) else None


class _Measuring:
    """Walks one expression.

    Args:
        text: The expression, its quantities masked.
        written: The units of those quantities, by offset.
        shapes: The types of names.
    """

    def __init__(self, text: str, written: dict[int, Unit], shapes: Shape) -> None:
        self.faults: list[Fault] = []
        self._text = text
        self._indent = len(text) - len(text.lstrip())
        self._written = written
        self._shapes = shapes

    def unit(self, node: ast.AST) -> Unit | None:  # noqa: PLR0911 - one for each form of node
        """What the value of a node counts; faults below it are noted."""
        match node:
            case ast.Constant():
                return self._written.get(self._at(node)) or self._constant(node.value)
            case ast.Name() | ast.Attribute() | ast.Subscript():
                return self._named(node)
            case ast.BinOp(op=ast.BitOr()):
                return self._filtered(node)
            case ast.BinOp():
                return self._computed(_OPERATORS.get(type(node.op), ""), node.left, node.right)
            case ast.Compare():
                self._compared(node)
                return None
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                return self.unit(node.operand)
            case ast.IfExp():
                self.unit(node.test)
                units = {self.unit(node.body), self.unit(node.orelse)}
                return units.pop() if len(units) == 1 else None
            case ast.Call():
                return self._called(node)
        for child in ast.iter_child_nodes(node):
            self.unit(child)
        return None

    @staticmethod
    def _constant(value: Any) -> Unit | None:
        if isinstance(value, str):
            return Unit.TEXT
        return Unit.NUMBER if isinstance(value, int | float) and not isinstance(value, bool) else None

    def _named(self, node: ast.expr) -> Unit | None:
        path: list[str] = []
        while isinstance(node, ast.Attribute | ast.Subscript):
            if isinstance(node, ast.Subscript):
                self.unit(node.slice)
            path.append(node.attr if isinstance(node, ast.Attribute) else ITEM)
            node = node.value
        if isinstance(node, ast.Name):
            return _shape_unit(self._shapes(node.id, tuple(reversed(path))))
        self.unit(node)
        return None

    def _called(self, node: ast.Call) -> Unit | None:
        units = [self.unit(argument) for argument in node.args]
        for keyword in node.keywords:
            self.unit(keyword.value)
        if not isinstance(node.func, ast.Name):
            self.unit(node.func)
            return None
        if node.func.id in ("min", "max") and len(units) > 1:
            for index, (left, right) in enumerate(pairwise(units)):
                self._judge("<", left, right, node.args[index + 1])
            return units[0] if len(set(units)) == 1 else None
        return _MAKES.get(node.func.id)

    def _filtered(self, node: ast.BinOp) -> Unit | None:
        """A filter; it binds closer than arithmetic, which Python's tree does not know."""
        left = node.left
        between = self._text[self._end(left) : self._at(node.right)]
        if isinstance(left, ast.BinOp) and not isinstance(left.op, ast.BitOr) and ")" not in between:
            inner = ast.copy_location(ast.BinOp(left.right, ast.BitOr(), node.right), node)
            inner.col_offset = left.right.col_offset
            return self._computed(_OPERATORS.get(type(left.op), ""), left.left, inner)
        unit = self.unit(left)
        name = node.right.func if isinstance(node.right, ast.Call) else node.right
        for argument in node.right.args if isinstance(node.right, ast.Call) else ():
            self.unit(argument)
        word = name.id if isinstance(name, ast.Name) else ""
        return unit if word in _KEEPS else _MAKES.get(word)

    def _computed(self, operator: str, left: ast.expr, right: ast.expr) -> Unit | None:
        units = self.unit(left), self.unit(right)
        if operator:
            self._judge(operator, *units, right)
            self._scale(operator, left, right, *units)
            return outcome(operator, *units)
        return None

    def _compared(self, node: ast.Compare) -> None:
        left, unit = node.left, self.unit(node.left)
        for op, right in zip(node.ops, node.comparators, strict=True):
            other = self.unit(right) if not isinstance(op, ast.Is | ast.IsNot) else None
            operator = _OPERATORS.get(type(op), "")
            if operator:
                self._judge(operator, unit, other, right)
                self._scale(operator, left, right, unit, other)
            left, unit = right, other

    def _judge(self, operator: str, left: Unit | None, right: Unit | None, node: ast.expr) -> None:
        message = refusal(operator, left, right)
        if message:
            hint = "write a quantity without quotes, such as 30s or 10MiB" if Unit.TEXT in {left, right} else ""
            self._fault(node, message, hint)

    def _scale(self, operator: str, left: ast.expr, right: ast.expr, unit: Unit | None, other: Unit | None) -> None:
        """`p99_ms < 500ms` compares milliseconds with half a second."""
        if operator not in _ALIKE:
            return
        for node, quantity, opposite in ((left, other, right), (right, unit, left)):
            scaled = _SCALED.get(quantity) if quantity is not None else None
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if scaled is not None and scaled[0].search(name) and quantity is not None:
                message = f"`{name}` is a plain number in a unit of its own, {quantity.value} counts {scaled[1]}"
                self._fault(opposite, message, f"write a plain number in the unit of `{name}`")

    def _fault(self, node: ast.expr, message: str, hint: str = "") -> None:
        at = self._at(node)
        self.faults.append(Fault(_CODE, message, at, max(self._end(node) - at, 1), hint))

    def _at(self, node: ast.expr) -> int:
        return self._indent + node.col_offset

    def _end(self, node: ast.expr) -> int:
        return self._indent + (node.end_col_offset or 0)

"""Checks before the run that the quantities of an expression go together: `5m + 1GiB` is a problem with a place."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin

from k2run.language.quantities import TYPES, Duration, Rate, Size, Unit, outcome, refusal, unit_of
from k2run.language.vocabulary import ITEM, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import nodes

    Shape = Callable[[str, tuple[str, ...]], Any]

_CODE = "K408"
_MAKES = {"to_duration": Unit.DURATION, "age": Unit.DURATION, "to_size": Unit.SIZE, "to_rate": Unit.RATE}
_MAKES |= {"duration": Unit.DURATION, "size": Unit.SIZE, "rate": Unit.RATE}
_MAKES |= dict.fromkeys(("int", "float", "length", "count", "len", "now"), Unit.NUMBER)
_KEEPS = frozenset({"abs", "default", "d"})
"""Filters whose result counts what their value counts."""
_COMPARISONS = {"lt": "<", "lteq": "<=", "gt": ">", "gteq": ">=", "eq": "==", "ne": "!="}
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
    from jinja2 import TemplateSyntaxError

    from k2run.language.jinja import parse

    try:
        tree = parse(text)
        measuring = _Measuring(text, shapes)
        return measuring.unit(tree), measuring.faults
    except (TemplateSyntaxError, ValueError, RecursionError):
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
    """Walks the tree of one expression.

    Args:
        text: The expression.
        shapes: The types of names.
    """

    def __init__(self, text: str, shapes: Shape) -> None:
        self.faults: list[Fault] = []
        self._text = text
        self._shapes = shapes

    def unit(self, node: nodes.Node) -> Unit | None:
        """What the value of a node counts; faults below it are noted."""
        handler = self._handlers.get(node.__class__.__name__)
        if handler is not None:
            return handler(self, node)
        for child in node.iter_child_nodes():
            self.unit(child)
        return None

    def _constant(self, node: nodes.Const) -> Unit | None:
        return None if isinstance(node.value, bool) else unit_of(node.value)

    def _named(self, node: nodes.Node) -> Unit | None:
        from jinja2 import nodes as tree

        path: list[str] = []
        while isinstance(node, (tree.Getattr, tree.Getitem)):
            if isinstance(node, tree.Getitem):
                self.unit(node.arg)
            path.append(node.attr if isinstance(node, tree.Getattr) else ITEM)
            node = node.node
        if isinstance(node, tree.Name):
            return _shape_unit(self._shapes(node.name, tuple(reversed(path))))
        self.unit(node)
        return None

    def _called(self, node: nodes.Call) -> Unit | None:
        units = [self.unit(argument) for argument in node.args]
        for keyword in node.kwargs:
            self.unit(keyword.value)
        name = getattr(node.node, "name", None)
        if name is None:
            self.unit(node.node)
            return None
        if name in ("min", "max") and len(units) > 1:
            for index, (left, right) in enumerate(pairwise(units)):
                self._judge("<", left, right, node.args[index + 1])
            return units[0] if len(set(units)) == 1 else None
        return _MAKES.get(name)

    def _filtered(self, node: nodes.Filter) -> Unit | None:
        unit = self.unit(node.node) if node.node else None
        for argument in node.args:
            self.unit(argument)
        return unit if node.name in _KEEPS else _MAKES.get(node.name)

    def _computed(self, node: nodes.BinExpr) -> Unit | None:
        units = self.unit(node.left), self.unit(node.right)
        self._judge(node.operator, *units, node.right)
        self._scale(node.operator, node.left, node.right, *units)
        return outcome(node.operator, *units)

    def _compared(self, node: nodes.Compare) -> Unit | None:
        left, unit = node.expr, self.unit(node.expr)
        for operand in node.ops:
            right, other = operand.expr, self.unit(operand.expr)
            sign = _COMPARISONS.get(operand.op)
            if sign:
                self._judge(sign, unit, other, right)
                self._scale(sign, left, right, unit, other)
            left, unit = right, other
        return None

    def _signed(self, node: nodes.UnaryExpr) -> Unit | None:
        return self.unit(node.node)

    def _chosen(self, node: nodes.CondExpr) -> Unit | None:
        self.unit(node.test)
        units = {self.unit(node.expr1), self.unit(node.expr2) if node.expr2 else None}
        return units.pop() if len(units) == 1 else None

    def _judge(self, operator: str, left: Unit | None, right: Unit | None, node: nodes.Node) -> None:
        message = refusal(operator, left, right)
        if message:
            hint = "write a quantity without quotes, such as 30s or 10MiB" if Unit.TEXT in {left, right} else ""
            self._fault(node, message, hint)

    def _scale(self, operator: str, left: nodes.Node, right: nodes.Node, unit: Unit | None, other: Unit | None) -> None:
        """`p99_ms < 500ms` compares milliseconds with half a second."""
        if operator not in _ALIKE:
            return
        for node, quantity, opposite in ((left, other, right), (right, unit, left)):
            scaled = _SCALED.get(quantity) if quantity is not None else None
            name = getattr(node, "attr", "") or getattr(node, "name", "")
            if scaled is not None and scaled[0].search(name) and quantity is not None:
                message = f"`{name}` is a plain number in a unit of its own, {quantity.value} counts {scaled[1]}"
                self._fault(opposite, message, f"write a plain number in the unit of `{name}`")

    def _fault(self, node: nodes.Node, message: str, hint: str = "") -> None:
        at = _begin(node)
        word = _WORD.match(self._text, at)
        self.faults.append(Fault(_CODE, message, at, len(word[0]) if word else 1, hint))

    _handlers: ClassVar[dict[str, Callable[[_Measuring, Any], Unit | None]]] = {
        "Const": _constant,
        **dict.fromkeys(("Name", "Getattr", "Getitem"), _named),
        "Call": _called,
        "Filter": _filtered,
        **dict.fromkeys(("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"), _computed),
        "Compare": _compared,
        **dict.fromkeys(("Neg", "Pos"), _signed),
        "CondExpr": _chosen,
    }


def _begin(node: nodes.Node) -> int:
    """The offset of the first character of a node: Jinja2 gives that of its dot, bracket or sign."""
    for field in ("node", "left", "expr"):
        inner = getattr(node, field, None)
        if inner is not None and node.__class__.__name__ not in ("Not", "Neg", "Pos"):
            return min(node.lineno, _begin(inner))
    return node.lineno


_WORD = re.compile(r"""'[^']*'|"[^"]*"|[\w.]+""")
"""What of a wrong operand is underlined."""

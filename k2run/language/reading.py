"""Reads the values of a runbook one by one: each of the right type, or a problem at its place.

Long because the quantities of an expression are checked as it is read: `5m + 1GiB` is a problem with a place.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args, get_origin

from k2run.language.expressions import Expression, Template, cut
from k2run.language.problems import did_you_mean, of_value
from k2run.language.quantities import (
    QUANTITIES,
    TYPES,
    Duration,
    Rate,
    Size,
    Unit,
    outcome,
    quantified,
    refusal,
    unit_of,
)
from k2run.language.vocabulary import (
    FUNCTIONS,
    ITEM,
    RESERVED,
    RESERVED_FUNCTIONS,
    Absent,
    Fault,
    Reference,
    Scope,
    follow,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from jinja2 import nodes

    from k2run.language.document import Document, Trail
    from k2run.language.problems import Problem
    from k2run.language.vocabulary import Vocabulary

    Shape = Callable[[str, tuple[str, ...]], Any]

E = TypeVar("E", bound=StrEnum)

MOST_SOUGHT = 20_000
"""Names that unknown ones are compared with; the first hints help most, and thousands would take minutes."""
MAX_WORKERS = 128
"""The most steps that run at once; `parallel: true` means this."""


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
_PER = {unit: f"a rate is written rate('500/{unit}')" for unit in ("s", "min", "h")}
"""What `500/s` means."""


class Reading:
    """The reading of one document: its problems so far, and how to read each kind of value.

    Every method returns a value of its type even where there is a problem, so that reading goes on to the next.

    Attributes:
        uses_stack: An action was met that needs the stack.
        figures: Names of the figures that steps record.
        home: The folder in which files that the document names are looked for; None when it comes from no file.
    """

    def __init__(self, document: Document, vocabulary: Vocabulary, home: Path | None = None) -> None:
        self.document = document
        self.vocabulary = vocabulary
        self.home = home
        self.problems: list[Problem] = []
        self.uses_stack = False
        self.figures: dict[str, Any] = {}
        self._registered: dict[str, Trail] | None = None
        self._sought = 0

    def near(self, name: str, names: Sequence[str]) -> str:
        """The hint `did you mean …?` for one of many names, as long as looking for it costs little."""
        self._sought += len(names)
        return did_you_mean(name, names) if self._sought <= MOST_SOUGHT else ""

    def problem(self, code: str, message: str, path: Trail, **more: Any) -> None:
        """Note a problem; `more` is what `Document.problem` takes."""
        self.problems.append(self.document.problem(code, message, path, **more))

    # --- plain values -----------------------------------------------------------------------------------------------

    def mapping(self, value: Any, path: Trail, what: str) -> dict[str, Any]:
        """A mapping whose keys are texts."""
        if not isinstance(value, dict):
            self._wrong(path, f"{what} is a mapping", "a mapping", value)
            return {}
        for key in value:
            if not isinstance(key, str):
                self.problem("K204", f"the key {key} is not a text", (*path, key), key=True, hint="quote it")
        return {key: item for key, item in value.items() if isinstance(key, str)}

    def fields(self, value: Any, path: Trail, what: str, keys: Iterable[str]) -> dict[str, Any]:
        """A mapping with none but the given keys."""
        found = self.mapping(value, path, what)
        known = tuple(keys)
        for key in found:
            if key not in known:
                self.unknown_key(key, path, what, known)
        return found

    def unknown_key(self, key: str, path: Trail, what: str, known: Iterable[str]) -> None:
        """A key that has no effect here."""
        hint = did_you_mean(key, known)
        expected = "" if hint else f"one of {', '.join(known)}"
        self.problem("K202", f"{what} has no key `{key}`", (*path, key), key=True, hint=hint, expected=expected)

    def listed(self, value: Any, path: Trail, what: str) -> list[Any]:
        """A list."""
        if not isinstance(value, list):
            self._wrong(path, f"{what} is a list", "a list", value)
            return []
        return value

    def text(self, value: Any, path: Trail, what: str) -> str:
        """A text; numbers must be quoted, so that nothing changes its type by surprise."""
        if isinstance(value, str):
            return value
        hint = "quote it" if isinstance(value, int | float) else ""
        self._wrong(path, f"{what} is a text", "a text", value, hint=hint)
        return ""

    def texts(self, value: Any, path: Trail, what: str) -> tuple[str, ...]:
        """A list of texts; a single text is a list of one."""
        if isinstance(value, str):
            return (value,)
        found = self.listed(value, path, what)
        return tuple(self.text(item, (*path, index), f"each of {what}") for index, item in enumerate(found))

    def boolean(self, value: Any, path: Trail, what: str) -> bool:
        """True or false."""
        if isinstance(value, bool):
            return value
        hint = "write true or false" if str(value).lower() in ("yes", "no", "on", "off") else ""
        self._wrong(path, f"{what} is true or false", "true or false", value, hint=hint)
        return False

    def number(self, value: Any, path: Trail, what: str, *, least: float = 0.0) -> float:
        """A number of at least `least`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(path, f"{what} is a number", "a number", value)
        elif not least <= value < float("inf"):
            self.problem("K204", f"{what} is at least {least:g}", path, found=of_value(value))
        else:
            return value
        return least

    def whole(self, value: Any, path: Trail, what: str, *, least: int = 0) -> int:
        """A whole number of at least `least`."""
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(path, f"{what} is a whole number", "a whole number", value)
        elif value < least:
            self.problem("K204", f"{what} is at least {least}", path, found=of_value(value))
        else:
            return value
        return least

    def workers(self, value: Any, path: Trail, count: int) -> int:
        """`parallel`: how many run at once."""
        if isinstance(value, bool):
            return min(count, MAX_WORKERS) if value else 0
        found = self.whole(value, path, "`parallel`")
        if found > MAX_WORKERS:
            self.problem("K204", f"`parallel` is at most {MAX_WORKERS}", path, found=of_value(value))
        return found

    def duration(self, value: Any, path: Trail, what: str) -> Duration:
        """A duration with its unit, above zero."""
        if isinstance(value, str) and "{{" in value:
            self.problem("K206", f"{what} cannot be computed", path, hint="write it out, such as 30s")
            return Duration(1)
        try:
            found = Duration.parse(value)
        except ValueError as error:
            self.problem("K206", f"{what}: {error}", path)
            return Duration(1)
        if found <= 0:
            self.problem("K206", f"{what} is longer than zero", path, found=of_value(value))
        return found

    def choice(self, kind: type[E], value: Any, path: Trail, what: str) -> E:
        """One of the values of an enumeration."""
        try:
            return kind(value)
        except ValueError:
            names = [member.value for member in kind]
            hint = did_you_mean(str(value), names)
            self.problem("K205", f"{what} is one of {', '.join(names)}", path, found=of_value(value), hint=hint)
            return next(iter(kind))

    def name(self, value: Any, path: Trail, what: str, *, key: bool = False) -> str:
        """A name that expressions can use."""
        if not isinstance(value, str) or not (value.isidentifier() and value.isascii()) or value.startswith("_"):
            found = of_value(value)
            message = f"{what} is a name: letters, digits and _, beginning with a letter"
            self.problem("K210", message, path, key=key, found=found)
            return "unnamed"
        if value in RESERVED or value in RESERVED_FUNCTIONS:
            self.problem(
                "K210", f"the name `{value}` belongs to the language", path, key=key, hint="choose another name"
            )
        return value

    def _wrong(self, path: Trail, message: str, expected: str, value: Any, *, hint: str = "") -> None:
        self.problem("K204", message, path, expected=expected, found=of_value(value), hint=hint)

    # --- expressions ------------------------------------------------------------------------------------------------

    def expression(self, value: Any, path: Trail, what: str, scope: Scope) -> Expression:
        """A bare expression whose names are known."""
        if isinstance(value, bool):
            value = "true" if value else "false"
        if not isinstance(value, str):
            self._wrong(
                path, f"{what} is an expression", "an expression such as result.rows > 0", value, hint="quote it"
            )
            return Expression("true")
        if "{{" in value:
            at = value.index("{{")
            message = f"{what} is an expression already: it takes no {{{{ }}}}"
            self.problem("K406", message, path, at=at, length=2, hint=f"write it as: {_bared(value)}")
            return Expression("true")
        self.check(value, path, 0, scope)
        return Expression(value, self.document.place(path))

    def conditions(self, value: Any, path: Trail, what: str, scope: Scope) -> tuple[Expression, ...]:
        """One expression or a list of them."""
        if not isinstance(value, list):
            return (self.expression(value, path, what, scope),)
        if not value:
            self.problem("K213", f"{what} is empty", path)
        return tuple(self.expression(item, (*path, n), f"each of {what}", scope) for n, item in enumerate(value))

    def rendered(self, value: Any, path: Trail, scope: Scope) -> Any:
        """A value with every text that has `{{ }}` in it made a `Template`; itself when there is none."""
        if isinstance(value, str):
            return self.template(value, path, scope) if "{{" in value or "{%" in value else value
        if isinstance(value, dict):
            self._plain_keys(value, path)
            made = {key: self.rendered(item, (*path, key), scope) for key, item in value.items()}
            return made if any(made[key] is not item for key, item in value.items()) else value
        if isinstance(value, list):
            items = [self.rendered(item, (*path, n), scope) for n, item in enumerate(value)]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        return value

    def _plain_keys(self, value: dict[Any, Any], path: Trail) -> None:
        """Keys are what they are: a template in one would reach the action as it is written."""
        for key in value:
            if isinstance(key, str) and "{{" in key:
                hint = (
                    "only values are filled in; write the key out, or build the whole mapping in one {{ expression }}"
                )
                self.problem("K407", "{{ }} is not filled in in a key", (*path, key), key=True, hint=hint)

    def template(self, text: str, path: Trail, scope: Scope) -> Template:
        """A text with `{{ }}` in it."""
        pieces = cut(text)
        if pieces.unclosed >= 0:
            self.problem("K407", "this {{ is never closed", path, at=pieces.unclosed, length=2, hint="close it with }}")
        if pieces.statement >= 0:
            hint = "write {{ a if condition else b }}; for repetition use `loop`"
            self.problem("K407", "{% %} is not part of the language", path, at=pieces.statement, length=2, hint=hint)
        place = self.document.place(path)
        parts: list[str | Expression] = []
        for piece in pieces.pieces:
            if piece.is_expression:
                self.check(piece.text, path, piece.at, scope)
            parts.append(Expression(piece.text, place) if piece.is_expression else piece.text)
        return Template(text, place, parts)

    def check(self, text: str, path: Trail, at: int, scope: Scope) -> None:
        """Note every problem of an expression that begins at character `at` of the value at `path`."""
        from k2run.language.jinja import read_expression

        syntax = read_expression(text)
        quantities = syntax.quantified
        for fault in syntax.faults:
            self._fault(fault, path, at)
        for reference in syntax.references:
            if reference.called:
                if reference.name not in FUNCTIONS:
                    self._unknown_function(reference, path, at)
            elif not scope.knows(reference.name):
                self._unknown_name(reference, path, at, scope)
            else:
                shape = self._attributes(reference, path, at, scope)
                quantities = quantities or (shape is not Any and is_quantity(shape))
        for fault in _measured(text, scope)[1] if quantities else ():
            self._fault(fault, path, at)

    def shape(self, value: Any, scope: Scope) -> Any:
        """The type of a value: a quantity where it is one or its one expression gives one, else Any."""
        if isinstance(value, str) and isinstance(made := quantified(value), QUANTITIES):
            return type(made)
        unit = self.counted(value, scope)
        return Any if unit is None else TYPES.get(unit, Any)

    def counted(self, value: Any, scope: Scope) -> Unit | None:
        """What the one expression of a template counts; None where it is no number and no text, or not known."""
        parts = value.parts if isinstance(value, Template) else ()
        if len(parts) != 1 or not isinstance(parts[0], Expression):
            return None
        return _measured(parts[0].text, scope)[0]

    def _fault(self, fault: Fault, path: Trail, at: int) -> None:
        self.problem(
            fault.code,
            fault.message,
            path,
            at=at + fault.offset,
            length=fault.length,
            hint=fault.hint,
            expected=fault.expected,
        )

    def _unknown_function(self, reference: Reference, path: Trail, at: int) -> None:
        name = reference.name
        hint = did_you_mean(name, FUNCTIONS) or f"there are {', '.join(sorted(FUNCTIONS))}, and filters: value | filter"
        where = at + reference.offsets[0]
        self.problem("K405", f"there is no function `{name}`", path, at=where, length=len(name), hint=hint)

    def _unknown_name(self, reference: Reference, path: Trail, at: int, scope: Scope) -> None:
        name = reference.name
        if name in ("result", "attempt"):
            hint = "it exists in expect, until, failed_when, figures and points; to use it later, register it"
        else:
            hint = (
                self._defined_later(name)
                or self.near(name, scope.names())
                or _PER.get(name, f"`{name}` alone is a name; quote a text")
            )
        where = at + reference.offsets[0]
        self.problem("K402", f"nothing here is called `{name}`", path, at=where, length=len(name), hint=hint)

    def _defined_later(self, name: str) -> str:
        """Where a step registers the name after all."""
        if self._registered is None:
            from k2run.language.vocabulary import registrations

            self._registered = registrations(self.document.data)
        path = self._registered.get(name)
        return f"it is only known after the step in line {self.document.place(path).line}" if path else ""

    def _attributes(self, reference: Reference, path: Trail, at: int, scope: Scope) -> Any:
        """The type at the end of a name and its attributes; Any where nothing is known of it."""
        try:
            shape = scope.shape(reference.name)
            return follow(shape, reference.path) if reference.path else shape
        except Absent as absent:
            wrong = reference.path[absent.index]
            if wrong.startswith("_"):
                return Any  # a problem already
            owner = ".".join((reference.name, *reference.path[: absent.index])).replace(".[]", "[…]")
            known = ", ".join(absent.names)
            self.problem(
                "K404",
                f"`{owner}` has no `{wrong}`" if wrong != "[]" else f"`{owner}` has no items",
                path,
                at=at + reference.offsets[absent.index + 1],
                length=len(wrong),
                hint=did_you_mean(wrong, absent.names) or (f"it has {known}" if known else "it is a plain value"),
            )
            return Any


def _shape(name: str, path: tuple[str, ...], scope: Scope) -> Any:
    """The type at the end of a path; Any where it leads nowhere, which is a problem of its own."""
    try:
        return follow(scope.shape(name), path) if scope.knows(name) else Any
    except Absent:
        return Any


def _measured(text: str, scope: Scope) -> tuple[Unit | None, list[Fault]]:
    """What an expression counts, and where its quantities do not go together."""
    return measured(text, lambda name, steps: _shape(name, steps, scope))


def _bared(text: str) -> str:
    """The text without its braces, as far as that is simple."""
    return " ".join(text.replace("{{", " ").replace("}}", " ").split())


def measured(text: str, shapes: Shape) -> tuple[Unit | None, list[Fault]]:
    """What the value of an expression counts, as far as that is known, and where its quantities do not go together.

    `shapes` gives the type of a name and a path of attributes; Any where nothing is known.
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
    """Walks the tree of one expression."""

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

"""Jinja2 as expressions use it: its sandbox, narrowed to what one may reach and call; its parser, with errors in words.

Importing Jinja2 takes about 30 ms, so this module is imported when the first expression is read.
Long because what is taken of Jinja2, and what is kept out, is on this page.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from functools import cache, lru_cache
from types import BuiltinMethodType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import StrictUndefined, TemplateSyntaxError, nodes, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.lexer import (
    TOKEN_INTEGER,
    TOKEN_NAME,
    TOKEN_OPERATOR,
    TOKEN_STRING,
    Lexer,
    Token,
    TokenStream,
    float_re,
    integer_re,
    operator_re,
    operators,
    string_re,
)
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec import Struct

from k2run.language import filters
from k2run.language.filters import counted, extent, joined, size, spend, to_duration, to_rate, to_size
from k2run.language.problems import did_you_mean
from k2run.language.quantities import (
    QUANTITIES,
    QUANTITY,
    Duration,
    Size,
    UnitMismatch,
    as_unit,
    contained,
    equal,
    outcome,
    refusal,
    unit_of,
)
from k2run.language.vocabulary import (
    FILTERS,
    ITEM,
    JINJA_FILTERS,
    JINJA_TESTS,
    MAX_LENGTH,
    METHODS,
    QUANTITY_FILTERS,
    QUANTITY_FUNCTIONS,
    TESTS,
    Fault,
    Reference,
    Syntax,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jinja2.runtime import Context

MAX_RANGE = 10_000
MAX_ITEMS = 100_000
"""The most elements and characters that `*` may make, those inside of repeated elements included."""
MAX_BITS = 4_096
"""The most bits of a number that `*` or `**` may make."""

_DEEP = frozenset({"bool", "human", "string", "title", "tojson", "truncate", "urlencode"})
"""Filters that walk through everything inside of their value."""
_SLOW = frozenset({"dictsort", "groupby", "max", "min", "percentile", "sort", "sum", "unique"})
"""Filters that do some work for every item."""
_BRIEF = frozenset(
    {"abs", "age", "count", "d", "default", "first", "float", "int", "items", "last", "length", "map", "reject"}
    | {"rejectattr", "round", "select", "selectattr", "to_duration", "to_rate", "to_size"}
)
"""Filters that look at one item, or walk only as far as the caller asks."""
_PLAIN = (str, list, tuple, dict, Mapping)


class Missing(StrictUndefined):
    """A missing value: its attributes and tests can be asked for, but it cannot be used."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, _key: Any) -> Any:
        return self


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, with its open doors closed: big products, formatting, calls of anything but known words."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})
    intercepted_unops = frozenset({"-", "+"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`a.b`: the item of a mapping, before any method of the mapping's type."""
        if isinstance(obj, Missing):
            return obj
        if isinstance(obj, Mapping):
            try:
                return obj[attribute]
            except KeyError:
                if attribute not in METHODS:
                    return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`a[b]`: never an attribute; the fields of a result are its items, as they are after a resume."""
        if isinstance(obj, Struct) and argument in {*obj.__struct_fields__, "outcome", "message"}:
            return self.getattr(obj, argument)
        try:
            return obj[argument]
        except (LookupError, TypeError, AttributeError):
            return self.undefined(obj=obj, name=argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Data only: no private names, no methods but the known ones of plain values."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        if callable(value):
            return attr in METHODS and isinstance(obj, _PLAIN)
        return True

    def wrap_str_format(self, _value: Any) -> None:
        """No `str.format`: a width can ask for gigabytes."""

    def is_safe_callable(self, obj: Any) -> bool:
        """Methods of plain values, and functions that k2run put into the scope."""
        if isinstance(obj, FunctionType) or obj in FUNCTIONS.values():
            return True
        owner = getattr(obj, "__self__", None)
        return isinstance(obj, BuiltinMethodType | MethodType) and isinstance(owner, _PLAIN) and obj.__name__ in METHODS

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic: quantities stay quantities, and a result that would be huge is refused."""
        if refused := refusal(operator, unit_of(left), unit_of(right)):
            raise UnitMismatch(refused)
        if operator == "*" and _product_size(left, right):
            raise SecurityError("the result of `*` would be too large")
        if operator == "**" and _power_bits(left, right) > MAX_BITS:
            raise SecurityError("the result of `**` would be too large")
        if operator == "%" and isinstance(left, str | bytes):
            raise SecurityError("`%` does not format texts here: join them with ~")
        value = super().call_binop(context, operator, left, right)
        if made := size(value):
            spend(made)
        if isinstance(left, QUANTITIES) or isinstance(right, QUANTITIES):
            return as_unit(value, outcome(operator, unit_of(left), unit_of(right)))
        return value

    def call(self, context: Context, obj: Any, /, *args: Any, **named: Any) -> Any:
        """Functions and methods; `join` can make much of little."""
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str) and obj.__name__ == "join" and len(args) == 1 and not named:
            return joined(owner, args[0])
        made = super().call(context, obj, *args, **named)
        spend(size(owner) + size(made) + 1)
        return made

    def call_unop(self, context: Context, operator: str, arg: Any) -> Any:
        """A sign before a value; a quantity stays one."""
        value = super().call_unop(context, operator, arg)
        return as_unit(value, unit_of(arg)) if isinstance(arg, QUANTITIES) else value


def _product_size(left: Any, right: Any) -> bool:
    """Whether a product would be too large."""
    for repeated, times in ((left, right), (right, left)):
        if isinstance(repeated, str | bytes | list | tuple) and isinstance(times, int):
            return times > 0 and (extent(repeated, MAX_ITEMS + 1) - 1) * times > MAX_ITEMS
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length() > MAX_BITS
    return False


def _power_bits(left: Any, right: Any) -> float:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        return left.bit_length() * right
    return 0


def bounded_range(*limits: int) -> range:
    """`range`, but not without end.

    Raises:
        SecurityError: More than 10,000 numbers.
    """
    numbers = range(*limits)
    if len(numbers) > MAX_RANGE:
        raise SecurityError(f"range has more than {MAX_RANGE:,} numbers")
    return numbers


FUNCTIONS: dict[str, Any] = {
    "range": bounded_range,
    "min": min,
    "max": max,
    "len": len,
    "now": time.time,
    "duration": to_duration,
    "size": to_size,
    "rate": to_rate,
}


@pass_environment
def join(environment: Sandbox, values: Any, separator: Any = "", attribute: str | int | None = None) -> str:
    """Texts, or an `attribute` of each item, with a separator between them."""
    items = values if attribute is None else map(make_attrgetter(environment, attribute), values)
    return joined(str(separator), items)


@cache
def environment() -> Sandbox:
    """The one environment of all expressions."""
    made = Sandbox(undefined=Missing, autoescape=False, cache_size=0, optimized=False)
    allowed = {name: made.filters[name] for name in JINJA_FILTERS} | filters.FILTERS
    made.filters = {
        name: work if name in _BRIEF else counted(work, deep=name in _DEEP, each=10 if name in _SLOW else 1)
        for name, work in allowed.items()
    }
    made.filters["join"] = join
    made.tests = {name: made.tests[name] for name in JINJA_TESTS} | filters.TESTS
    made.tests |= dict.fromkeys(("eq", "equalto", "=="), equal)
    made.tests |= dict.fromkeys(("ne", "!="), lambda left, right: not equal(left, right))
    made.tests["in"] = counted(contained, position=1)
    made.policies["truncate.leeway"] = 0
    return made


@lru_cache(maxsize=8192)
def read_expression(text: str) -> Syntax:
    """Read an expression; its errors are in the faults. Those that differ in numbers alone are parsed once."""
    alike = _NUMBER.sub(lambda number: "1" * len(number[0]), text)
    syntax = _read(alike)
    return _read(text) if syntax.faults and alike != text else syntax


_NUMBER = re.compile(r"(?<![\w.])[1-9][0-9]*(?![\w.])")
"""A whole number without unit, outside of names."""


@lru_cache(maxsize=2048)
def _read(text: str) -> Syntax:
    if len(text) > MAX_LENGTH:
        return Syntax(faults=(Fault("K401", f"an expression has at most {MAX_LENGTH:,} characters", 0),))
    try:
        reader = _Reader(text)
        reader.walk(parse(text))
        return reader.syntax()
    except TemplateSyntaxError as error:
        return Syntax(faults=(_explain(text, error),))
    except RecursionError:
        return Syntax(faults=(Fault("K401", "this expression is nested too deeply", 0, hint="split it with `set`"),))
    except ValueError as error:  # a number of more digits than Python reads
        return Syntax(faults=(Fault("K401", f"a value cannot be read: {error}", 0, len(text)),))


@lru_cache(maxsize=64)
def parse(text: str) -> nodes.Expr:
    """The expression as Jinja2's tree; `lineno` of every node is its offset in characters.

    Raises:
        TemplateSyntaxError: It is not one; `lineno` is the offset.
    """
    with _LOCK:
        parser = _parser()
        parser.stream = TokenStream(_tokens(text), None, None)
        expression = parser.parse_expression()
        if not parser.stream.eos:
            raise TemplateSyntaxError("chunk after expression", parser.stream.current.lineno)
        return expression


_LOCK = threading.Lock()
_TOKEN = re.compile(
    rf"""\s+ | (?a:{QUANTITY}) | (?P<float>(?ix:{float_re.pattern})) | (?P<integer>(?ix:{integer_re.pattern}))
    | (?P<name>\w+) | (?P<string>(?s:{string_re.pattern})) | (?P<operator>{operator_re.pattern})""",
    re.VERBOSE,
)
"""Jinja2's tokens and quantities. Its own lexer takes three times as long, too long for thousands of expressions."""
_UNITS: dict[str | None, type[Duration | Size]] = {"duration": Duration, "size": Size}


def _tokens(text: str) -> Iterator[Token]:
    """Tokens whose line number is their offset; a quantity is a number that has its unit."""
    offset = 0
    lexer = _lexer()
    while offset < len(text):
        found = _TOKEN.match(text, offset)
        if found is None:
            raise TemplateSyntaxError(f"unexpected char {text[offset]!r}", offset)
        kind = found.lastgroup
        value = found[0]
        if kind == TOKEN_NAME and value.isascii():
            yield Token(offset, kind, value)
        elif kind == TOKEN_OPERATOR:
            yield Token(offset, operators[value], value)
        elif kind == TOKEN_STRING and "\\" not in value and value.isascii():
            yield Token(offset, kind, value[1:-1])
        elif kind in _UNITS:
            yield Token(offset, TOKEN_INTEGER, _UNITS[kind].parse(value))  # type: ignore[arg-type] # as numbers are
        elif kind is not None:
            try:
                yield from lexer.wrap([(offset, kind, value)])
            except ValueError as error:  # a number of more digits than Python reads
                raise TemplateSyntaxError(str(error), offset) from None
        offset = found.end()


@cache
def _parser() -> Parser:
    """To make one takes as long as to read a short expression."""
    return Parser(environment(), "", state="variable")


@cache
def _lexer() -> Lexer:
    return environment().lexer


class _Reader:
    """Collects references and faults from the tree of one expression."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._references: list[Reference] = []
        self._faults: list[Fault] = []
        self._quantified = False

    def syntax(self) -> Syntax:
        """What was found, the faults in order."""
        faults = sorted(self._faults, key=lambda fault: fault.offset)
        return Syntax(tuple(self._references), tuple(faults), self._quantified)

    def walk(self, node: nodes.Node) -> None:
        """Read a node and everything below it."""
        handler = self._handlers.get(node.__class__)
        if handler is not None:
            handler(self, node)
        else:
            self._children(node)

    def _children(self, node: nodes.Node) -> None:
        for child in node.iter_child_nodes():
            self.walk(child)

    def _comparison(self, node: nodes.Compare) -> None:
        self.walk(node.expr)
        for operand in node.ops:
            self.walk(operand.expr)

    def _pair(self, node: nodes.BinExpr) -> None:
        self.walk(node.left)
        self.walk(node.right)

    def _constant(self, node: nodes.Const) -> None:
        self._quantified = self._quantified or isinstance(node.value, QUANTITIES)

    def _filter(self, node: nodes.Filter) -> None:
        self._known("filter", node.name, FILTERS, node.lineno)
        self._quantified = self._quantified or node.name in QUANTITY_FILTERS
        self._children(node)

    def _test(self, node: nodes.Test) -> None:
        self._known("test", node.name, TESTS, self._name_at(node.name, node))
        self._children(node)

    def _path(self, node: nodes.Node) -> None:
        """A name, or attributes and items of one."""
        path: list[str] = []
        offsets: list[int] = []
        while isinstance(node, (nodes.Getattr, nodes.Getitem)):
            if isinstance(node, nodes.Getattr):
                offsets.append(self._name_at(node.attr, node))
                self._attribute(node.attr, offsets[-1])
                path.append(node.attr)
            else:
                offsets.append(node.lineno)
                self.walk(node.arg)
                path.append(ITEM)
            node = node.node
        if isinstance(node, nodes.Name):
            offsets.append(node.lineno)
            self._references.append(Reference(node.name, tuple(reversed(path)), tuple(reversed(offsets))))
        else:
            self.walk(node)

    def _call(self, node: nodes.Call) -> None:
        function = node.node
        if isinstance(function, nodes.Name):
            self._references.append(Reference(function.name, (), (function.lineno,), called=True))
            self._quantified = self._quantified or function.name in QUANTITY_FUNCTIONS
        elif isinstance(function, nodes.Getattr):
            offset = self._name_at(function.attr, function)
            self._attribute(function.attr, offset)
            self._method(function.attr, offset)
            self._path(function.node)
        else:
            self._faults.append(Fault("K405", "only functions and methods can be called", node.lineno))
            self.walk(function)
        for child in node.iter_child_nodes(exclude=("node",)):
            self.walk(child)

    def _name_at(self, name: str, node: nodes.Node) -> int:
        """Where the name of an attribute or test begins; its node begins at the dot, or at `is`."""
        return max(self._text.find(name, node.lineno), 0)

    def _attribute(self, name: str, offset: int) -> None:
        if name.startswith("_"):
            message = f"`{name}` is private: names that begin with _ cannot be reached"
            hint = "an item of a mapping is reached as x['_name']"
            self._faults.append(Fault("K405", message, offset, len(name), hint))

    def _method(self, name: str, offset: int) -> None:
        if name not in METHODS and not name.startswith("_"):
            hint = did_you_mean(name, METHODS) or "use a filter: value | filter"
            self._faults.append(Fault("K405", f"`{name}` cannot be called", offset, len(name), hint))

    def _known(self, kind: str, name: str, names: frozenset[str], offset: int) -> None:
        if name not in names:
            message = f"there is no {kind} `{name}`"
            self._faults.append(Fault("K403", message, offset, len(name), did_you_mean(name, names)))

    _handlers: ClassVar[dict[type[nodes.Node], Callable[[_Reader, Any], None]]] = {
        nodes.And: _pair,
        nodes.Or: _pair,
        nodes.Compare: _comparison,
        nodes.Const: _constant,
        nodes.Name: _path,
        nodes.Getattr: _path,
        nodes.Getitem: _path,
        nodes.Call: _call,
        nodes.Filter: _filter,
        nodes.Test: _test,
    }


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


_QUOTED_OR_QUANTITY = re.compile(rf"'[^']*'|\"[^\"]*\"|{QUANTITY}", re.ASCII)


def _explain(text: str, error: TemplateSyntaxError) -> Fault:
    """The fault that a syntax error stands for, with the most likely fix."""
    message = error.message or "not an expression"
    offset = min(error.lineno or 0, max(len(text) - 1, 0))
    offset += len(text[offset:]) - len(text[offset:].lstrip())
    bare = _QUOTED_OR_QUANTITY.sub(lambda found: " " * len(found[0]), text)
    for pattern, hint in _LIKELY:
        if found := pattern.search(bare):
            return Fault("K401", f"`{found[0]}` is not part of the language", found.start(), len(found[0]), hint)
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

"""Jinja2's sandbox, narrowed: what an expression may reach and call, and how much it may make."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from types import BuiltinMethodType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec import Struct

from k2run.language.filters import FILTERS, TESTS, counted, extent, joined, size, spend, to_duration, to_rate, to_size
from k2run.language.quantities import QUANTITIES, UnitMismatch, as_unit, contained, equal, outcome, refusal, unit_of
from k2run.language.vocabulary import JINJA_FILTERS, JINJA_TESTS, METHODS

if TYPE_CHECKING:
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
    filters = {name: made.filters[name] for name in JINJA_FILTERS} | FILTERS
    made.filters = {
        name: work if name in _BRIEF else counted(work, deep=name in _DEEP, each=10 if name in _SLOW else 1)
        for name, work in filters.items()
    }
    made.filters["join"] = join
    made.tests = {name: made.tests[name] for name in JINJA_TESTS} | TESTS
    made.tests |= dict.fromkeys(("eq", "equalto", "=="), equal)
    made.tests |= dict.fromkeys(("ne", "!="), lambda left, right: not equal(left, right))
    made.tests["in"] = counted(contained, position=1)
    made.policies["truncate.leeway"] = 0
    return made

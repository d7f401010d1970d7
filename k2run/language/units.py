"""What becomes of quantities in arithmetic and comparison: a duration and a size are never added, nor compared.

One table says it for both: for the check before the run, and for the values during it.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

from k2run.language.quantities import QUANTITIES, Duration, Rate, Size, UnitMismatch


class Unit(Enum):
    """What a number counts; the value is how people call it."""

    DURATION = "a duration"
    SIZE = "a size"
    RATE = "a rate"
    NUMBER = "a number"
    TEXT = "a text"


TYPES: dict[Unit, Any] = {Unit.DURATION: Duration, Unit.SIZE: Size, Unit.RATE: Rate}
"""The quantities; numbers and texts are not among them."""

_D, _S, _R, _N = Unit.DURATION, Unit.SIZE, Unit.RATE, Unit.NUMBER
_SUMS = {(unit, other): unit for unit in TYPES for other in (unit, _N)} | {(_N, unit): unit for unit in TYPES}
_REMAINDERS = {(unit, other): unit for unit in TYPES for other in (unit, _N)}
_PRODUCTS = {
    **{(unit, _N): unit for unit in TYPES},
    **{(_N, unit): unit for unit in TYPES},
    **dict.fromkeys([(_R, _D), (_D, _R)], _N),
}
_QUOTIENTS = {
    **{(unit, _N): unit for unit in TYPES},
    **{(unit, unit): _N for unit in TYPES},
    (_S, _D): _R,
    (_N, _D): _R,
    (_N, _R): _D,
    (_S, _R): _D,
}
_RULES: dict[str, dict[tuple[Unit, Unit], Unit]] = {
    "+": _SUMS,
    "-": _SUMS,
    "*": _PRODUCTS,
    "/": _QUOTIENTS,
    "//": {pair: unit for pair, unit in _QUOTIENTS.items() if pair[0] is pair[1] or pair[1] is _N},
    "%": _REMAINDERS,
    "**": {},
}
_REFUSED = {
    "+": "{left} and {right} cannot be added",
    "-": "{right} cannot be taken from {left}",
    "*": "{left} and {right} cannot be multiplied",
    "/": "{left} cannot be divided by {right}",
    "//": "{left} cannot be divided by {right}",
    "%": "{left} has no remainder by {right}",
    "**": "{left} cannot be raised to the power of {right}",
}
QUANTITY = r"""(?x:(?<![\w.])
    (?:(?P<duration>(?:\d+(?:\.\d+)?(?:ms|min|s|m|h|d))+) | (?P<size>\d+(?:\.\d+)?(?:[KMGT]i?B|kB|B)))
    (?![\w.]))"""
"""A quantity that is written out in an expression, such as `1m30s`; for ASCII digits."""


def unit_of(value: Any) -> Unit | None:
    """What a value counts; None when it is neither number nor text."""
    for unit, kind in TYPES.items():
        if isinstance(value, kind):
            return unit
    if isinstance(value, int | float):
        return Unit.NUMBER
    return Unit.TEXT if isinstance(value, str) else None


def refusal(operator: str, left: Unit | None, right: Unit | None) -> str:
    """Why two values do not go together; empty when they do, or when nothing is known of them.

    Args:
        operator: Of arithmetic, or any comparison.
        left: What the value on its left counts.
        right: What the value on its right counts.
    """
    if left is None or right is None or not {left, right} & TYPES.keys():
        return ""
    compared = operator not in _RULES
    if (left is right or Unit.NUMBER in {left, right}) if compared else (left, right) in _RULES[operator]:
        return ""
    if left is right:
        return f"two {left.name.lower()}s cannot be {'multiplied' if operator == '*' else 'taken to a power'}"
    return _REFUSED.get(operator, "{left} and {right} cannot be compared").format(left=left.value, right=right.value)


def equal(left: Any, right: Any) -> Any:
    """`left == right`, where both can be compared.

    Raises:
        UnitMismatch: One is a quantity, the other a text or a quantity of another kind: neither equal nor different.
    """
    if isinstance(left, QUANTITIES) or isinstance(right, QUANTITIES):
        refused = refusal("==", unit_of(left), unit_of(right))
        if refused:
            raise UnitMismatch(refused)
    return left == right


def contained(item: Any, values: Any) -> Any:
    """`item in values`, where the item can be compared with each of them.

    Raises:
        UnitMismatch: As for `==`.
    """
    if isinstance(values, list | tuple) and isinstance(item, (str, *QUANTITIES)):
        return any(equal(item, value) for value in values)
    return item in values


def outcome(operator: str, left: Unit | None, right: Unit | None) -> Unit | None:
    """What the result of arithmetic counts; None when that is not known."""
    if left is Unit.NUMBER and right is Unit.NUMBER:
        return Unit.NUMBER
    return _RULES[operator].get((left, right)) if left is not None and right is not None else None


def as_unit(value: Any, unit: Unit | None) -> Any:
    """A number as the quantity it is; sizes are whole bytes.

    Raises:
        OverflowError: The number has no end.
    """
    if unit not in TYPES:
        return value
    if not math.isfinite(value):
        raise OverflowError(f"{unit.value} has an end")
    return Size(round(value)) if unit is Unit.SIZE else TYPES[unit](value)

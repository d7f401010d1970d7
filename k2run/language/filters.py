"""The filters and tests that operators need beside Jinja2's; none of them turns an absent or wrong value into zero."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from jinja2 import pass_environment
from jinja2.filters import make_attrgetter

from k2run.language.budget import spend
from k2run.language.patterns import matches, search
from k2run.language.phrases import true_or_false
from k2run.language.quantities import Duration, Rate, Size, UnitMismatch, encode_quantity
from k2run.language.units import TYPES, Unit, as_unit, unit_of

MAX_TEXT = 1_000_000
"""The most characters that `replace` may make."""

_SECONDS_PER_UNIT = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
"""Above this an epoch is in nano-, micro-, milliseconds."""
_MAGNITUDES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_FEW = object()


def to_duration(value: Any) -> Duration:
    """`"1m30s" | to_duration`: a duration in seconds; a number is taken as seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return as_unit(value, Unit.DURATION)  # type: ignore[no-any-return] # by its table
    return Duration.parse(value)


def to_size(value: Any) -> Size:
    """`"10MiB" | to_size`: a number of bytes."""
    return Size.parse(value)


def to_rate(value: Any) -> Rate:
    """`"500/s" | to_rate`: events per second."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return as_unit(value, Unit.RATE)  # type: ignore[no-any-return] # by its table
    return Rate.parse(value)


def human(value: Any) -> str:
    """A quantity or a number as people write it: `1m30s`, `10MiB`, `1.23M`."""
    if isinstance(value, Duration | Size | Rate):
        return str(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    for size, letter in _MAGNITUDES:
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"


def age(value: Any) -> Duration:
    """How long ago a point in time is: an ISO 8601 text, or an epoch in seconds, milli-, micro- or nanoseconds."""
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return Duration(time.time() - (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, datetime):
        return Duration(time.time() - value.timestamp())
    number = _number(value)
    unit = next((unit for least, unit in _SECONDS_PER_UNIT if number >= least), 1.0)
    return Duration(time.time() - number / unit)


def magnitude(value: Any) -> Any:
    """A number or a quantity without its sign."""
    return as_unit(abs(value), unit_of(value))


@pass_environment
def total(environment: Any, values: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    """The sum of numbers, or of quantities of one kind; of an `attribute` of each, when one is named."""
    items = list(values if attribute is None else map(make_attrgetter(environment, attribute), values))
    if isinstance(start, list):
        return [*start, *(part for item in items for part in _parts(item))]
    units = {unit_of(item) for item in items}
    if len(units) > 1 and units & TYPES.keys():
        raise UnitMismatch(f"{' and '.join(sorted(unit.value for unit in units if unit))} cannot be added")
    return as_unit(sum(items, start), units.pop() if len(units) == 1 else None)


def _parts(item: Any) -> list[Any]:
    """The parts of a list that is added to another."""
    if not isinstance(item, list | tuple):
        raise TypeError(f"{item!r:.60} is not a list")
    spend(len(item))
    return list(item)


def percentile(values: Any, percent: float) -> float:
    """The percentile of a list of numbers, by linear interpolation.

    Raises:
        ValueError: Too few values to tell: p99 needs 100 of them, p50 two.
    """
    numbers = sorted(_number(value) for value in values)
    if not 0 <= percent <= 100:  # noqa: PLR2004 - per cent
        msg = f"a percentile lies between 0 and 100, not at {percent:g}"
        raise ValueError(msg)
    least = math.ceil(round(100 / max(min(percent, 100 - percent), 0.001), 6)) if 0 < percent < 100 else 1  # noqa: PLR2004
    if len(numbers) < least:
        msg = f"p{percent:g} needs at least {least} values, there are {len(numbers)}"
        raise ValueError(msg)
    position = (len(numbers) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(numbers) - 1)
    return numbers[below] + (numbers[above] - numbers[below]) * (position - below)


def to_int(value: Any, default: Any = _FEW) -> int:
    """A whole number; without a `default`, what is none is an error."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        if default is _FEW:
            raise
        return default  # type: ignore[no-any-return]


def to_float(value: Any, default: Any = _FEW) -> float:
    """A number; without a `default`, what is none is an error, `nan` ("not a number") included."""
    try:
        return _number(float(value))
    except (TypeError, ValueError, OverflowError):
        if default is _FEW:
            raise
        return default  # type: ignore[no-any-return]


def to_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON."""
    plain = msgspec.to_builtins(value, enc_hook=encode_quantity, str_keys=True)
    return json.dumps(plain, indent=None if indent is None else min(indent, 8), default=str)


def from_json(text: str) -> Any:
    """The value that a JSON text stands for."""
    return msgspec.json.decode(text)


def split(text: str, separator: str | None = None) -> list[str]:
    """The parts of a text."""
    return text.split(separator)


def replace(text: str, old: str, new: str) -> str:
    """A text with every `old` replaced."""
    if len(text) + text.count(old) * len(new) > MAX_TEXT:
        msg = "the result of replace would be too large"
        raise ValueError(msg)
    return text.replace(old, new)


def as_text(value: Any) -> str:
    """A value inside a text: quantities with their unit, the rest as YAML and JSON write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple | msgspec.Struct):
        return to_json(value)
    return value.exact() if isinstance(value, Duration | Size | Rate) else str(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{value!r} is not a number"
        raise TypeError(msg)
    if math.isnan(value):
        raise ValueError("nan is not a number: no comparison with it means anything")
    return float(value)


FILTERS: dict[str, Any] = {
    "abs": magnitude,
    "age": age,
    "bool": true_or_false,
    "float": to_float,
    "from_json": from_json,
    "human": human,
    "int": to_int,
    "matches": matches,
    "percentile": percentile,
    "replace": replace,
    "search": search,
    "split": split,
    "sum": total,
    "to_duration": to_duration,
    "to_rate": to_rate,
    "to_size": to_size,
    "tojson": to_json,
}
TESTS: dict[str, Any] = {"matches": matches, "search": search}

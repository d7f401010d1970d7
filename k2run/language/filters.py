"""The filters and tests that operators need beside Jinja2's, and how much one expression may make and walk through.

Enough for any evidence, too little to stop a machine; regular expressions cannot run for ever.
Long because every filter spends of the budget that stands beside it.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from jinja2 import pass_environment
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from msgspec import Struct

from k2run.language.problems import true_or_false
from k2run.language.quantities import (
    QUANTITIES,
    TYPES,
    Duration,
    Rate,
    Size,
    Unit,
    UnitMismatch,
    as_unit,
    encode_quantity,
    unit_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

MAX_WORK = 10_000_000
"""Items and characters of one evaluation, those looked at and those made; less than a second's worth."""
_EACH = 3
"""What it costs to write out an item, beside looking at it."""
_ATOMS = frozenset({int, float, bool, type(None)})
_SIZED = frozenset({str, list, tuple, dict, range})


class _Left(threading.local):
    work = MAX_WORK


_left = _Left()


def refill() -> None:
    """Begin an evaluation."""
    _left.work = MAX_WORK


def spend(work: int) -> None:
    """Take note of work that is about to be done, or was.

    Raises:
        SecurityError: The expression has done enough.
    """
    _left.work -= work
    if _left.work < 0:
        raise SecurityError(f"it makes or walks through more than {MAX_WORK:,} items and characters")


def extent(value: Any, most: int = MAX_WORK) -> int:
    """The items and characters of a value, those inside of it included; counted no further than `most`."""
    found, waiting = 1, [value]
    while waiting and found <= most:
        item = waiting.pop()
        kind = type(item)
        if kind is str or kind is bytes:
            found += len(item)
            continue
        parts = _members(item)
        found += len(parts)
        if found <= most:  # numbers, which are most of evidence, are done with
            waiting += [part for part in parts if type(part) not in _ATOMS]
    return found


def _members(value: Any) -> Collection[Any]:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    return ()


def size(value: Any) -> int:
    """The items or characters of a value, those inside of it left out."""
    return len(value) if type(value) in _SIZED else 0


def counted(work: Callable[..., Any], *, deep: bool = False, each: int = 1, position: int = 0) -> Callable[..., Any]:
    """A filter or test that spends what it walks through and what it makes.

    Args:
        work: The filter; Jinja2's mark for one that wants the environment is kept.
        deep: It walks through everything inside of its value too.
        each: What it costs to look at one item or character.
        position: Where its value stands among the arguments that an expression gives.
    """
    at = position + hasattr(work, "jinja_pass_arg")

    @wraps(work)
    def spending(*args: Any, **named: Any) -> Any:
        value = args[at] if at < len(args) else None
        if type(value) in _ATOMS:
            return work(*args, **named)
        spend(each * size(value) + 1)
        if deep:
            spend(_EACH * extent(value))
        made = work(*args, **named)
        spend(size(made))
        return made

    return spending


def joined(separator: str, values: Iterable[Any]) -> str:
    """The texts of values with a separator between them; nothing is made when it would be too much.

    Raises:
        SecurityError: The expression has done enough.
    """
    texts, work = [], 0
    left, between = _left.work, len(separator) + 1
    for value in values:
        if isinstance(value, str):
            text = value
        else:
            if type(value) not in _ATOMS:
                spend(_EACH * extent(value))
            text = value.exact() if isinstance(value, QUANTITIES) else str(value)
        texts.append(text)
        work += len(text) + between
        if work > left:
            break
    spend(work)
    return separator.join(texts)


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


MAX_PATTERN = 500
MAX_SEARCHED = 1_000_000
"""Characters of text that may be searched."""
MAX_STEPS = 200_000_000
"""Positions that the matcher may have to try in the worst case; about half a second."""
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
MANY = 64
"""A repeat that may go further than this counts as open."""


class _Cost(NamedTuple):
    """What makes a pattern slow.

    Attributes:
        repeats: Open repeats (`*`, `+`).
        ways: In how many ways its choices and its other repeats can be taken.
    """

    repeats: int = 0
    ways: int = 1

    def then(self, other: _Cost) -> _Cost:
        """Of both, one after the other."""
        return _Cost(self.repeats + other.repeats, self.ways * other.ways)

    def times(self, count: int) -> _Cost:
        """Of as many in a row; what is too much anyway is counted no further."""
        return _Cost(min(self.repeats * count, MAX_PATTERN), min(min(self.ways, MAX_STEPS + 1) ** count, MAX_STEPS + 1))

    def steps(self, length: int, *, anywhere: bool) -> int:
        """The positions to be tried in a text of that many characters."""
        ends = self.repeats + anywhere
        return math.comb(length + ends, ends) * self.ways


def search(text: Any, pattern: str) -> bool:
    """Whether the pattern occurs anywhere in the text."""
    return _checked(pattern, text, anywhere=True).search(text) is not None


def matches(text: Any, pattern: str) -> bool:
    """Whether the pattern matches the whole text."""
    return _checked(pattern, text, anywhere=False).fullmatch(text) is not None


def _checked(pattern: str, text: Any, *, anywhere: bool) -> re.Pattern[str]:
    if not isinstance(text, str):
        msg = f"a pattern is matched against a text, not {type(text).__name__}"
        raise TypeError(msg)
    compiled, cost, within_lines = _compiled(pattern)
    lengths = map(len, text.split("\n")) if within_lines else [len(text)]
    steps = len(text) + sum(cost.steps(length, anywhere=anywhere) for length in lengths)
    if len(text) > MAX_SEARCHED or steps > MAX_STEPS:
        msg = f"{len(text):,} characters are too many for this pattern: fewer `*`, `+`, `?` and `|` take longer texts"
        raise ValueError(msg)
    spend(min(steps, len(text)) + steps // 20)
    return compiled


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> tuple[re.Pattern[str], _Cost, bool]:
    """The pattern, its cost, and whether nothing that it repeats goes on beyond a line."""
    if len(pattern) > MAX_PATTERN:
        msg = f"a pattern has at most {MAX_PATTERN} characters"
        raise ValueError(msg)
    try:
        compiled = re.compile(pattern)
        tree = re._parser.parse(pattern)  # type: ignore[attr-defined] # noqa: SLF001 - the only parser of patterns there is
        return compiled, _cost(tree), "(?" not in pattern and _only_dots(tree)
    except (re.error, OverflowError, RecursionError) as error:
        msg = f"not a pattern: {error}"
        raise ValueError(msg) from error


def _only_dots(tree: Any) -> bool:
    """Whether `.` is all that is repeated, and no group or choice is there."""
    for operator, argument in tree:
        name = str(operator)
        if name in _REPEATS and [str(part[0]) for part in argument[2]] != ["ANY"]:
            return False
        if name not in {*_REPEATS, "LITERAL", "NOT_LITERAL", "ANY", "IN", "AT"}:
            return False
    return True


def _cost(tree: Any, *, within: bool = False) -> _Cost:
    """What a pattern costs.

    Raises:
        ValueError: A repeat stands inside another, or around a choice: the time to match could double with every
            character.
    """
    cost = _Cost()
    for operator, argument in tree:
        name = str(operator)
        if name in _REPEATS:
            cost = cost.then(_repeat(*argument, within=within))
        elif name == "BRANCH":
            if within:
                msg = "a choice inside a repeat may never end: simplify the pattern"
                raise ValueError(msg)
            branches = [_cost(branch) for branch in argument[1]]
            ways = sum(branch.ways for branch in branches)
            cost = cost.then(_Cost(max(branch.repeats for branch in branches), ways))
        elif name == "GROUPREF_EXISTS":
            for branch in filter(None, argument[1:]):
                cost = cost.then(_cost(branch, within=within))
        elif name in ("SUBPATTERN", "ATOMIC_GROUP", "ASSERT", "ASSERT_NOT"):
            cost = cost.then(_cost(argument if name == "ATOMIC_GROUP" else argument[-1], within=within))
        elif name == "GROUPREF" and within:
            msg = "a back reference inside a repeat may never end: simplify the pattern"
            raise ValueError(msg)
    return cost


def _repeat(least: int, most: int, repeated: Any, *, within: bool) -> _Cost:
    is_open = int(most) > MANY
    if within and (is_open or least != most):
        msg = "a repeat inside a repeat may never end: simplify the pattern"
        raise ValueError(msg)
    inner = _cost(repeated, within=within or is_open)
    if is_open:
        return inner.then(_Cost(1))
    return inner.times(int(most)).then(_Cost(0, int(most) - int(least) + 1))


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

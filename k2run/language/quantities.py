"""Durations, sizes and rates: the quantities a runbook writes with their unit, and what arithmetic makes of them.

They are numbers in base units (seconds, bytes, per second). In expressions a duration and a size are never added, nor
compared: one table says it for the check before the run, and for the values during it. To the rest of the code they
are plain numbers, but a duration is never compared with a size.
Long because a quantity, its notation and its arithmetic are one subject.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, Self


class Misread(ValueError):
    """A text that is not in its notation.

    Attributes:
        at: The character of the text at which it goes wrong; `length` of them are wrong.
        hint: How to fix it.
    """

    def __init__(self, message: str, *, at: int = 0, length: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.at = at
        self.length = length
        self.hint = hint


class Notation(ABC):
    """A value that is written in a notation of its own, such as `p99 < 500ms`; the package that reads it brings it.

    Attributes:
        example: What one looks like.
        says: What it is, for messages: `a threshold such as p99 < 500ms`.
        pattern: A regular expression that every one of them fits, for the JSON Schema.
    """

    example: ClassVar[str]
    says: ClassVar[str]
    pattern: ClassVar[str]

    @classmethod
    @abstractmethod
    def parse(cls, value: Any) -> Self:
        """Read one.

        Raises:
            Misread: It is none; the error says where it goes wrong.
        """


_DURATION = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_NUMBER = r"\d{1,15}(?:\.\d{1,20})?"
"""Long enough for any quantity, too short to be infinite."""
_DURATION_PART = re.compile(rf"({_NUMBER})\s*(ms|min|s|m|h|d)")
_DURATION_TEXT = re.compile(rf"(?:{_NUMBER}\s*(?:ms|min|s|m|h|d)\s*)+")
_SIZE_TEXT = re.compile(rf"({_NUMBER})\s*([KMGT]i?B|kB|B)")
_RATE_TEXT = re.compile(rf"({_NUMBER})\s*/\s*(s|m|min|h)")


_UNITS = ("TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "kB", "B")
_LONGEST = 100
"""Characters of the longest text that is tried as a quantity."""
_SHORT = 10
"""A text of at most so many characters is shown as it is; a longer one is rounded for people, and for them alone."""


class UnitMismatch(TypeError):
    """A quantity met one of another unit."""


class _Quantity:
    """A number with its unit: compared with numbers and with its own kind, never with a quantity of another.

    Attributes:
        written: The text that it was read from; empty for a computed one.
    """

    written: str = ""

    @classmethod
    def read(cls, text: str, number: float) -> Self:
        """The quantity that a text stands for; it keeps the text."""
        made = cls(number)  # type: ignore[call-arg] # of the number beside it
        made.written = text.strip()
        return made

    def _alike(self, other: Any) -> None:
        if isinstance(other, _Quantity) and type(other) is not type(self):
            raise UnitMismatch(f"{self!s} and {other!s} cannot be compared: they count different things")
        if isinstance(other, str):
            raise UnitMismatch(f"{self!s} and the text {other!r} cannot be compared")

    def __lt__(self, other: Any) -> bool:
        self._alike(other)
        return super().__lt__(other)  # type: ignore[misc, no-any-return] # of the number beside it

    def __le__(self, other: Any) -> bool:
        self._alike(other)
        return super().__le__(other)  # type: ignore[misc, no-any-return]

    def __gt__(self, other: Any) -> bool:
        self._alike(other)
        return super().__gt__(other)  # type: ignore[misc, no-any-return]

    def __ge__(self, other: Any) -> bool:
        self._alike(other)
        return super().__ge__(other)  # type: ignore[misc, no-any-return]


class Duration(_Quantity, float):
    """A length of time in seconds, written `500ms`, `30s`, `1m30s`, `2h`."""

    example: ClassVar[str] = "30s"

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a duration.

        Raises:
            ValueError: Not a duration; the message says what one looks like.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and _DURATION_TEXT.fullmatch(value.strip()):
            return cls.read(value, sum(float(n) * _DURATION[unit] for n, unit in _DURATION_PART.findall(value)))
        if not isinstance(value, bool) and value == 0:
            return cls(0)
        if isinstance(value, int | float) and not isinstance(value, bool):
            msg = f"a duration needs its unit: write {value:g}s, {value:g}ms or {value:g}m"
            raise ValueError(msg)  # noqa: TRY004 - decoders tell a wrong value by ValueError alone
        msg = f"expected a duration such as 30s, 1m30s or 500ms, found {value!r}"
        raise ValueError(msg)

    def exact(self) -> str:
        """The text that reads as this very duration: as it was written, else hours, minutes and seconds."""
        if self.written:
            return self.written
        if self < 0:
            return f"-{Duration(-self).exact()}"
        seconds = Decimal(repr(float(self)))
        if seconds < 1:
            return f"{_digits(seconds * 1000)}ms" if seconds else "0s"
        minutes, rest = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        parts = [(hours, "h"), (minutes, "m"), (rest, "s")]
        return "".join(f"{_digits(n)}{unit}" for n, unit in parts if n)

    def __str__(self) -> str:
        text = self.exact()
        if len(text) <= _SHORT:
            return text
        if self < 0:
            return f"-{Duration(-self)}"
        if self < 1:
            return f"{self * 1000:.3g}ms"
        if self < 60:  # noqa: PLR2004 - seconds in a minute
            return f"{float(self):.3g}s"
        return Duration(round(self)).exact()

    def __repr__(self) -> str:
        return f"Duration({str(self)!r})"


class Size(_Quantity, int):
    """A number of bytes, written `10MiB`, `1.5GB`, `512B`."""

    example: ClassVar[str] = "10MiB"

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a size.

        Raises:
            ValueError: Not a size; the message says what one looks like.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and (match := _SIZE_TEXT.fullmatch(value.strip())):
            return cls.read(value, round(Decimal(match[1]) * _SIZE[match[2]]))
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        msg = f"expected a size such as 10MiB, 1.5GB or a number of bytes, found {value!r}"
        raise ValueError(msg)

    def exact(self) -> str:
        """The text that reads as this very size: as it was written, else in the unit that takes the fewest digits."""
        if self.written:
            return self.written
        if self < 0:
            return f"-{Size(-self).exact()}"
        whole = [unit for unit in _UNITS if self >= _SIZE[unit] and not int(self) * 1000 % _SIZE[unit]]
        texts = [f"{_digits(Decimal(int(self)) / _SIZE[unit])}{unit}" for unit in whole]
        return min(texts, key=lambda text: (sum(map(str.isdigit, text)), len(text)), default="0B")

    def __str__(self) -> str:
        text = self.exact()
        if len(text) <= _SHORT - 3:
            return text
        if self < 0:
            return f"-{Size(-self)}"
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if self >= _SIZE[unit]:
                return f"{self / _SIZE[unit]:.4g}{unit}"
        return f"{int(self)}B"

    def __repr__(self) -> str:
        return f"Size({str(self)!r})"


class Rate(_Quantity, float):
    """Events per second, written `500/s`, `20/min`, `1000/h`."""

    example: ClassVar[str] = "500/s"

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a rate.

        Raises:
            ValueError: Not a rate; the message says what one looks like.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and (match := _RATE_TEXT.fullmatch(value.strip())):
            return cls.read(value, float(match[1]) / _DURATION[match[2]])
        msg = f"expected a rate such as 500/s or 20/min, found {value!r}"
        raise ValueError(msg)

    def exact(self) -> str:
        """The text that reads as this very rate: as it was written, else per second."""
        return self.written or f"{_digits(Decimal(repr(float(self))))}/s"

    def __str__(self) -> str:
        text = self.exact()
        return text if len(text) <= _SHORT else f"{float(self):.6g}/s"

    def __repr__(self) -> str:
        return f"Rate({str(self)!r})"


def _digits(number: Decimal) -> str:
    """The number without an exponent and without zeros at its end."""
    text = f"{number:.20f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def quantified(value: Any) -> Any:
    """The value with each text in it that reads as a duration, a size or a rate made that quantity.

    This is how what is written in `vars`, `set` and the items of a loop is read; the quantity keeps its text. What is
    computed keeps its type: an id of a result that happens to be `5d` stays a text.
    """
    if isinstance(value, str):
        return _quantity(value)
    if isinstance(value, dict):
        return {key: quantified(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(quantified(item) for item in value)
    return value


def _quantity(text: str) -> Any:
    if not text[:1].isdigit() or text[-1:].isdigit() or len(text) > _LONGEST:
        return text
    for kind in QUANTITIES:
        try:
            return kind.parse(text)
        except ValueError:
            continue
    return text


QUANTITIES: tuple[type[Duration | Size | Rate], ...] = (Duration, Size, Rate)


def decode_quantity(kind: type, value: Any) -> Any:
    """The `dec_hook` for msgspec: reads the quantities that runbooks write as text.

    Raises:
        ValueError: The text is not such a quantity.
        NotImplementedError: `kind` is not a quantity.
    """
    if kind in QUANTITIES or issubclass(kind, Notation):
        return kind.parse(value)
    raise NotImplementedError(kind)


def encode_quantity(value: Any) -> Any:
    """The `enc_hook` for msgspec: a quantity is journaled as its number in base units.

    Raises:
        NotImplementedError: `value` has no plain form.
    """
    if isinstance(value, Size):
        return int(value)
    if isinstance(value, Duration | Rate):
        return float(value)
    raise NotImplementedError(type(value))


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

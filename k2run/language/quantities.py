"""Durations, sizes and rates: the quantities a runbook writes with their unit.

They are numbers in base units (seconds, bytes, per second). What arithmetic makes of them in expressions stands in
`units`; to the rest of the code they are plain numbers, but a duration is never compared with a size.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

from k2run.language.notation import Notation

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
_NUMBER = r"\d{1,15}(?:\.\d{1,15})?"
"""Long enough for any quantity, too short to be infinite."""
_DURATION_PART = re.compile(rf"({_NUMBER})\s*(ms|min|s|m|h|d)")
_DURATION_TEXT = re.compile(rf"(?:{_NUMBER}\s*(?:ms|min|s|m|h|d)\s*)+")
_SIZE_TEXT = re.compile(rf"({_NUMBER})\s*([KMGT]i?B|kB|B)")
_RATE_TEXT = re.compile(rf"({_NUMBER})\s*/\s*(s|m|min|h)")


class UnitMismatch(TypeError):
    """A quantity met one of another unit."""


class _Ordered:
    """Compared with numbers and with its own kind, never with a quantity of another."""

    def _alike(self, other: Any) -> None:
        if isinstance(other, _Ordered) and type(other) is not type(self):
            raise UnitMismatch(f"{self!s} and {other!s} cannot be compared: they count different things")

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


class Duration(_Ordered, float):
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
            return cls(sum(float(n) * _DURATION[unit] for n, unit in _DURATION_PART.findall(value)))
        if not isinstance(value, bool) and value == 0:
            return cls(0)
        if isinstance(value, int | float) and not isinstance(value, bool):
            msg = f"a duration needs its unit: write {value:g}s, {value:g}ms or {value:g}m"
            raise ValueError(msg)  # noqa: TRY004 - decoders tell a wrong value by ValueError alone
        msg = f"expected a duration such as 30s, 1m30s or 500ms, found {value!r}"
        raise ValueError(msg)

    def __str__(self) -> str:
        if self < 0:
            return f"-{Duration(-self)}"
        if self < 1:
            return f"{self * 1000:.3g}ms" if self else "0s"
        if self < 60:  # noqa: PLR2004 - seconds in a minute
            return f"{float(self):.3g}s"
        minutes, seconds = divmod(round(self), 60)
        hours, minutes = divmod(minutes, 60)
        parts = [(hours, "h"), (minutes, "m"), (seconds, "s")]
        return "".join(f"{n}{unit}" for n, unit in parts if n)

    def __repr__(self) -> str:
        return f"Duration({str(self)!r})"


class Size(_Ordered, int):
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
            return cls(round(float(match[1]) * _SIZE[match[2]]))
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        msg = f"expected a size such as 10MiB, 1.5GB or a number of bytes, found {value!r}"
        raise ValueError(msg)

    def __str__(self) -> str:
        if self < 0:
            return f"-{Size(-self)}"
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if self >= _SIZE[unit]:
                return f"{self / _SIZE[unit]:.4g}{unit}"
        return f"{int(self)}B"

    def __repr__(self) -> str:
        return f"Size({str(self)!r})"


class Rate(_Ordered, float):
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
            return cls(float(match[1]) / _DURATION[match[2]])
        msg = f"expected a rate such as 500/s or 20/min, found {value!r}"
        raise ValueError(msg)

    def __str__(self) -> str:
        return f"{float(self):.6g}/s"

    def __repr__(self) -> str:
        return f"Rate({str(self)!r})"


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

"""Figures of loads as people read them: so many digits of small ones, no decimals of large ones, no powers of ten."""

from __future__ import annotations


def figure(value: float, digits: int = 3) -> str:
    """A number: `5.12`, `81,200`."""
    return f"{value:,.{digits}g}" if abs(value) < 10**digits - 0.5 else f"{value:,.0f}"


def in_ms(value: float, digits: int = 3) -> str:
    """Milliseconds: `5.12 ms`, `1,910 ms`."""
    return f"{figure(value, digits)} ms"


def per_second(value: float, digits: int = 3) -> str:
    """A rate: `3.24/s`, `81,200/s`."""
    return f"{figure(value, digits)}/s"

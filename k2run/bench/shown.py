"""Figures of loads as people read them: three digits of small ones, no decimals of large ones, no powers of ten."""

from __future__ import annotations

WHOLE_MS = 999.5
WHOLE_RATE = 99.5


def in_ms(value: float) -> str:
    """Milliseconds: `5.12 ms`, `1,910 ms`."""
    return f"{value:.3g} ms" if value < WHOLE_MS else f"{value:,.0f} ms"


def per_second(value: float) -> str:
    """A rate: `3.24/s`, `81,200/s`."""
    return f"{value:.3g}/s" if value < WHOLE_RATE else f"{value:,.0f}/s"

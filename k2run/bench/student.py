"""Student's t distribution, which says how far a mean of few figures may be off."""

from __future__ import annotations

from math import atan, cos, pi, sin, sqrt

CLOSE = 1e-9
"""How exact a quantile is, as a share of it."""


def two_sided(t: float, freedom: int) -> float:
    """How likely a value at least so far from 0, to either side, is by chance alone: 0 to 1.

    Exact for whole degrees of freedom: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 (odd)
    and 26.7.4 (even).

    Args:
        t: The value.
        freedom: Degrees of freedom, 1 or more.
    """
    theta = atan(abs(t) / sqrt(freedom))
    sine, square = sin(theta), cos(theta) ** 2
    odd = freedom % 2
    term = cos(theta) if odd else 1.0
    terms = 0.0 if freedom == 1 else term
    for n in range(3 if odd else 2, freedom - 1, 2):
        term *= square * (n - 1) / n
        terms += term
    within = 2 / pi * (theta + sine * terms) if odd else sine * terms
    return min(1.0, max(0.0, 1 - within))


def quantile(chance: float, freedom: int) -> float:
    """The value that is exceeded, to either side, so rarely by chance alone.

    Args:
        chance: Above 0 and below 1; 0.05 belongs to a 95 % interval.
        freedom: Degrees of freedom, 1 or more.
    """
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > chance:
        low, high = high, 2 * high
    while high - low > CLOSE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) > chance else (low, middle)
    return high

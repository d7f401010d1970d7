"""When a load need not go on: one of its thresholds can no longer be met, whatever the rest of it brings."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.bench.latency import QUANTILES, needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.bench.thresholds import Threshold

ROUNDING = 1.001
"""A histogram may show a latency as this much less than it was."""


class Counted(StrEnum):
    """What uses a threshold up."""

    ERRORS = "errors"
    EMPTY = "empty"
    SLOW = "slow"
    SECONDS = "seconds"


class Limit(Struct, frozen=True, kw_only=True):
    """How far a load may go before a threshold is lost.

    Attributes:
        threshold: As written.
        counted: What is counted.
        most: So many of them may be; with more it is lost.
        above: Seconds; an answer that took longer counts as slow.
        planned: Requests of the whole load; 0 when only time is set.
    """

    threshold: str
    counted: Counted
    most: float
    above: float = 0.0
    planned: int = 0

    def says(self, found: float, seconds: float) -> str:
        """Why it is lost: `lost after 1.2s: 11 answers took longer, of 1,000 at most 10 may`."""
        if self.counted is Counted.SECONDS:
            return f"lost after {seconds:.3g}s: {self.planned:,} requests should have been answered by now"
        what = {Counted.ERRORS: "errors", Counted.EMPTY: "empty answers"}.get(self.counted, "answers that took longer")
        of = f" of {self.planned:,}" if self.planned else ""
        return f"lost after {seconds:.3g}s: {found:,.0f} {what}, and at most {self.most:,.0f}{of} may be"


def limits_of(thresholds: Sequence[Threshold], planned: int) -> list[Limit]:
    """What would lose each threshold for good; those that only the end of the load can decide have none.

    Args:
        thresholds: Of a load.
        planned: Requests that it is to make; 0 when it is not known beforehand.
    """
    found = (_limit(threshold, planned) for threshold in thresholds)
    return [limit for limit in found if limit is not None]


def _limit(threshold: Threshold, planned: int) -> Limit | None:
    bound = threshold.bound
    match threshold.metric:
        case "errors" | "empty" if threshold.is_ceiling and (planned or not bound.is_share):
            counted = Counted(threshold.metric)
            return Limit(threshold=threshold.text, counted=counted, most=_most(threshold, planned), planned=planned)
        case "max" if threshold.is_ceiling:
            return Limit(threshold=threshold.text, counted=Counted.SLOW, most=0, above=bound.value * ROUNDING)
        case "rate" if planned and not threshold.is_ceiling and bound.value:
            most = planned / bound.value
            return Limit(threshold=threshold.text, counted=Counted.SECONDS, most=most, planned=planned)
        case name if name in QUANTILES and threshold.is_ceiling and planned >= needed(QUANTILES[name]):
            # One more than lie beyond the percentile: its rank is rounded.
            most = math.floor((1 - QUANTILES[name]) * planned) + 1
            above = bound.value * ROUNDING
            return Limit(threshold=threshold.text, counted=Counted.SLOW, most=most, above=above, planned=planned)
    return None


def _most(threshold: Threshold, planned: int) -> int:
    """The largest number that still keeps to the threshold."""
    bound = threshold.bound
    whole = bound.value * planned if bound.is_share else bound.value
    most = math.floor(round(whole, 9))
    return most - 1 if threshold.operator == "<" and most == round(whole, 9) else most

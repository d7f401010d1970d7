"""How long a load lasts: for a time, for a count, or until one of its thresholds can no longer be met."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.actions.deadline import Deadline
from k2run.bench.latency import QUANTILES, needed
from k2run.bench.thresholds import Threshold
from k2run.errors import Refused
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator

NONE = Duration(0)
TEN_SECONDS = Duration(10)


class Pace(Struct, frozen=True, kw_only=True):
    """How long a load goes on.

    Attributes:
        seconds: How long to measure; 0 when `iterations` says how much.
        iterations: How many requests, queries or messages to measure; 0 when `seconds` says how long.
        warm_up: Seconds of the same load before anything counts.
        limits: Where it ends before its time, because a threshold is lost.
    """

    seconds: float = 0.0
    iterations: int = 0
    warm_up: float = 0.0
    limits: list[Limit] = []


def paced(
    during: Duration | None,
    iterations: int,
    warm_up: Duration,
    deadline: Deadline,
    thresholds: Sequence[Threshold] = (),
    rate: float = 0.0,
) -> Pace:
    """How long to measure, as a step says it.

    Args:
        during: For a time; ten seconds when neither is given.
        iterations: For so many of what is counted; 0 when a time is given.
        warm_up: Before anything counts.
        deadline: When it must be over.
        thresholds: Those that are lost end the load.
        rate: Of an open loop: how many there will be in the time.

    Raises:
        Refused: Both a time and a number are given, or it cannot end before the deadline.
    """
    if (during is not None and iterations) or iterations < 0:
        raise Refused("give either `during` or `iterations`")
    seconds = 0.0 if iterations else during or TEN_SECONDS
    limits = limits_of(thresholds, iterations or int(rate * seconds))
    pace = Pace(seconds=seconds, iterations=iterations, warm_up=warm_up, limits=limits)
    takes = pace.warm_up + pace.seconds
    if takes >= deadline.remaining():
        raise Refused(
            f"the load takes {Duration(takes)}, and the step's timeout is {Duration(deadline.seconds)}",
            hint="set the step's `timeout` above `warm_up` and `during` together",
        )
    return pace


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


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Take everything that exists out of the garbage collector's sight: its pauses would count as latency."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

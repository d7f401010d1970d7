"""How long a load goes on: for a time, or for so many of whatever is counted."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from k2run.actions.deadline import Deadline
from k2run.bench.early_stop import Limit, limits_of
from k2run.bench.thresholds import Threshold
from k2run.errors import Refused
from k2run.language.quantities import Duration

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

"""How long a load goes on: for a time, or for so many of whatever is counted."""

from __future__ import annotations

from msgspec import Struct

from k2run.actions.deadline import Deadline
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
    """

    seconds: float = 0.0
    iterations: int = 0
    warm_up: float = 0.0


def paced(during: Duration | None, iterations: int, warm_up: Duration, deadline: Deadline) -> Pace:
    """How long to measure, as a step says it.

    Raises:
        Refused: Both a time and a number are given, or it cannot end before the deadline.
    """
    if (during is not None and iterations) or iterations < 0:
        raise Refused("give either `during` or `iterations`")
    pace = Pace(seconds=0.0 if iterations else during or TEN_SECONDS, iterations=iterations, warm_up=warm_up)
    takes = pace.warm_up + pace.seconds
    if takes >= deadline.remaining():
        raise Refused(
            f"the load takes {Duration(takes)}, and the step's timeout is {Duration(deadline.seconds)}",
            hint="set the step's `timeout` above `warm_up` and `during` together",
        )
    return pace

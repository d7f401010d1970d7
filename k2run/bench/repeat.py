"""Something done again and again, one after the other: a closed loop with one worker."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2run.bench.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.actions.deadline import Deadline
    from k2run.bench.pace import Pace
    from k2run.bench.plan import Outcome


@dataclass(frozen=True)
class Repeated:
    """What came of it.

    Attributes:
        cold_ms: How long the very first time took.
        last: What the last time gave.
    """

    outcome: Outcome
    cold_ms: float
    last: int


def repeat(once: Callable[[], int], pace: Pace, deadline: Deadline) -> Repeated:
    """Do it once, then until the warm-up has ended, then count.

    Args:
        once: Does it and says how much it found; nothing found is an empty answer.
        pace: How long.
        deadline: Ends it between two times; `once` must obey it by itself.
    """
    tally = Tally(limits=pace.limits)
    started = time.perf_counter()
    last = once()
    begin = time.perf_counter()
    cold_ms = (begin - started) * 1000
    skipped = count = 0
    while (now := time.perf_counter()) < begin + pace.warm_up:
        deadline.remaining()
        once()
        skipped += 1
    begin = now
    while (count < pace.iterations or now < begin + pace.seconds) and not tally.is_lost(now - begin):
        deadline.remaining()
        last, before = once(), now
        now = time.perf_counter()
        tally.found(last, now - before)
        count += 1
    outcome = tally.outcome(started=count, skipped=skipped, seconds=now - begin)
    return Repeated(outcome, round(cold_ms, 3), last)

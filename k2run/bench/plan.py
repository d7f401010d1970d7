"""What load to put on a service and for how long, and what came of it: plain values that travel between processes."""

from __future__ import annotations

import contextlib
import gc
import math
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct, structs

from k2run.actions.deadline import Deadline
from k2run.adapters.http.endpoint import Tls
from k2run.bench.latency import QUANTILES, decoded, needed
from k2run.bench.thresholds import Threshold
from k2run.errors import Refused
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator


NONE = Duration(0)
TEN_SECONDS = Duration(10)
ROUNDING = 1.001
"""A histogram may show a latency as this much less than it was."""
K = TypeVar("K")


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

    `planned` is how many requests the load is to make; 0 when that is not known beforehand.
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


class Ask(Struct, frozen=True, kw_only=True):
    """What is asked, again and again.

    Attributes:
        host: Host name or address; `port` and `tls` (None is plain HTTP) say how to connect.
        requests: Whole requests, ready to send; they take turns.
        repeatable: A request may be sent again when its idle connection turns out to be closed (not for POST).
        statuses: The statuses that count as answers; any 2xx when empty.
        rows: Path to the list of rows in a JSON answer, such as `data.items`; an answer with no rows is empty.
    """

    host: str
    port: int
    requests: list[bytes]
    tls: Tls | None = None
    repeatable: bool = True
    statuses: list[int] = []
    rows: str = ""


class Plan(Pace, frozen=True, kw_only=True):
    """How often something is asked.

    Attributes:
        workers: Connections that ask one after the other (closed loop), or at most so many at once (open loop).
        rate: Requests a second, whatever the answers do (open loop); 0 is a closed loop.
        think: Seconds that a worker of a closed loop pauses between an answer and its next request.
        most_errors: The load ends early once more requests than this failed; None for never.
        timeout: Seconds after which a request is given up and counted as an error.
    """

    ask: Ask
    workers: int = 1
    rate: float = 0.0
    think: float = 0.0
    most_errors: int | None = None
    timeout: float = 10.0


class Outcome(Struct, frozen=True, kw_only=True):
    """What one generator measured.

    Attributes:
        histogram: Latencies of the good answers, encoded; in an open loop from the intended start.
        failed: Latencies of the errors, encoded.
        started: Requests that count, sent or still waiting for a connection.
        seconds: The window: the planned time, or from the first request that counts to the last one's start.
        answered: Good answers that came within the window; None where each of them did.
        began: When the window began (Unix time).
        overlap: Of several generators: the share of the window in which all of them measured.
        missing: Of several generators: how many died, and what they measured with them.
        errors: How many, by class: `status 500`, `timeout`, `connection refused`.
        own_errors: Requests that the generator itself could not send, by class: `too many open files`.
        empty: Good answers without content or without rows; their latencies are not among the good ones.
        size: Bytes of the bodies of good answers.
        statuses: How many answers had which status.
        lateness: How late the generator sent each request, encoded; empty where it has nothing to be late for.
        sure: Latencies of the good answers less what is in doubt of them, encoded; empty where nothing is.
        tardy: Good answers whose request was sent so late that their latency is not the service's.
        from_send: Latencies of the good answers from the moment the request was really sent, encoded.
        cpu: Share of one core that the generator itself used.
        skipped: Requests of the warm-up.
        lost: Of each threshold that ended the load before its time, why it can no longer be met.
    """

    histogram: str
    failed: str
    started: int
    seconds: float
    errors: dict[str, int]
    empty: int
    size: int
    statuses: dict[int, int]
    skipped: int
    answered: int | None = None
    began: float = 0.0
    overlap: float = 1.0
    missing: int = 0
    own_errors: dict[str, int] = {}
    lateness: str = ""
    sure: str = ""
    tardy: int = 0
    from_send: str = ""
    cpu: float = 0.0
    lost: dict[str, str] = {}


def merge(outcomes: Sequence[Outcome], missing: int = 0) -> Outcome:
    """Several outcomes as one: the window is the time in which any of them measured.

    The answers of all are counted over that time. What part of it all of them measured in is `overlap`: where it is
    small, the sum was never put on at once, and is no rate.

    `missing` is how many generators died.
    """
    if len(outcomes) == 1:
        return structs.replace(outcomes[0], missing=missing)
    seconds, overlap = _window(outcomes)
    return Outcome(
        histogram=_merged([one.histogram for one in outcomes]),
        failed=_merged([one.failed for one in outcomes]),
        lateness=_merged([one.lateness for one in outcomes]),
        sure=_merged([one.sure or one.histogram for one in outcomes]) if any(one.sure for one in outcomes) else "",
        from_send=_merged([one.from_send for one in outcomes]),
        started=sum(one.started for one in outcomes),
        seconds=seconds,
        answered=_answered(outcomes),
        began=min(one.began for one in outcomes),
        overlap=overlap,
        missing=missing,
        errors=_summed([one.errors for one in outcomes]),
        own_errors=_summed([one.own_errors for one in outcomes]),
        empty=sum(one.empty for one in outcomes),
        size=sum(one.size for one in outcomes),
        statuses=_summed([one.statuses for one in outcomes]),
        tardy=sum(one.tardy for one in outcomes),
        cpu=max(one.cpu for one in outcomes),
        skipped=sum(one.skipped for one in outcomes),
        lost={threshold: why for one in outcomes for threshold, why in one.lost.items()},
    )


def _window(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Seconds in which any of them measured, and the share of it in which all did."""
    ends = [one.began + one.seconds for one in outcomes]
    begins = [one.began for one in outcomes]
    whole = max(ends) - min(begins)
    return whole, max(0.0, min(ends) - max(begins)) / whole if whole else 0.0


def _answered(outcomes: Sequence[Outcome]) -> int | None:
    counts = [one.answered for one in outcomes if one.answered is not None]
    return sum(counts) if len(counts) == len(outcomes) else None


def _merged(encoded: list[str]) -> str:
    return decoded(encoded).encode()


def _summed(parts: list[dict[K, int]]) -> dict[K, int]:
    return dict(sum(map(Counter, parts), Counter()))

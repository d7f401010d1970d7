"""What came of the requests that count: good, empty and failed answers, each kept apart."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.adapters._answers import MISREAD
from k2run.bench.latency import Latencies, decoded
from k2run.bench.plan import Counted, Limit, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from k2run.actions.deadline import Deadline
    from k2run.bench.plan import Ask, Pace

NO_CONTENT = 204
TARDY_S = 0.0003
"""Seconds that a request may be sent late whatever its latency: what a generator in Python can resolve."""
TARDY = 0.1
"""Share of its latency that a request may be sent late."""


class Kind(Enum):
    """Sorts of answers."""

    GOOD = "good"
    EMPTY = "empty"
    WRONG = "wrong"


class Tally:
    """Counts answers and failures as they come in.

    Attributes:
        last: When the last of them came (monotonic).
        sure: Latencies of the good answers less what is in doubt of them, because requests were sent or answers were
            heard late; None as long as nothing is.
        lateness: How late each request was sent.
        from_send: Latencies from the moment at which it was.
        tardy: Good answers whose request was sent too late for their latency to be the service's.
        own_errors: Requests that the generator itself could not send.
        lost: Of each threshold that can no longer be met, why.
    """

    def __init__(self, ask: Ask | None = None, limits: Sequence[Limit] = ()) -> None:
        self._limits = limits
        self._slow = dict.fromkeys((limit.above for limit in limits if limit.counted is Counted.SLOW), 0)
        self.lost: dict[str, str] = {}
        self._statuses_wanted = frozenset(ask.statuses if ask else ())
        self._rows = [part for part in (ask.rows if ask else "").split(".") if part]
        self.good = Latencies()
        self.failed = Latencies()
        self.errors: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.empty = 0
        self.size = 0
        self.last = 0.0
        self.sure: Latencies | None = None
        self.lateness = Latencies()
        self.from_send = Latencies()
        self.tardy = 0
        self.own_errors: Counter[str] = Counter()

    def answer(self, status: int, size: int, body: bytes | None, seconds: float, doubt: float = 0.0) -> bool:
        """Count a whole answer, of whose latency so many seconds are in doubt; whether it is a good one."""
        self.statuses[status] += 1
        kind = self.kind(status, size, body)
        if kind is Kind.WRONG:
            self.failure(f"status {status}", seconds)
        elif kind is Kind.EMPTY:
            self.empty += 1
        else:
            self.size += size
            self.took(seconds, doubt)
        return kind is Kind.GOOD

    def kind(self, status: int, size: int, body: bytes | None) -> Kind:
        """What sort of answer this is."""
        wanted = self._statuses_wanted
        if status not in wanted if wanted else not 200 <= status < 300:  # noqa: PLR2004 - the 2xx
            return Kind.WRONG
        if (not size and status != NO_CONTENT) or (self._rows and not _has_rows(body, self._rows)):
            return Kind.EMPTY
        return Kind.GOOD

    def found(self, count: int, seconds: float) -> None:
        """Count an answer of which only the number of rows is known."""
        if count:
            self.took(seconds)
        else:
            self.empty += 1

    def took(self, seconds: float, doubt: float = 0.0) -> None:
        """Count a good answer; one whose request was sent too late loses no threshold."""
        if doubt and self.sure is None:
            self.sure = decoded([self.good.encode()])
        self.good.record(seconds)
        if self.sure is not None:
            self.sure.record(max(0.0, seconds - doubt))
        if doubt > TARDY_S and doubt > TARDY * seconds:
            self.tardy += 1
            return
        for above in self._slow:
            if seconds > above:
                self._slow[above] += 1

    def took_all(self, seconds: Sequence[float]) -> None:
        """Count many good answers, with nothing in doubt."""
        self.good.record_all(seconds)
        if self.sure is not None:
            self.sure.record_all(seconds)
        for above in self._slow:
            self._slow[above] += sum(each > above for each in seconds)

    def took_in_doubt(self, seconds: Sequence[float], doubts: Sequence[float]) -> None:
        """Count many good answers, of each of whose latencies so many seconds are in doubt."""
        if self.sure is None:
            self.sure = decoded([self.good.encode()])
        self.good.record_all(seconds)
        self.sure.record_all([max(0.0, one - doubt) for one, doubt in zip(seconds, doubts, strict=True)])
        certain = [one for one, doubt in zip(seconds, doubts, strict=True) if doubt <= TARDY_S or doubt <= TARDY * one]
        self.tardy += len(seconds) - len(certain)
        for above in self._slow:
            self._slow[above] += sum(one > above for one in certain)

    def is_lost(self, seconds: float) -> bool:
        """Whether a threshold can no longer be met, so many seconds after the load began to count.

        To be asked only while there is more to come: at the end the figures themselves are judged.
        """
        for limit in self._limits:
            found = self._found(limit, seconds)
            if found > limit.most:
                self.lost.setdefault(limit.threshold, limit.says(found, seconds))
        return bool(self.lost)

    def _found(self, limit: Limit, seconds: float) -> float:
        match limit.counted:
            case Counted.ERRORS:
                return sum(self.errors.values())
            case Counted.EMPTY:
                return self.empty
            case Counted.SLOW:
                return self._slow[limit.above]
            case Counted.SECONDS:
                return seconds

    def outcome(
        self,
        *,
        started: int,
        skipped: int,
        seconds: float,
        answered: int | None = None,
        begin: float | None = None,
        cpu: float = 0.0,
    ) -> Outcome:
        """All of it, once the load has ended.

        Args:
            started: Requests that count.
            skipped: Those of the warm-up.
            seconds: The window.
            answered: Good answers within the window.
            begin: When the window began (monotonic).
            cpu: Share of a core that the generator used.
        """
        return Outcome(
            histogram=self.good.encode(),
            failed=self.failed.encode(),
            started=started,
            seconds=seconds,
            answered=answered,
            began=0.0 if begin is None else time.time() - (time.monotonic() - begin),
            errors=dict(self.errors),
            own_errors=dict(self.own_errors),
            empty=self.empty,
            size=self.size,
            statuses=dict(self.statuses),
            lateness=self.lateness.encode() if len(self.lateness) else "",
            sure=self.sure.encode() if self.sure is not None and self.tardy else "",
            tardy=self.tardy,
            from_send=self.from_send.encode() if len(self.from_send) else "",
            cpu=cpu,
            skipped=skipped,
            lost=self.lost,
        )

    def failure(self, why: str, seconds: float) -> None:
        """Count a request that failed."""
        self.errors[why] += 1
        self.failed.record(seconds)


def _has_rows(body: bytes | None, path: list[str]) -> bool:
    try:
        found: Any = msgspec.json.decode(body or b"")
    except MISREAD:
        return False
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    return bool(found)


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

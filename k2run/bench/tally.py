"""What came of the requests that count: good, empty and failed answers, each kept apart."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.bench.latency import Latencies
from k2run.bench.limits import Counted, Limit
from k2run.bench.plan import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.bench.plan import Ask

NO_CONTENT = 204


class Tally:
    """Counts answers and failures as they come in.

    Attributes:
        last: When the last of them came (monotonic).
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

    def answer(self, status: int, size: int, body: bytes | None, seconds: float) -> None:
        """Count a whole answer."""
        self.statuses[status] += 1
        wanted = self._statuses_wanted
        if status not in wanted if wanted else not 200 <= status < 300:  # noqa: PLR2004 - the 2xx
            self.failure(f"status {status}", seconds)
        elif (not size and status != NO_CONTENT) or (self._rows and not _has_rows(body, self._rows)):
            self.empty += 1
        else:
            self.size += size
            self.took(seconds)

    def found(self, count: int, seconds: float) -> None:
        """Count an answer of which only the number of rows is known."""
        if count:
            self.took(seconds)
        else:
            self.empty += 1

    def took(self, seconds: float) -> None:
        """Count a good answer."""
        self.good.record(seconds)
        for above in self._slow:
            if seconds > above:
                self._slow[above] += 1

    def took_all(self, seconds: Sequence[float]) -> None:
        """Count many good answers."""
        self.good.record_all(seconds)
        for above in self._slow:
            self._slow[above] += sum(each > above for each in seconds)

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

    def outcome(self, *, started: int, skipped: int, seconds: float, cpu: float = 0.0, late_ms: float = 0.0) -> Outcome:
        """All of it, once the load is over."""
        return Outcome(
            histogram=self.good.encode(),
            failed=self.failed.encode(),
            started=started,
            seconds=seconds,
            errors=dict(self.errors),
            empty=self.empty,
            size=self.size,
            statuses=dict(self.statuses),
            cpu=cpu,
            late_ms=late_ms,
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
    except msgspec.DecodeError:
        return False
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    return bool(found)

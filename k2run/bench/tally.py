"""What came of the requests that count: good, empty and failed answers, each kept apart."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.bench.latency import Latencies

if TYPE_CHECKING:
    from k2run.bench.plan import Ask

NO_CONTENT = 204


class Tally:
    """Counts answers and failures as they come in.

    Attributes:
        last: When the last of them came (monotonic).
    """

    def __init__(self, ask: Ask) -> None:
        self._statuses_wanted = frozenset(ask.statuses)
        self._rows = [part for part in ask.rows.split(".") if part]
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
            self.good.record(seconds)

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

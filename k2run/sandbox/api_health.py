"""What /health says: probes of everything an answer depends on, made at the moment of asking."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from k2run.sandbox.queries_files import TableMissingError, TableUnreadableError
from k2run.sandbox.queries_tail import TailUnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.sandbox.queries import Queries
    from k2run.sandbox.queries_files import TableFiles
    from k2run.sandbox.queries_tail import BrokerTail

Status = Literal["healthy", "degraded", "unhealthy"]
Seen = tuple[Status, str | None]  # what a probe found, and a word on it

_SLOW_MS = {"duckdb": 1000.0, "iceberg": 5000.0, "kafka": 1000.0}
_NEEDED = ("duckdb", "iceberg")  # without the broker the table still answers, all but its last second


class Dependency(msgspec.Struct, frozen=True):
    """One probe: `latency_ms` is null when it failed."""

    name: str
    status: Status
    latency_ms: float | None
    message: str | None


class Health(msgspec.Struct, frozen=True):
    """K2's /health body."""

    status: Status
    version: str
    timestamp: datetime
    dependencies: list[Dependency]


class HealthCheck:
    """Probes DuckDB, the Iceberg table and the broker side by side, each within about a second."""

    def __init__(self, version: str, queries: Queries, table: TableFiles, tail: BrokerTail) -> None:
        self._version, self._queries, self._table, self._tail = version, queries, table, tail
        self._threads = ThreadPoolExecutor(6, "health")

    def __call__(self) -> Health:
        """The state of things now."""
        probes = {"duckdb": self._duckdb, "iceberg": self._iceberg, "kafka": self._kafka}
        running = [self._threads.submit(_probed, name, probe) for name, probe in probes.items()]
        found = [probe.result() for probe in running]
        return Health(_overall(found), self._version, datetime.now(UTC).replace(tzinfo=None), found)

    def _duckdb(self) -> Seen:
        self._queries.check()
        return "healthy", None

    def _iceberg(self) -> Seen:
        view = self._table.view()
        self._queries.check_newest_file(view)
        if not view.rows:
            return "degraded", "the table has no rows yet"
        return "healthy", f"{view.rows} rows in {len(view.files)} files"

    def _kafka(self) -> Seen:
        return "healthy", self._tail.check()


def _probed(name: str, probe: Callable[[], Seen]) -> Dependency:
    started = time.perf_counter()
    try:
        status, message = probe()
    except (TableMissingError, TableUnreadableError, TailUnreadableError) as error:
        return Dependency(name, "unhealthy", None, str(error))
    except Exception as error:  # noqa: BLE001  a probe that breaks is what this endpoint is there to tell
        return Dependency(name, "unhealthy", None, f"{type(error).__name__}: {error}")
    took_ms = round((time.perf_counter() - started) * 1000, 2)
    return Dependency(name, "degraded" if took_ms > _SLOW_MS[name] else status, took_ms, message)


def _overall(found: list[Dependency]) -> Status:
    if any(one.status == "unhealthy" and one.name in _NEEDED for one in found):
        return "unhealthy"
    return "healthy" if all(one.status == "healthy" for one in found) else "degraded"

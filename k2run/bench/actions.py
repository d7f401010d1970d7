"""Benchmarks as actions: load in, honest figures out. `expect` and objectives judge them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.actions.action import Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg import duckdb_sql
from k2run.adapters.iceberg.catalog import Iceberg, judged, open_table
from k2run.bench.baseline import NO_RUNS, Baselines, fingerprint
from k2run.bench.consume import consume
from k2run.bench.http_load import HttpLoad, http
from k2run.bench.latency import QUANTILES, needed, per_second
from k2run.bench.plan import NONE, paced
from k2run.bench.produce import produce
from k2run.bench.result import Measured, judge
from k2run.bench.tally import repeat
from k2run.bench.thresholds import Threshold
from k2run.errors import Refused, Unknown
from k2run.language.quantities import Duration, Rate, Size
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["consume", "http", "knee", "produce", "query"]

GIBIBYTE = Size(2**30)
THREE_SECONDS = Duration(3)
ONE_SECOND = Duration(1)
FIRST = Rate(100)
MOST = Rate(20_000)
KEPT_UP = 0.95
"""Share of the offered rate that has to be answered."""
MOST_ERRORS = 0.01
TARDY = 0.05
"""Share of requests sent late from which on a rate may be too much for the generator."""
SLOWER = 3.0
"""Times the p95 of the first rate: from there on an answer has waited longer than it was worked on."""
WIDEST = 1.05
"""Ratio of the first rate that was too much to the last that was not, at which looking closer ends."""


class QueryLoad(Measured, frozen=True, kw_only=True):
    """What a load of queries met.

    Attributes:
        cold_ms: The very first query, which counts nowhere else: files are opened and caches filled.
        rows: Rows of the last answer, at most `limit`.
        warm_up_queries: Queries before anything counted, the first one left out.
        snapshots: The snapshot that was read of each table.
    """

    cold_ms: float
    rows: int
    warm_up_queries: int
    snapshots: dict[str, int]


class Offered(Struct, frozen=True, kw_only=True):
    """One rate that was tried.

    Attributes:
        rate: Requests a second that were sent.
        answered: Good answers a second.
        errors: Requests that failed.
        empty: Answers without content or rows.
        too_much: Why the service did not keep up, or why that is unknown; empty where it did.
        unknown: Whether it is unknown: the generator itself was late.
    """

    rate: float
    answered: float | None
    p50_ms: float | None
    p95_ms: float | None
    errors: int
    empty: int
    too_much: str = ""
    unknown: bool = False


class Knee(Result, frozen=True, kw_only=True):
    """Up to which rate a service keeps up.

    Attributes:
        rate: The highest rate that was kept up with, in requests a second; 0 when not even the first was.
        beyond: The lowest rate that was too much; None when none was.
        found: Whether the knee lies between the two, rather than above what was tried or what the generator can do.
        why: What happened beyond the knee.
        p95_ms: At the highest rate that was kept up with.
        steps: Every rate that was tried, in order.
    """

    rate: float
    beyond: float | None
    found: bool
    why: str
    p95_ms: float | None
    steps: list[Offered]

    def headline(self) -> str:
        """Such as `keeps up with 800/s; at 850/s p95 is 4.1 times that at 100/s`."""
        if self.beyond is None:
            return f"keeps up with {per_second(self.rate)}, and no more was tried"
        return f"keeps up with {per_second(self.rate)}; at {per_second(self.beyond)} {self.why}"


@action("bench.knee", effect=Effect.CHANGES)
def knee(
    services: Services,
    deadline: Deadline,
    service: str = "",
    path: str = "",
    url: str = "",
    params: dict[str, Any] = {},
    each: list[dict[str, Any]] = [],
    headers: dict[str, str] = {},
    rows: str = "",
    first: Rate = FIRST,
    most: Rate = MOST,
    factor: float = 1.5,
    closer: int = 2,
    during: Duration = THREE_SECONDS,
    warm_up: Duration = ONE_SECOND,
    workers: int = 100,
) -> Knee:
    """Raise the rate of requests until the service does not keep up, and name the last rate that it kept up with.

    A rate is too much when fewer than 95 % of its requests a second are answered, when more than 1 % of them fail or
    are empty, or when p95 is more than three times that of the first rate; and when that is so again at once. It ends
    as well where p95 is not measured, because the generator itself was late. Between the last rate kept up with and
    the first that was too much it looks closer. Latencies count from the moment a request should have started.

    Args:
        service: The service to ask; its URL and headers come from the stack.
        path: Path below the service's URL.
        url: A whole URL, instead of a service.
        params: Query parameters of every request.
        each: Query parameters that take turns, request by request.
        headers: Sent beside those of the service.
        rows: Path to the rows in a JSON answer, such as `data`; an answer without rows counts as empty.
        first: The rate to begin with, such as `50/s`; the service has to be at ease with it.
        most: The rate to end with when nothing gives way before.
        factor: By how much each rate is higher than the one before.
        closer: How many rates to try between the last that was kept up with and the first that was too much.
        during: How long each rate is measured.
        warm_up: Time at each rate before anything counts.
        workers: Connections at once, at most.
    """
    refuse(first, most, factor, during)

    def offer(rate: float) -> HttpLoad:
        return http(
            services,
            deadline,
            service=service,
            path=path,
            url=url,
            params=params,
            each=each,
            headers=headers,
            rows=rows,
            rate=Rate(rate),
            during=during,
            warm_up=warm_up,
            workers=workers,
        )

    return seek(offer, rates=(first, most), factor=factor, closer=closer)


@action("bench.query")
def query(
    iceberg: Iceberg,
    deadline: Deadline,
    sql: str,
    baselines: Baselines = NO_RUNS,
    parameters: dict[str, Any] = {},
    each: list[dict[str, Any]] = [],
    during: Duration | None = None,
    iterations: int = 0,
    warm_up: Duration = NONE,
    thresholds: list[Threshold] = [],
    limit: int = 10_000,
    memory: Size = GIBIBYTE,
    threads: int = 2,
) -> QueryLoad:
    """Ask Iceberg tables the same SELECT again and again through DuckDB, and measure latencies and empty answers.

    The tables are read as they are at the beginning; finding their files is not measured, reading them is.

    Args:
        sql: The query; it names tables as the catalog does.
        parameters: Values for the placeholders `$name` in the query.
        each: Values that take turns, query by query, such as one symbol each.
        during: How long to measure (10s, unless `iterations` says how much).
        iterations: How many queries to measure, instead of a time.
        warm_up: Time of the same queries before anything counts; the very first one never counts.
        thresholds: What is promised, such as `p99 < 500ms`, `errors < 0.1%`, `rate > 1000/s` or
            `regression < 10% vs baseline`; one that is missed or not measured fails the step, and one that is lost
            beyond hope ends the load.
        limit: Rows to fetch at most.
        memory: What DuckDB may use; it spills to disk beyond that.
        threads: Processor cores it may use.
    """
    pace = paced(during, iterations, warm_up, deadline, thresholds)
    names = duckdb_sql.table_names(sql)
    tables = {name: open_table(iceberg, deadline, name) for name in names}
    turns = itertools.cycle([parameters | turn for turn in each] or [parameters])
    with judged(iceberg, "query the tables"), duckdb_sql.opened(tables, deadline, memory, threads) as database:
        repeated = repeat(lambda: duckdb_sql.count(database, sql, next(turns), limit), pace, deadline)
    snapshots = {name: at.snapshot_id for name, table in tables.items() if (at := table.current_snapshot()) is not None}
    met = QueryLoad.of(
        repeated.outcome,
        iceberg.source,
        load=fingerprint("bench.query", asked=[sql, parameters, each], paced=[limit, memory, threads]),
        cold_ms=repeated.cold_ms,
        rows=repeated.last,
        warm_up_queries=repeated.outcome.skipped,
        snapshots=snapshots,
    )
    return judge(met, thresholds, repeated.outcome, baselines)


def refuse(first: Rate, most: Rate, factor: float, during: Duration) -> None:
    """Refuse rates that do not rise, and measurements too short for a p95.

    Raises:
        Refused: They are.
    """
    least = needed(QUANTILES["p95"])
    if first * during < least:
        hint = f"p95 needs {least} samples: raise `first` or `during`"
        raise Refused(f"{first} for {during} are {first * during:.0f} requests", hint=hint)
    if factor <= 1 or most <= first:
        raise Refused("the rate has to rise: `factor` is above 1, and `most` above `first`")


def seek(offer: Callable[[float], HttpLoad], *, rates: tuple[float, float], factor: float, closer: int) -> Knee:
    """Find the knee.

    Args:
        offer: Puts a load of so many requests a second on the service.
        rates: The first rate, and the highest, in requests a second.
        factor: By how much each rate is higher than the one before.
        closer: How many rates to try between the last that was kept up with and the first that was too much.
    """
    steps: list[Offered] = []
    rate, most = rates
    good, bad = 0.0, 0.0
    while not bad and good < most:
        steps += _tried(offer, rate, steps)
        good, bad = (good, rate) if steps[-1].too_much else (rate, 0.0)
        rate = min(most, rate * factor)
    for _ in range(closer):
        if not bad or not good or bad / good <= WIDEST:
            break
        rate = (good * bad) ** 0.5
        steps += _tried(offer, rate, steps)
        good, bad = (good, rate) if steps[-1].too_much else (rate, bad)
    kept = next((step for step in steps if step.rate == good and not step.too_much), None)
    return Knee(
        rate=round(good, 1),
        beyond=round(bad, 1) or None,
        found=bool(good and bad) and not any(step.unknown for step in steps if step.rate == bad),
        why=next((step.too_much for step in steps if step.rate == bad), ""),
        p95_ms=kept.p95_ms if kept else None,
        steps=steps,
    )


def _tried(offer: Callable[[float], HttpLoad], rate: float, before: list[Offered]) -> list[Offered]:
    """One rate, tried; what was too much is tried again, for a single hitch is not a knee."""
    once = _judged(offer, rate, before)
    return [once, _judged(offer, rate, before)] if once.too_much else [once]


def _judged(offer: Callable[[float], HttpLoad], rate: float, before: list[Offered]) -> Offered:
    """One rate, tried and judged."""
    try:
        met = offer(rate)
    except Unknown as nothing:
        return Offered(rate=rate, answered=0.0, p50_ms=None, p95_ms=None, errors=0, empty=0, too_much=str(nothing))
    why = _too_much(met, rate, before[0] if before else None)
    return Offered(
        rate=rate,
        answered=met.rate,
        p50_ms=met.p50_ms,
        p95_ms=met.p95_ms,
        errors=met.errors,
        empty=met.empty,
        too_much=why,
        unknown=met.p95_ms is None,
    )


def _too_much(met: HttpLoad, rate: float, first: Offered | None) -> str:
    bad, requests = met.errors + met.empty, met.samples + met.errors + met.empty
    if bad > MOST_ERRORS * requests:
        return f"{bad:,} of {requests:,} requests failed or were empty"
    if met.rate is not None and met.rate < KEPT_UP * rate:
        limit = ", and the generator was late itself" if met.tardy > TARDY * met.samples else ""
        return f"only {per_second(met.rate)} are answered{limit}"
    if met.p95_ms is None:
        return f"p95 is not measured: {met.generator or met.not_measured}"
    if first is not None and first.p95_ms is not None and met.p95_ms > SLOWER * first.p95_ms:
        return f"p95 is {met.p95_ms / first.p95_ms:.3g} times that at {per_second(first.rate)}"
    return ""

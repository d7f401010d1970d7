"""Further `bench.*` actions, for K2's pipeline: how fast it drains a backlog, and how long a trade takes to be seen.

Long because every action on the pipeline is on this page.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from k2run.actions.action import Blast, Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters.http.client import Request
from k2run.adapters.http.endpoint import target
from k2run.adapters.iceberg import duckdb_sql
from k2run.adapters.iceberg.catalog import Iceberg, judged, open_catalog, open_table
from k2run.adapters.kafka import offsets
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.kafka.form import Payloads, frame_for, made_up, refuse_other_form
from k2run.bench.baseline import NO_RUNS, Baselines, fingerprint
from k2run.bench.latency import Spread, in_ms
from k2run.bench.plan import NONE, paced
from k2run.bench.produce import id_prefix
from k2run.bench.result import Measured, Used, Watch, judge
from k2run.bench.thresholds import Threshold
from k2run.errors import ActionError, AuthorError, TimedOut, Unknown
from k2run.k2.trade_generator import SYMBOLS
from k2run.language.quantities import Duration, Rate, Size
from k2run.stack.services import Services

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

    from k2run.k2.probing import Probed, Probing

HUNDRED_MS = Duration(0.1)
GIBIBYTE = Size(2**30)
THREADS = 2


class IngestLoad(Result, frozen=True, kw_only=True):
    """How a backlog was drained: rows by the word of the table's metadata, messages by offsets.

    The clock of `rate` runs from the moment that the whole backlog was in the topic to the one at which the group had
    committed all of it, which a consumer that loses nothing does after the table's commit.

    Attributes:
        rate: Rows a second that the table gained.
        rows: That it gained in this time, those of other producers too.
        seconds: The time.
        error_ms: Longest time between two looks: `seconds` is too long by at most this.
        messages: That were left when the clock began.
        commits: Snapshots that the table gained, which expiry can make fewer.
        lag_before: Messages that the group was behind before the backlog was written.
        written: Messages of the backlog.
        written_per_s: How fast they were written.
        rows_meanwhile: Rows that the table gained while they were written; not part of the rate.
        in_table: Different messages of the backlog that are in the table afterwards; None without a backlog.
        missing: Those that are not: lost, or put off by a consumer that sheds load.
        doubled: Rows of the backlog too many.
        used: What the services that were watched used of their machine, while the clock ran.
        id_prefix: What the trade_id of each message of the backlog begins with.
    """

    topic: str
    table: str
    rate: float
    rows: int
    seconds: float
    error_ms: float
    messages: int
    commits: int
    lag_before: int
    written: int
    written_per_s: float
    rows_meanwhile: int
    in_table: int | None
    missing: int
    doubled: int
    used: dict[str, Used]
    id_prefix: str

    def headline(self) -> str:
        """Such as `80,658 rows/s (600,000 rows in 7.44 s), none missing, none twice`."""
        drained = f"{self.rate:,.0f} rows/s ({self.rows:,} rows in {self.seconds:.3g} s)"
        if self.in_table is None:
            return drained
        missing = f"{self.missing:,} MISSING" if self.missing else "none missing"
        doubled = f"{self.doubled:,} TWICE" if self.doubled else "none twice"
        return f"{drained}, {missing}, {doubled}"


@action("bench.ingest", effect=Effect.CHANGES, blast=Blast.DATA)
def ingest(
    kafka: Kafka,
    iceberg: Iceberg,
    services: Services,
    deadline: Deadline,
    topic: str,
    group: str,
    table: str,
    backlog: int = 100_000,
    symbols: list[str] = SYMBOLS,
    seed: int = 1,
    every: Duration = HUNDRED_MS,
    memory: Size = GIBIBYTE,
    watch: list[str] = [],
) -> IngestLoad:
    """Write a backlog of trades, and measure how fast it becomes committed rows of the table.

    The backlog has to be written faster than the consumer drains it. Where it is not, hold the consumer in the steps
    before (`service.pause`, `kafka.produce`, `service.resume`), and drain what is there with `backlog: 0`.

    Args:
        topic: Name of the topic.
        group: The consumer group that drains it.
        table: The table that its rows go to.
        backlog: Trades to write; 0 drains what the group is behind.
        symbols: The currency pairs, of which the first trades most.
        seed: Of the market.
        every: Time between two looks at offsets and table.
        memory: What counting the backlog's rows may use.
        watch: Services whose use of processor and memory is measured, such as the consumer.
    """
    if backlog < 0 or not symbols or every <= 0:
        raise AuthorError("bench.ingest: `backlog` cannot be below 0, `every` must be above, and `symbols` not empty")
    link = Link(kafka, deadline)
    pipeline = Pipeline(link, topic, group, iceberg, table)
    before = pipeline.look(pipeline.ends())
    prefix = id_prefix()
    frame = frame_for(link, topic, "trade") if backlog else 0
    payloads = Payloads(template="trade", frame=frame, prefix=prefix, symbols=symbols, seed=seed)
    written = _write(kafka, topic, payloads, backlog, deadline)
    with Watch(services, watch) as watched:
        drained = pipeline.drain(pipeline.ends(), every, deadline)
    if not drained.first.left:
        raise Unknown(
            f"nothing was left of the backlog of {backlog:,} once it was written, so there is no time to measure",
            hint="write a larger one, or hold the consumer while it is written and drain it with `backlog: 0`",
        )
    found = _found(iceberg, table, prefix, deadline, memory) if backlog else None
    return IngestLoad(
        **_rates(drained),
        source=f"{link.source}, {iceberg.source}",
        topic=topic,
        table=iceberg.full_name(table),
        lag_before=before.left,
        written=backlog,
        written_per_s=round(written, 3),
        rows_meanwhile=drained.first.rows - before.rows,
        in_table=found["ids"] if found else None,
        missing=backlog - found["ids"] if found else 0,
        doubled=found["n"] - found["ids"] if found else 0,
        used=watched.used(),
        id_prefix=prefix if backlog else "",
    )


def _write(kafka: Kafka, topic: str, payloads: Payloads, count: int, deadline: Deadline) -> float:
    """Write the backlog; how many messages a second that were."""
    from k2run.bench.producing import Writing, write

    if not count:
        return 0.0
    refuse_other_form(Link(kafka, deadline), topic, next(payloads.messages())["value"])
    plan = Writing(kafka=kafka, topic=topic, payloads=payloads, iterations=count, timeout=deadline.remaining())
    outcome = write(plan, deadline)
    if outcome.errors:
        told = ", ".join(f"{number:,} times {why}" for why, number in outcome.errors.items())
        raise ActionError(f"the backlog could not be written to {topic!r}: {told}")
    return count / outcome.seconds


def _rates(drained: Drained) -> dict[str, Any]:
    first, last = drained.first, drained.last
    rows, seconds = last.rows - first.rows, last.at - first.at
    return {
        "rate": round(rows / seconds, 3) if seconds else 0.0,
        "rows": rows,
        "seconds": round(seconds, 3),
        "error_ms": round(drained.gap * 1000, 3),
        "messages": first.left,
        "commits": last.commits - first.commits,
    }


def _found(iceberg: Iceberg, name: str, prefix: str, deadline: Deadline, memory: Size) -> dict[str, int]:
    """Rows (`n`) and different messages (`ids`) of the backlog in the table."""
    counts = "SELECT count(*) AS n, count(DISTINCT message_id) AS ids FROM t WHERE starts_with(trade_id, $prefix)"
    table = open_table(iceberg, deadline, name)
    with judged(iceberg, f"count {name}"), duckdb_sql.opened({"t": table}, deadline, memory, THREADS) as database:
        (row,) = duckdb_sql.ask(database, counts, {"prefix": prefix}, 1).rows
    return row


class Moment(Struct, frozen=True):
    """The pipeline at one moment.

    Attributes:
        at: Monotonic seconds, after both were read.
        left: Messages before the target that the group has not committed.
        rows: Of the table.
        commits: Snapshots of the table.
    """

    at: float
    left: int
    rows: int
    commits: int


_TOLD_S = 0.15
"""How long after the rows a group may tell their offsets: the consumer tells them with its next turn."""


class Drained(Struct, frozen=True):
    """From the first moment to the one at which nothing was left.

    Attributes:
        gap: The longest time between two looks, in seconds: the error of every time.
        most_left: The most messages that were left at any of them.
    """

    first: Moment
    last: Moment
    gap: float
    most_left: int


class Pipeline:
    """A topic, the group that reads it, and the table that the group writes."""

    def __init__(self, link: Link, topic: str, group: str, iceberg: Iceberg, table: str) -> None:
        self._link, self._topic, self._group = link, topic, group
        self._iceberg, self._table = iceberg, iceberg.full_name(table)
        open_table(iceberg, link.deadline, table)  # says what there is, when there is no such table
        self._catalog: Catalog = open_catalog(iceberg, link.deadline)

    def ends(self) -> dict[int, int]:
        """Where each partition ends now."""
        return {number: span.high for number, span in offsets.spans(self._link, self._topic).items()}

    def look(self, target: Mapping[int, int]) -> Moment:
        """How far it has come: first the offsets, then the rows, which were committed before them."""
        left = self._left(target)
        with judged(self._iceberg, f"count {self._table}"):
            table = self._catalog.load_table(self._table)
        snapshot = table.current_snapshot()
        total = snapshot.summary["total-records"] if snapshot is not None and snapshot.summary is not None else 0
        if total is None:
            raise Unknown(f"the snapshots of {self._table} do not tell how many rows it has")
        return Moment(time.monotonic(), left, int(total), len(table.metadata.snapshots))

    def _left(self, target: Mapping[int, int]) -> int:
        at = offsets.committed(self._link, self._group, self._topic, target)
        return sum(max(0, end - (at[number] or 0)) for number, end in target.items())

    def drain(self, target: Mapping[int, int], every: float, deadline: Deadline) -> Drained:
        """Look until nothing before the target is left.

        Raises:
            TimedOut: The deadline passed first; the message says how far it came.
        """
        first = self.look(target)
        deadline.sleep(_TOLD_S)
        # Read again, after the rows: each message that is left now is one of the rows still to come.
        first = last = msgspec.structs.replace(first, left=self._left(target))
        gap, most = 0.0, first.left
        while last.left:
            try:
                deadline.sleep(max(0.001, last.at + every - time.monotonic()))
                before, last = last, self.look(target)
            except TimedOut as error:
                done = f"{last.rows - first.rows:,} rows came, {last.left:,} messages are left"
                raise TimedOut(f"{error.message}: {done}", hint=error.hint) from error
            gap, most = max(gap, last.at - before.at), max(most, last.left)
        return Drained(first, last, gap, most)


FIVE_A_SECOND = Rate(5)
TWENTY_MS = Duration(0.02)
THIRTY_SECONDS = Duration(30)


class PipelineLoad(Measured, frozen=True, kw_only=True):
    """How long probe trades took to become visible; latencies count from the moment each was due.

    A look finds what came since the look before it, so each latency is too long by at most the time between the two:
    `error_p50_ms` for half of the probes, `error_max_ms` for all.

    Attributes:
        topic: Where the probes were written.
        every_ms: Time between two looks, as it was asked for.
        error_p50_ms: Half of the latencies are too long by at most this; None with fewer than 20 of them.
        error_max_ms: No latency is too long by more than this.
        looks: How long each look took, which is part of the error.
        failed_looks: Looks without an answer, or without a good one.
        acknowledged: From due to the broker's acknowledgement: the first part of each latency.
        lost: Probes that were written and not seen in time; they are errors, too.
        warm_up_probes: Probes before anything counted.
        used: What the services that were watched used of their machine.
        id_prefix: What the trade_id of each probe begins with.
    """

    topic: str
    every_ms: float
    error_p50_ms: float | None
    error_max_ms: float | None
    looks: Spread
    failed_looks: int
    acknowledged: Spread
    lost: int
    warm_up_probes: int
    used: dict[str, Used]
    id_prefix: str

    @classmethod
    def met(cls, plan: Probing, probed: Probed, source: str, **more: Any) -> PipelineLoad:
        """What came of a plan.

        Raises:
            Unknown: No probe was seen at all.
        """
        errors = probed.errors.spread()
        return cls.of(
            probed.outcome,
            source,
            topic=plan.topic,
            every_ms=plan.every * 1000,
            error_p50_ms=errors.value("p50"),
            error_max_ms=errors.max_ms,
            looks=probed.looks.spread(),
            failed_looks=probed.failed_looks,
            acknowledged=probed.acknowledged.spread(),
            lost=sum(count for why, count in probed.outcome.errors.items() if why.startswith("not visible")),
            warm_up_probes=probed.outcome.skipped,
            id_prefix=plan.prefix,
            **more,
        )

    def headline(self) -> str:
        """Such as `p50 812 ms, p99 1,402 ms (n=1,200), 5/s, no errors, at most 21 ms too long`."""
        lost = f", {self.lost:,} LOST" if self.lost else ""
        return f"{super().headline()}, at most {in_ms(self.error_max_ms or 0.0)} too long{lost}"


@action("bench.pipeline", effect=Effect.CHANGES, blast=Blast.DATA)
def pipeline(
    kafka: Kafka,
    services: Services,
    deadline: Deadline,
    topic: str,
    baselines: Baselines = NO_RUNS,
    service: str = "",
    path: str = "",
    url: str = "",
    params: dict[str, Any] = {},
    headers: dict[str, str] = {},
    rows: str = "data",
    table: str = "",
    id: str = "message_id",
    symbol: str = "ETHUSDT",
    rate: Rate = FIVE_A_SECOND,
    during: Duration | None = None,
    iterations: int = 0,
    warm_up: Duration = NONE,
    thresholds: list[Threshold] = [],
    every: Duration = TWENTY_MS,
    visible_within: Duration = THIRTY_SECONDS,
    watch: list[str] = [],
    seed: int = 1,
) -> PipelineLoad:
    """Write probe trades to a topic, and measure how long each takes until the API, or the Iceberg table, shows it.

    Each probe has a message_id of its own and is looked for by it. Probes come at random moments, so that they meet
    every phase of a consumer that commits by the clock.

    Args:
        topic: Name of the topic that the pipeline reads.
        service: The API that shows trades; its URL and headers come from the stack.
        path: Path below the service's URL, such as `/v1/trades`.
        url: A whole URL, instead of a service.
        params: Query parameters, such as `{symbol: ETHUSDT, limit: 1000}`: the newest trades of the probes' symbol,
            and more of them than come in between two looks.
        headers: Sent beside those of the service.
        rows: Path to the rows in the JSON answer.
        table: Instead of an API: the Iceberg table in which committed rows are looked for.
        id: The field or column with the message_id.
        symbol: Currency pair of the probes.
        rate: Probes a second, on average.
        during: How long to send probes (10s, unless `iterations` says how many).
        iterations: How many probes to send, instead of a time.
        warm_up: Time under the same load before anything counts.
        thresholds: What is promised, such as `p99 < 3s` or `errors < 0.1%`; one that is missed or not measured fails
            the step, and one that is lost beyond hope ends the load.
        every: Time between two looks: latencies are too long by at most this and the time that a look takes.
        visible_within: A probe that was not seen after this is lost, which is an error.
        watch: Services whose use of processor and memory is measured, such as the consumer.
        seed: Of the moments and the probes.
    """
    from k2run.k2.probing import InAnswers, InTable, Probing, probe

    pace = paced(during, iterations, warm_up, deadline, thresholds)
    if bool(table) == bool(service or url) or rate <= 0 or every <= 0:
        raise AuthorError("bench.pipeline needs a `service`, a `url` or a `table`, and `rate` and `every` above 0")
    link = Link(kafka, deadline)
    offsets.partitions(link, topic)  # a mistyped name must not become a new topic
    frame = frame_for(link, topic, "trade")
    refuse_other_form(link, topic, next(made_up("trade", id_prefix(), seed, [symbol], frame))[1])
    if table:
        sight: InAnswers | InTable = InTable(Iceberg.of(services.stack), table, id, deadline)
    else:
        address, sent = target(services, service, path, url, headers, params)
        sight = InAnswers(Request(url=address, headers=sent), rows, id)
    plan = Probing(
        kafka=kafka,
        topic=topic,
        prefix=id_prefix(),
        symbol=symbol,
        rate=rate,
        every=every,
        patience=visible_within,
        frame=frame,
        seed=seed,
        seconds=pace.seconds,
        iterations=pace.iterations,
        warm_up=pace.warm_up,
        limits=pace.limits,
    )
    with Watch(services, list(dict.fromkeys([service, *watch] if service else watch))) as watched:
        probed = probe(plan, sight, deadline)
    load = fingerprint("bench.pipeline", asked=[topic, service, path, url, params, table, symbol], paced=[rate, every])
    met = PipelineLoad.met(plan, probed, sight.source, load=load, used=watched.used())
    return judge(met, thresholds, probed.outcome, baselines)

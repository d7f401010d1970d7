"""How long a trade takes from the broker's topic to where people see it, as an action."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.actions.action import Blast, Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters.http.client import Request
from k2run.adapters.http.endpoint import target
from k2run.adapters.iceberg.catalog import Iceberg
from k2run.adapters.kafka import offsets
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.kafka.form import frame_for, made_up, refuse_other_form
from k2run.bench.baseline import NO_RUNS, Baselines, fingerprint
from k2run.bench.latency import Spread, in_ms
from k2run.bench.plan import NONE, paced
from k2run.bench.produce import id_prefix
from k2run.bench.result import Measured, Used, Watch, judge
from k2run.bench.thresholds import Threshold
from k2run.errors import AuthorError
from k2run.language.quantities import Duration, Rate
from k2run.stack.services import Services

if TYPE_CHECKING:
    from k2run.k2.probing import Probed, Probing

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

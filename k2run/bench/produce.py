"""How many messages a Kafka cluster takes, and how long each waits for its acknowledgement, as an action."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Literal

from msgspec import structs

from k2run.actions.action import Blast, Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import offsets
from k2run.adapters.kafka.client import Kafka, Link, Setting
from k2run.adapters.kafka.form import Payloads, Template, frame_for, refuse_other_form, template_of
from k2run.adapters.kafka.offsets import create_topic
from k2run.bench.baseline import NO_RUNS, Baselines, fingerprint
from k2run.bench.plan import NONE, TEN_SECONDS, paced
from k2run.bench.result import SATURATED, Measured, Used, Watch, judge
from k2run.bench.thresholds import Threshold
from k2run.errors import AuthorError
from k2run.language.quantities import Duration, Rate, Size
from k2run.stack.services import Services

if TYPE_CHECKING:
    from k2run.bench.plan import Outcome
    from k2run.bench.producing import Writing

MEGABYTE = 1_000_000


class ProduceLoad(Measured, frozen=True, kw_only=True):
    """What a load of messages met: latencies are those of acknowledgements, as the program that writes hears of them.

    In an open loop they count from the moment the message should have been written, otherwise from the moment it was.

    Attributes:
        topic: Where the messages went.
        bytes: Of the values of the messages that were acknowledged.
        mb_per_s: Millions of these bytes a second.
        loop: `closed`: as fast as the cluster takes them; `open`: a set rate.
        waiting: Messages that waited for their acknowledgement at most.
        processes: That wrote together.
        lost_processes: Of these, those that died; their messages are missing.
        given_up: There were more errors than allowed, and the load ended early.
        used: What the services that were watched used of their machine.
        generator_cpu: Share of one core that the writing thread used.
        warm_up_messages: Messages before anything counted.
        id_prefix: With a template: what the id of each of these messages begins with.
    """

    topic: str
    bytes: int
    mb_per_s: float
    loop: Literal["closed", "open"]
    waiting: int
    processes: int
    lost_processes: int
    given_up: bool
    used: dict[str, Used]
    generator_cpu: float
    warm_up_messages: int
    id_prefix: str

    @classmethod
    def met(cls, plan: Writing, outcome: Outcome, **more: Any) -> ProduceLoad:
        """What came of a plan.

        Raises:
            Unknown: No message was acknowledged at all.
        """
        return cls.of(
            outcome,
            f"kafka {plan.kafka.bootstrap}",
            topic=plan.topic,
            bytes=outcome.size,
            mb_per_s=round(outcome.size / MEGABYTE / outcome.seconds, 3) if outcome.seconds else 0.0,
            loop="open" if plan.rate else "closed",
            waiting=plan.most_waiting,
            given_up=plan.most_errors is not None and sum(outcome.errors.values()) > plan.most_errors,
            generator_cpu=round(outcome.cpu, 3),
            warm_up_messages=outcome.skipped,
            id_prefix=plan.payloads.prefix,
            **more,
        )

    def headline(self) -> str:
        """Such as `p50 5.1 ms, p99 7.9 ms (n=812,000), 81,200/s, no errors, 43.3 MB/s`."""
        full = self.loop == "closed" and self.generator_cpu >= SATURATED
        limit = ", the generator may be the limit" if full else ""
        lost = f", {self.lost_processes} generators DIED" if self.lost_processes else ""
        given_up = ", given up" if self.given_up else ""
        return f"{super().headline()}, {self.mb_per_s:.3g} MB/s{limit}{lost}{given_up}"


@action("bench.produce", effect=Effect.CHANGES, blast=Blast.DATA)
def produce(
    kafka: Kafka,
    services: Services,
    deadline: Deadline,
    topic: str,
    baselines: Baselines = NO_RUNS,
    size: Size | None = None,
    template: Template | None = None,
    values: list[Any] = [],
    keys: list[str] = [],
    symbols: list[str] = [],
    partitions: int = 0,
    rate: Rate | None = None,
    during: Duration | None = None,
    iterations: int = 0,
    warm_up: Duration = NONE,
    thresholds: list[Threshold] = [],
    waiting: int = 20_000,
    most_errors: int | None = None,
    message_timeout: Duration = TEN_SECONDS,
    settings: dict[str, str | int | float | bool] = {},
    processes: int = 1,
    dask: str = "",
    seed: int = 1,
    watch: list[str] = [],
) -> ProduceLoad:
    """Write messages to a topic for a while, and measure how many are acknowledged and how long each waits for it.

    What the readers of the topic could not read, by its newest messages, is refused, and nothing is written.

    Without a rate it is a closed loop: as fast as the cluster acknowledges, with at most `waiting` messages on their
    way. With a rate it is an open loop: latencies count from the moment a message should have been written.

    Args:
        topic: Name of the topic; it must be there, unless `partitions` says how to make it.
        size: Bytes of each value, made up so that they cannot be compressed.
        template: Instead of a size: a template of messages, an entry point of `k2run.messages`.
        values: Instead of a size: the values, over and over; text is written as it is, anything else as JSON.
        keys: The keys, over and over, for `size` and `values`; without any the client spreads the messages.
        symbols: With a template: the keys of its messages (the template's own by default).
        partitions: Makes the topic with so many, where it is not there yet.
        rate: Messages a second, such as `500/s`, which makes it an open loop.
        during: How long to measure (10s, unless `iterations` says how much).
        iterations: How many messages to measure, instead of a time.
        warm_up: Time under the same load before anything counts; a first message costs an idempotent producer 500 ms.
        thresholds: What is promised, such as `p99 < 500ms`, `errors < 0.1%`, `rate > 50000/s` or
            `regression < 10% vs baseline`; one that is missed or not measured fails the step, and one that is lost
            beyond hope ends the load.
        waiting: Messages that may wait for their acknowledgement; fewer are faster each, more are faster together.
        most_errors: End the load early once more messages than this failed; with several processes, in one of them.
        message_timeout: After this a message is given up and counts as an error.
        settings: Of librdkafka's producer. Without any all replicas acknowledge (`acks: all`), the producer is
            idempotent, batches are compressed with lz4 and wait 5 ms for more messages (`linger.ms`).
        processes: Local processes that write together; the client in one of them fills about one core.
        dask: Address of a Dask scheduler, such as `tcp://10.0.0.1:8786`; then `processes` of its workers do it.
        seed: Of what is made up.
        watch: Services whose use of processor and memory is measured, such as the broker.
    """
    from k2run.bench.plan import merge
    from k2run.bench.producing import Writing, split, write
    from k2run.bench.workers import together

    pace = paced(during, iterations, warm_up, deadline, thresholds, rate or 0.0)
    if waiting < 1 or processes < 1:
        raise AuthorError("bench.produce: `waiting` and `processes` must be above 0")
    if template and not symbols:
        symbols = [*template_of(template).symbols]
    payloads = _payloads(size, template, values, keys, symbols, seed)
    if partitions:
        _make(kafka, deadline, topic, partitions)
    link = Link(kafka, deadline)
    offsets.partitions(link, topic)  # a mistyped name must not become a new topic
    plan = Writing(
        kafka=kafka,
        topic=topic,
        payloads=structs.replace(payloads, frame=frame_for(link, topic, template) if template else 0),
        rate=rate or 0.0,
        **structs.asdict(pace),
        most_waiting=waiting,
        most_errors=most_errors,
        timeout=message_timeout,
        settings=_complete(settings),
    )
    refuse_other_form(link, topic, next(plan.payloads.messages())["value"])
    with Watch(services, watch) as watched:
        outcomes, lost = together(write, split(plan, processes), dask, deadline)
    outcome = merge(outcomes, lost)
    load = fingerprint(
        "bench.produce",
        asked=[topic, size, str(template or ""), values, keys, symbols],
        paced=[plan.rate, waiting, processes, settings],
    )
    met = ProduceLoad.met(plan, outcome, load=load, processes=processes, lost_processes=lost, used=watched.used())
    return judge(met, thresholds, outcome, baselines)


def _payloads(
    size: Size | None, template: Template | None, values: list[Any], keys: list[str], symbols: list[str], seed: int
) -> Payloads:
    if (size is not None) + bool(template) + bool(values) != 1 or size == 0:
        raise AuthorError("bench.produce needs one of `size` (above 0), `template` and a list of `values`")
    return Payloads(
        template=str(template or ""),
        prefix=id_prefix() if template else "",
        symbols=symbols,
        values=[value.encode() if isinstance(value, str) else json.dumps(value).encode() for value in values],
        size=int(size or 0),
        keys=keys,
        seed=seed,
    )


def id_prefix() -> str:
    """What the ids of the messages of one load begin with, and those of no other."""
    return f"K2RUN-bench-{os.urandom(3).hex()}-"


def _complete(settings: dict[str, Setting]) -> dict[str, Setting]:
    """An idempotent producer wants every replica's word; one that does without is not idempotent."""
    weaker = str(settings.get("acks", settings.get("request.required.acks", "all"))) not in {"all", "-1"}
    return ({"enable.idempotence": False} if weaker else {}) | settings


def _make(kafka: Kafka, deadline: Deadline, topic: str, partitions: int) -> None:
    if topic not in offsets.topic_names(Link(kafka, deadline)):
        create_topic(kafka, deadline, topic, partitions=partitions)

"""How fast a Kafka cluster hands out what a topic holds, as an action."""

from __future__ import annotations

import math

from k2run.actions.action import Judged, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import offsets as where
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.kafka.offsets import Span
from k2run.bench.consuming import Read, Reading, dealt, read, split
from k2run.bench.formatting import per_second
from k2run.bench.pace import NONE, Pace, paced
from k2run.bench.result import SATURATED
from k2run.bench.watch import Used, Watch
from k2run.errors import AuthorError, Unknown
from k2run.language.quantities import Duration
from k2run.stack.services import Services

MEGABYTE = 1_000_000


class ConsumeLoad(Result, frozen=True, kw_only=True):
    """What was read of a topic, by consumers without a group.

    Attributes:
        messages: That count; those of the warm-up do not.
        rate: Messages a second.
        mb_per_s: Millions of bytes of their values a second.
        seconds: From the start, connecting included, or from the end of the warm-up, to the last message.
        first_ms: From the assignment of the partitions to the first message.
        bytes: Of the values.
        partitions: That were read.
        by_partition: Messages read of each, those of the warm-up too.
        workers: Consumers, each with its share of the partitions.
        processes: In which they ran.
        lost_processes: Of these, those that died; what they read is missing.
        ended: The topic was read to where it ended when the load began.
        warm_up_messages: Messages before anything counted.
        used: What the services that were watched used of their machine.
        generator_cpu: Cores that the readers used, of those in the busiest process; Python fills one.
    """

    topic: str
    messages: int
    rate: float
    mb_per_s: float
    seconds: float
    first_ms: float
    bytes: int
    partitions: int
    by_partition: dict[int, int]
    workers: int
    processes: int
    lost_processes: int
    ended: bool
    warm_up_messages: int
    used: dict[str, Used]
    generator_cpu: float

    def judged(self) -> list[Judged]:
        """A reader that is lost makes the step fail, whatever else is expected of it."""
        lost = Judged(objective="no reader is lost", met=False, says=f"{self.lost_processes} died")
        return [lost] if self.lost_processes else []

    def headline(self) -> str:
        """Such as `310,000/s, 62 MB/s (n=600,000), 4 workers`."""
        limit = ", the reader may be the limit" if self.generator_cpu >= SATURATED * self.processes else ""
        lost = f", {self.lost_processes} readers DIED" if self.lost_processes else ""
        ended = "" if self.ended else ", not to the end"
        workers = "worker" if self.workers == 1 else "workers"
        read = f"{per_second(self.rate)}, {self.mb_per_s:.3g} MB/s (n={self.messages:,}), {self.workers} {workers}"
        return f"{read}{ended}{limit}{lost}"


@action("bench.consume")
def consume(
    kafka: Kafka,
    services: Services,
    deadline: Deadline,
    topic: str,
    offsets: dict[int, int] = {},
    newest: int = 0,
    during: Duration | None = None,
    iterations: int = 0,
    warm_up: Duration = NONE,
    workers: int = 1,
    processes: int = 1,
    dask: str = "",
    settings: dict[str, str | int | float | bool] = {},
    watch: list[str] = [],
) -> ConsumeLoad:
    """Read a topic as fast as the cluster hands it out, to where it ends now, and measure messages and bytes a second.

    No group is joined and nothing is committed. A topic with nothing to read is unknown, not fast.

    Args:
        topic: Name of the topic.
        offsets: Where to begin, by partition, such as `{0: 5000}`; the others begin at their oldest message.
        newest: Instead of offsets: about so many of the newest messages, evenly from all partitions.
        during: Read for at most so long; without it and `iterations` to the end.
        iterations: Read at most so many messages.
        warm_up: Time of the same reading before anything counts.
        workers: Consumers that share the partitions; no more than there are partitions.
        processes: Local processes that share the consumers; Python reads with about one core in each.
        dask: Address of a Dask scheduler, such as `tcp://10.0.0.1:8786`; then `processes` of its workers do it.
        settings: Of librdkafka's consumer, such as `{fetch.message.max.bytes: 1048576}`.
        watch: Services whose use of processor and memory is measured, such as the broker.
    """
    from k2run.bench.workers import together

    if workers < 1 or processes < 1 or processes > workers:
        raise AuthorError("bench.consume needs at least one worker, and no more processes than workers")
    limited = during is not None or iterations != 0
    pace = paced(during, iterations, warm_up, deadline) if limited else Pace(warm_up=warm_up)
    spans = _spans(where.spans(Link(kafka, deadline), topic), offsets, newest)
    filled = {number: span for number, span in spans.items() if span.high > span.low}
    if not filled:
        raise Unknown(f"the topic {topic!r} at {kafka.bootstrap} holds no messages to read", hint="write some before")
    plan = Reading(
        kafka=kafka,
        topic=topic,
        shares=dealt(filled, min(workers, len(filled))),
        settings=settings,
        seconds=pace.seconds,
        iterations=pace.iterations,
        warm_up=pace.warm_up,
    )
    with Watch(services, watch) as watched:
        found, lost = together(read, split(plan, min(processes, len(plan.shares))), dask, deadline)
    return _summed(plan, found, lost, watched.used())


def _spans(spans: dict[int, Span], at: dict[int, int], newest: int) -> dict[int, Span]:
    """What is to be read of each partition."""
    if at and newest:
        raise AuthorError("bench.consume: give either `offsets` or `newest`")
    if unknown := at.keys() - spans.keys():
        raise Unknown(f"the topic has no partition {min(unknown)}; it has {len(spans)}")
    share = math.ceil(newest / max(1, len(spans)))
    begins = {number: span.high - share if newest else at.get(number, span.low) for number, span in spans.items()}
    return {number: Span(max(span.low, begins[number]), span.high) for number, span in spans.items()}


def _summed(plan: Reading, found: list[Read], lost: int, used: dict[str, Used]) -> ConsumeLoad:
    messages, seconds = sum(each.messages for each in found), max(each.seconds for each in found)
    if not messages:
        raise Unknown(f"nothing of topic {plan.topic!r} was read after the warm-up", hint="shorten `warm_up`")
    size = sum(each.bytes for each in found)
    firsts = [each.first_s for each in found if each.first_s is not None]
    return ConsumeLoad(
        source=f"kafka {plan.kafka.bootstrap}",
        topic=plan.topic,
        messages=messages,
        rate=round(messages / seconds, 3),
        mb_per_s=round(size / MEGABYTE / seconds, 3),
        seconds=round(seconds, 3),
        first_ms=round(min(firsts) * 1000, 3),
        bytes=size,
        partitions=sum(map(len, plan.shares)),
        by_partition=dict(sorted({n: count for each in found for n, count in each.by_partition.items()}.items())),
        workers=len(plan.shares),
        processes=len(found) + lost,
        lost_processes=lost,
        ended=not lost and all(each.ended for each in found),
        warm_up_messages=sum(each.skipped for each in found),
        used=used,
        generator_cpu=round(max(each.cpu for each in found), 3),
    )

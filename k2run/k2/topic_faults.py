"""Further `topic.*` faults, which write synthetic trades: late ones in no order, or a burst of them."""

from __future__ import annotations

import random
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.actions.action import Blast, Striking, fault
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.kafka.form import frame_for, made_up, schema_for
from k2run.adapters.schema_registry.avro import Encoder
from k2run.adapters.topic import Troubled, bounded, trouble
from k2run.k2.trade_generator import SYMBOLS, trades
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable

A_MINUTE = Duration(60)


@fault("topic.disorder", blast=Blast.DATA, undone_by="topic.await_read")
def disorder(
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    group: str,
    count: int = 1000,
    late: Duration = A_MINUTE,
    seed: int = 1,
) -> Striking[Troubled]:
    """Write trades whose times are up to `late` ago, in no order. Undone when the group is past them.

    Blast radius: every reader of the topic; the trades stay in it.

    Args:
        topic: Name of the topic.
        group: Consumer group that has to get past them.
        count: How many.
        late: How late the latest is.
        seed: The same seed gives the same disorder.
    """
    shuffled = random.Random(seed)  # noqa: S311 - an order, not a secret
    prefix = f"K2RUN-late-{shuffled.getrandbits(24):06x}-"
    link = Link(kafka, deadline)
    write = _writer(link, topic)
    messages = []
    for key, value in islice(trades(prefix, seed, SYMBOLS), bounded(count)):
        trade = msgspec.json.decode(value)
        trade["timestamp"] -= int(shuffled.random() * late * 1e6)
        messages.append((key, write(trade)))
    return (yield from trouble(kafka, deadline, topic, group, messages, prefix))


@fault("topic.flood", blast=Blast.DATA, undone_by="topic.await_read")
def flood(
    kafka: Kafka, deadline: Deadline, topic: str, group: str, count: int = 100_000, seed: int = 1
) -> Striking[Troubled]:
    """Write a burst of trades as fast as the cluster takes them. Undone when the group is past them.

    Blast radius: every reader of the topic falls behind; the trades stay in it.

    Args:
        topic: Name of the topic.
        group: Consumer group that has to get past them.
        count: How many.
        seed: The same seed gives the same market, with new ids.
    """
    prefix = f"K2RUN-flood-{random.getrandbits(24):06x}-"
    frame = frame_for(Link(kafka, deadline), topic, "trade")
    messages = islice(made_up("trade", prefix, seed, SYMBOLS, frame), count)
    return (yield from trouble(kafka, deadline, topic, group, messages, prefix))


def _writer(link: Link, topic: str) -> Callable[[Any], bytes]:
    """What writes a trade for the readers of the topic."""
    registry = link.kafka.registry
    if registry is None or schema_for(link, topic) is None:
        return msgspec.json.encode
    return Encoder(registry, link.deadline, f"{topic}-value").encode

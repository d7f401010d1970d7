from __future__ import annotations

import uuid

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.kafka.client import Kafka
from k2run.adapters.kafka.offsets import Span
from k2run.bench.actions import consume, produce
from k2run.bench.consume import dealt
from k2run.errors import AuthorError, Interrupted, Unknown, Unreachable
from k2run.language.quantities import Size

MESSAGES = 30_000


@pytest.fixture(scope="module")
def topic(platform):
    """A topic with 30,000 messages of 200 bytes in four partitions."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    keys = [f"key-{number}" for number in range(40)]
    load = {"topic": name, "partitions": 4, "size": Size(200), "iterations": MESSAGES, "keys": keys}
    produce(platform.kafka, platform.services, Deadline(60), **load)
    return name


def read(platform, topic, **arguments):
    return consume(platform.kafka, platform.services, Deadline(60), topic=topic, **arguments)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_topic_is_read_to_its_end_and_every_message_counted_once(platform, topic, workers):
    result = read(platform, topic, workers=workers, watch=["broker"])
    assert (result.messages, result.bytes, result.ended) == (MESSAGES, MESSAGES * 200, True)
    assert sum(result.by_partition.values()) == MESSAGES
    assert (result.partitions, result.workers, len(result.by_partition)) == (4, workers, 4)
    assert result.rate == pytest.approx(MESSAGES / result.seconds, rel=0.05)
    assert result.mb_per_s == pytest.approx(result.rate * 200 / 1e6, rel=0.05)
    assert 0 < result.first_ms <= result.seconds * 1000
    assert result.used.keys() == {"broker"}


def test_several_processes_read_what_one_would(platform, topic):
    result = read(platform, topic, workers=4, processes=2)
    assert (result.messages, result.processes, result.lost_processes) == (MESSAGES, 2, 0)


def test_reading_begins_at_an_offset_or_with_the_newest(platform, topic):
    whole = read(platform, topic)
    late = read(platform, topic, offsets={number: count - 10 for number, count in whole.by_partition.items()})
    assert late.messages == 40
    assert read(platform, topic, newest=100).messages == 100


def test_reading_ends_after_so_many_messages(platform, topic):
    result = read(platform, topic, iterations=5000)
    assert (result.messages, result.ended) == (5000, False)
    assert "not to the end" in result.headline()


def test_a_topic_with_nothing_to_read_is_unknown(platform, topic):
    with pytest.raises(Unknown, match="there is no topic"):
        read(platform, "not-there")
    with pytest.raises(Unknown, match="holds no messages"):
        read(platform, topic, offsets=dict.fromkeys(range(4), MESSAGES))
    with pytest.raises(Unknown, match="no partition 9"):
        read(platform, topic, offsets={9: 1})
    with pytest.raises(AuthorError, match="no more processes than workers"):
        read(platform, topic, processes=2)
    with pytest.raises(Unreachable):
        read(platform._replace(kafka=Kafka(bootstrap="127.0.0.1:1")), topic)


def test_a_request_to_stop_ends_the_reading(platform, topic):
    deadline = Deadline(60)
    deadline.stop.set()
    with pytest.raises(Interrupted):
        consume(platform.kafka, platform.services, deadline, topic=topic)


def test_partitions_are_dealt_out_by_what_they_hold():
    spans = {0: Span(0, 100), 1: Span(0, 10), 2: Span(50, 100), 3: Span(0, 45)}
    assert [set(share) for share in dealt(spans, 2)] == [{0}, {1, 2, 3}]

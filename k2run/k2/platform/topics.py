"""The sandbox's topics: their names and settings, making them, and telling one life of a topic from the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from k2run.k2.platform import trade
from k2run.k2.platform.program import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future

Answer = TypeVar("Answer")

_RPC_S = 2.0
_MARGIN_S = 2.0

PARTITIONS: Mapping[str, int] = {trade.TOPIC: 40, trade.REFERENCE_TOPIC: 1}
_SETTINGS: Mapping[str, dict[str, str]] = {
    trade.TOPIC: {"cleanup.policy": "delete", "retention.ms": str(7 * 24 * 3600 * 1000)},
    trade.REFERENCE_TOPIC: {"cleanup.policy": "compact", "min.compaction.lag.ms": "60000"},
}

# Without the two limits a client waits up to 10 s before it tries a restarted broker again.
CLIENT: Mapping[str, str | int | float | bool] = {
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    # A broker that comes back empty would otherwise be given topics with its own default number of partitions.
    "allow.auto.create.topics": False,
    "log_level": 0,
}


def admin(bootstrap: str) -> AdminClient:
    """A client for metadata and offsets."""
    settings = {key: value for key, value in CLIENT.items() if key != "allow.auto.create.topics"}
    return AdminClient({"bootstrap.servers": bootstrap, "socket.timeout.ms": 5000, **settings})


def make_topics(client: AdminClient) -> None:
    """Make the topics that are missing.

    Raises:
        KafkaException: the broker could not be reached or refused.
    """
    wanted = [NewTopic(name, count, 1, config=_SETTINGS[name]) for name, count in PARTITIONS.items()]
    for made in client.create_topics(wanted, request_timeout=_RPC_S).values():
        try:
            _answer(made)
        except KafkaException as problem:
            if problem.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def lives(client: AdminClient) -> dict[str, str]:
    """The id the broker gave each topic when it was made; a topic that does not exist is left out.

    A topic that was deleted and made again, or whose broker lost it, has another id: offsets of its earlier life say
    nothing about this one.

    Raises:
        KafkaException: the broker could not be reached.
    """
    described = client.describe_topics(TopicCollection(list(PARTITIONS)), request_timeout=_RPC_S)
    found = {}
    for name, answer in described.items():
        try:
            found[name] = str(_answer(answer).topic_id)
        except KafkaException as problem:
            if problem.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return found


def ensure(client: AdminClient) -> dict[str, str]:
    """Every topic's id, after making the topics that are missing.

    Raises:
        KafkaException: the broker could not be reached, or does not show a topic it has just made yet.
    """
    found = lives(client)
    if missing := PARTITIONS.keys() - found.keys():
        make_topics(client)
        log("topics_created", topics=",".join(sorted(missing)))
        found = lives(client)
        if PARTITIONS.keys() - found.keys():
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    return found


def _answer(promised: Future[Answer]) -> Answer:
    """What the broker answered; a client library that overruns its own time limit is a broker that did not answer."""
    try:
        return promised.result(_RPC_S + _MARGIN_S)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None  # noqa: SLF001  librdkafka's own errors have a _


def partitions(names: Iterable[str]) -> list[TopicPartition]:
    """Every partition of the topics `names`."""
    return [TopicPartition(name, number) for name in names for number in range(PARTITIONS[name])]


def end_offsets(client: AdminClient, of: Iterable[TopicPartition]) -> dict[tuple[str, int], int]:
    """The broker's word on where each partition ends, in one request.

    Tansu 0.6 answers with the last batch's first offset plus one, so while a batch of n messages is the newest the
    figure is up to n - 1 too low. The watermark that comes with a fetch is exact.

    Raises:
        KafkaException: the broker could not be reached.
    """
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # untyped upstream
    asked = client.list_offsets(dict.fromkeys(of, latest), request_timeout=_RPC_S)
    return {(at.topic, at.partition): _answer(answer).offset for at, answer in asked.items()}

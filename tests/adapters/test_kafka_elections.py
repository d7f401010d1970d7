"""Partitions that are electing a leader are asked again; the answers are recorded: no broker elects on demand."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import offsets
from k2run.adapters.kafka.client import Link
from k2run.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping


class Electing(Link):
    """A link to a broker whose partition 2 has no leader for the first `times` requests."""

    def __init__(self, times: int) -> None:
        self.kafka = SimpleNamespace(bootstrap="broker:9092")
        self.deadline = Deadline(20)
        self._admin = SimpleNamespace(list_offsets=self.list_offsets)
        self._answered = False
        self._times = times
        self.asked: list[list[int]] = []

    def list_offsets(self, wanted: Mapping[TopicPartition, OffsetSpec], **_: Any) -> dict[TopicPartition, Future[Any]]:
        self.asked.append(sorted(at.partition for at in wanted))
        return {at: self._answer(at.partition) for at in wanted}

    def _answer(self, partition: int) -> Future[Any]:
        future: Future[Any] = Future()
        if partition == 2 and len(self.asked) <= self._times:
            future.set_exception(KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)))
        else:
            future.set_result(SimpleNamespace(offset=100 + partition))
        return future


def test_only_the_partitions_that_are_electing_are_asked_again():
    link = Electing(times=2)
    assert offsets._listed(link, "wide", range(4), OffsetSpec.latest()) == {0: 100, 1: 101, 2: 102, 3: 103}
    assert link.asked == [[0, 1, 2, 3], [2], [2]]


def test_an_election_that_lasts_is_told_with_its_partitions(monkeypatch):
    monkeypatch.setattr(offsets, "ELECTION_S", 0.2)
    with pytest.raises(Unreachable, match=r"1 of the partitions of 'wide' at broker:9092 have no leader: 2"):
        offsets._listed(Electing(times=99), "wide", range(4), OffsetSpec.latest())

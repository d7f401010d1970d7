"""What a link does to those who speak through it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from k2run.errors import NotApplicable, Refused
from k2run.sandbox.readdress import Readdress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Faulty

KAFKA = "127.0.0.1"


@pytest.fixture
def healed(faulty: Faulty) -> Iterator[Faulty]:
    yield faulty
    faulty.call("network.mend", link="reader")


def lag(faulty: Faulty) -> int:
    return faulty.call("kafka.lag", topic="ticks", group="readers").total


def test_a_silent_cut_holds_messages_back_until_it_is_mended(healed: Faulty) -> None:
    healed.call("topic.await_read", topic="ticks", group="readers")
    healed.call("network.cut", link="reader")
    healed.call("kafka.produce", topic="ticks", count=10, template="trade")
    time.sleep(1)
    assert lag(healed) == 10
    healed.call("network.mend", link="reader")
    healed.call("topic.await_read", 20.0, topic="ticks", group="readers")
    assert lag(healed) == 0


def test_a_link_tells_what_is_wrong_with_it(healed: Faulty) -> None:
    healed.call("network.delay", link="reader", latency="30ms")
    healed.call("network.throttle", link="reader", rate="90000/s", way="downstream")
    line = healed.call("network.links").links[0]
    assert [(one.type, one.stream) for one in line.wrong] == [
        ("latency", "upstream"),
        ("latency", "downstream"),
        ("bandwidth", "downstream"),
    ]
    healed.call("network.mend", link="reader", what="latency")
    assert [one.type for one in healed.call("network.links").links[0].wrong] == ["bandwidth"]


def test_the_same_fault_twice_is_refused_because_one_undo_would_take_both_away(healed: Faulty) -> None:
    healed.call("network.delay", link="reader", latency="10ms")
    with pytest.raises(Refused, match="has a latency already"):
        healed.call("network.delay", link="reader", latency="20ms")


def test_an_unknown_link_is_told_with_those_that_there_are(faulty: Faulty) -> None:
    with pytest.raises(NotApplicable) as error:
        faulty.call("network.cut", link="raeder")
    assert "reader" in error.value.hint


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_brokers_address_becomes_that_of_the_link_wherever_the_answer_is_torn(cut: int) -> None:
    def answer(port: int) -> bytes:
        body = b"\x00\x00\x00\x01\x00\x09127.0.0.1" + port.to_bytes(4) + b"\xff\xff rest 1"
        return len(body).to_bytes(4) + body

    torn, reads = answer(19092) + b"\x00\x00\x00\x01" + b"1", Readdress(f"{KAFKA}:19092", f"{KAFKA}:19192")
    given = reads.read(torn[:cut]) + reads.read(torn[cut:])
    assert given == answer(19192) + b"\x00\x00\x00\x01" + b"1"

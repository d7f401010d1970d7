"""What a link does to those who speak through it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from k2run.errors import NotApplicable, Refused
from k2run.k2.platform.network import Readdress, Requests
from k2run.k2.platform.network import Refused as RequestRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Faulty

TESTED_ON = {"network": "the sandbox's proxy"}

KAFKA = "127.0.0.1"


@pytest.fixture
def healed(faulty: Faulty) -> Iterator[Faulty]:
    yield faulty
    faulty.call("network.mend", link="reader")
    faulty.call("network.mend", link="page")


def lag(faulty: Faulty) -> int:
    return faulty.call("kafka.lag", topic="ticks", group="readers").total


def reader(faulty: Faulty) -> Any:
    return next(line for line in faulty.call("network.links").links if line.link == "reader")


def answers(faulty: Faulty, count: int) -> list[int]:
    """What so many requests through the link `page` are answered with, each on a connection of its own."""
    return [httpx.get(f"http://127.0.0.1:{faulty.page}/version").status_code for _ in range(count)]


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
    line = reader(healed)
    assert [(one.type, one.stream) for one in line.wrong] == [
        ("latency", "upstream"),
        ("latency", "downstream"),
        ("bandwidth", "downstream"),
    ]
    healed.call("network.mend", link="reader", what="latency")
    assert [one.type for one in reader(healed).wrong] == ["bandwidth"]


def test_the_same_fault_twice_is_refused_because_one_undo_would_take_both_away(healed: Faulty) -> None:
    healed.call("network.delay", link="reader", latency="10ms")
    with pytest.raises(Refused, match="has a latency already"):
        healed.call("network.delay", link="reader", latency="20ms")


def test_an_unknown_link_is_told_with_those_that_there_are(faulty: Faulty) -> None:
    with pytest.raises(NotApplicable) as error:
        faulty.call("network.cut", link="raeder")
    assert "reader" in error.value.hint


def test_a_share_of_requests_is_answered_with_an_error_until_the_link_is_mended(healed: Faulty) -> None:
    healed.call("network.fail", link="page", percent=50, status=503)
    seen = answers(healed, 60)
    assert set(seen) == {200, 503}
    healed.call("network.mend", link="page", what="error")
    assert set(answers(healed, 20)) == {200}


def test_an_error_that_stands_for_the_server_is_told_as_one(healed: Faulty) -> None:
    healed.call("network.fail", link="page")
    refused = httpx.get(f"http://127.0.0.1:{healed.page}/version")
    assert (refused.status_code, refused.json()["detail"]["error"]) == (500, "INJECTED")


def test_requests_on_a_slow_link_take_as_long_as_it_is_slow(healed: Faulty) -> None:
    healed.call("network.delay", link="page", latency="200ms")
    assert httpx.get(f"http://127.0.0.1:{healed.page}/version").elapsed.total_seconds() > 0.4


def test_a_connection_is_reset_and_the_next_one_too_until_the_link_is_mended(healed: Faulty) -> None:
    healed.call("network.delay", link="page", latency="300ms")  # so that each request is still under way
    healed.call("network.reset", link="page", after="50ms")
    for _ in range(3):
        # On a busy machine the client may hear of it before it has looked whether it is connected.
        with pytest.raises((httpx.ReadError, httpx.ConnectError), match="reset by peer"):
            httpx.get(f"http://127.0.0.1:{healed.page}/version")
    healed.call("network.mend", link="page", what="reset_peer")
    assert answers(healed, 1) == [200]


def test_requests_fail_only_where_http_is_spoken(healed: Faulty) -> None:
    with pytest.raises(Refused, match="HTTP is spoken"):
        healed.call("network.fail", link="reader")
    assert not reader(healed).wrong


def test_a_status_that_is_no_error_is_refused(faulty: Faulty) -> None:
    with pytest.raises(Refused, match="204 is not an error status"):
        faulty.call("network.fail", link="page", status=204)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_each_request_of_a_connection_is_asked_for_wherever_it_is_torn(size: int) -> None:
    sent = b"POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nGET " + b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n" * 2
    asked: list[None] = []
    requests = Requests(lambda: asked.append(None))
    assert b"".join(requests.read(sent[at : at + size]) for at in range(0, len(sent), size)) == sent
    assert len(asked) == 3


def test_nothing_of_a_refused_request_reaches_the_server() -> None:
    verdicts = iter([None, 500])
    requests = Requests(lambda: next(verdicts))
    first = b"GET /a HTTP/1.1\r\n\r\n"
    assert requests.read(first) == first
    with pytest.raises(RequestRefused) as refused:
        requests.read(b"GET /b HTTP/1.1\r\n\r\n")
    assert refused.value.answer.startswith(b"HTTP/1.1 500")


def test_a_body_of_unknown_length_goes_through_unasked() -> None:
    sent = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    assert Requests(lambda: None).read(sent) == sent


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_brokers_address_becomes_that_of_the_link_wherever_the_answer_is_torn(cut: int) -> None:
    def answer(port: int) -> bytes:
        body = b"\x00\x00\x00\x01\x00\x09127.0.0.1" + port.to_bytes(4) + b"\xff\xff rest 1"
        return len(body).to_bytes(4) + body

    torn, reads = answer(19092) + b"\x00\x00\x00\x01" + b"1", Readdress(f"{KAFKA}:19092", f"{KAFKA}:19192")
    given = reads.read(torn[:cut]) + reads.read(torn[cut:])
    assert given == answer(19192) + b"\x00\x00\x00\x01" + b"1"

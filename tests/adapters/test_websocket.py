"""The websocket actions against a real server of the websockets library, and against things that are none."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import pytest
from websockets.sync.server import ServerConnection, serve

from k2run.actions.deadline import Deadline
from k2run.adapters import websocket as actions
from k2run.errors import AuthorError, Interrupted, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTED_ON = {"websocket": "a server of the websockets library"}

SECOND = Duration(1)


@pytest.fixture
def url() -> Iterator[str]:
    """A stream that sends a numbered trade every 20 ms, and repeats what it is told; /quiet says nothing."""

    def talk(link: ServerConnection) -> None:
        if link.request.path == "/quiet":
            for _ in link:
                pass
        if link.request.path == "/short":
            return
        if link.request.path == "/echo":
            for message in link:
                link.send(message)
        for number in range(500):
            link.send(json.dumps({"n": number, "s": ("BTCUSDT", "ETHUSDT")[number % 2]}))
            time.sleep(0.02)

    with serve(talk, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()


def test_messages_are_received_decoded_counted_and_timed(url, services):
    found = actions.receive(services(""), Deadline(10), url=url, count=5)
    assert [message.value["n"] for message in found.messages] == [0, 1, 2, 3, 4]
    assert 10 < found.per_s < 200
    assert found.source == url
    some = actions.receive(services(""), Deadline(10), url=url, count=3, contains="ETHUSDT")
    assert [message.value["n"] for message in some.messages] == [1, 3, 5]
    assert some.passed_over == 3


def test_a_subscription_is_sent_first_through_a_service_of_the_stack(url, services):
    stack = services(f"stream: {{url: '{url.replace('ws:', 'http:')}'}}")
    asked = [{"method": "SUBSCRIBE"}, "plain"]
    found = actions.receive(stack, Deadline(10), service="stream", path="/echo", count=2, send=asked)
    assert [message.value for message in found.messages] == asked


def test_a_quiet_stream_is_unknown_and_the_step_ends_in_time(url, services):
    with pytest.raises(Unknown, match="0 of 1 messages came"):
        actions.receive(services(""), Deadline(10), url=f"{url}/quiet", within=Duration(0.3))
    started = time.monotonic()
    with pytest.raises(TimedOut, match=r"127\.0\.0\.1"):
        actions.receive(services(""), Deadline(0.5), url=f"{url}/quiet", within=Duration(20))
    assert time.monotonic() - started < 1.0
    deadline = Deadline(20)
    threading.Timer(0.3, deadline.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        actions.receive(services(""), deadline, url=f"{url}/quiet", within=Duration(20))
    assert time.monotonic() - started < 0.8


def test_a_stream_that_breaks_off_a_closed_port_a_web_page_and_garbage_are_each_told(url, services, web, speaker):
    with pytest.raises(Unreachable, match="broke off after 0 messages"):
        actions.receive(services(""), Deadline(5), url=f"{url}/short", within=SECOND)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        actions.receive(services(""), Deadline(5), url="ws://127.0.0.1:1")
    with pytest.raises(Refused, match="HTTP 200"):
        actions.receive(services(""), Deadline(5), url=web.page("/", "hello"))
    with pytest.raises((Unreachable, Refused, TimedOut), match=r"127\.0\.0\.1"):
        actions.receive(services(""), Deadline(0.5), url=speaker(lambda link: link.sendall(b"220 smtp\r\n\r\n")))
    started = time.monotonic()
    with pytest.raises(TimedOut):
        actions.receive(services(""), Deadline(0.5), url=speaker(lambda _: time.sleep(20)))
    assert time.monotonic() - started < 1.0
    with pytest.raises(Refused, match="ws://"):
        actions.receive(services(""), Deadline(5), url="ftp://127.0.0.1")
    with pytest.raises(AuthorError):
        actions.receive(services(""), Deadline(5), url=url, count=0)

from __future__ import annotations

import contextlib
import math
import socket
import sys
import threading
import time

import pytest

from k2run.actions.deadline import Deadline
from k2run.bench.http_load import http
from k2run.errors import Interrupted, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration, Rate
from k2run.stack.services import Services
from k2run.stack.stack import load_stack

TESTED_ON = {"bench": "the sandbox's API, recording HTTP servers"}


def quantile(values, share):
    """The least value that this share of all does not exceed, in milliseconds, as histograms have it."""
    return sorted(values)[math.ceil(share * len(values)) - 1] * 1000


@pytest.mark.alone
@pytest.mark.parametrize(
    "load",
    [
        pytest.param({"workers": 8, "iterations": 1200}, id="closed"),
        pytest.param({"rate": Rate(400), "during": Duration(3)}, id="open", marks=pytest.mark.slow),
    ],
)
def test_latencies_are_those_of_the_servers_own_record(serve, nothing, load):
    with serve("--delay", "5", "--jitter", "5") as server:
        result = http(nothing, Deadline(30), url=server.url, **load)
        record = server.stop()
    assert result.samples == len(record) == 1200
    # The server cannot see the way to it and back: on a busy machine with two cores that is most of a millisecond.
    assert quantile(record, 0.5) - 0.1 <= result.p50_ms <= quantile(record, 0.5) + 1.5
    assert result.p99_ms >= quantile(record, 0.99) - 0.1


@pytest.mark.alone
@pytest.mark.no_cover
def test_an_open_loop_does_not_forgive_a_stall(serve, nothing):
    stall = ("--delay", "2", "--stall-at", "150", "--stall", "1")
    with serve(*stall) as server:
        opened = http(
            nothing, Deadline(30), url=server.url, rate=Rate(400), during=Duration(2.75), warm_up=Duration(0.1)
        )
    with serve(*stall) as server:
        closed = http(nothing, Deadline(30), url=server.url, workers=1, iterations=1000)
    assert opened.samples == 1100
    assert opened.p99_ms > 800  # 400 of 1,100 requests fell into the stall
    assert opened.p90_ms > 600
    assert closed.p99_ms < 500  # a closed loop met it once
    assert closed.max_ms > 900


@pytest.mark.alone
@pytest.mark.slow  # p99 needs 1,000 samples, which are ten seconds of such a load
def test_a_stall_of_two_seconds_under_a_hundred_requests_a_second_shows_in_p99(serve, nothing):
    with serve("--delay", "2", "--stall-at", "400", "--stall", "2") as server:
        result = http(nothing, Deadline(60), url=server.url, rate=Rate(100), during=Duration(11), workers=300)
    assert result.samples == 1100
    assert 1800 < result.p99_ms <= result.max_ms  # about 200 of 1,100 waited, the first of them for all of it
    assert result.p90_ms > 700


@pytest.mark.alone
def test_the_rate_of_an_open_loop_is_kept(serve, nothing):
    with serve("--delay", "20") as server:
        result = http(nothing, Deadline(30), url=server.url, rate=Rate(200), during=Duration(2))
    assert (result.loop, result.samples) == ("open", 400)
    assert result.rate == pytest.approx(200, rel=0.05)


def test_iterations_and_warm_up_are_counted_apart(serve, nothing):
    with serve("--delay", "5") as server:
        result = http(nothing, Deadline(30), url=server.url, workers=4, iterations=100, warm_up=Duration(0.3))
        record = server.stop()
    assert result.samples == 100
    assert result.warm_up_requests == len(record) - 100 > 10
    assert result.p99_ms is None
    assert "p99 needs 1,000" in result.not_measured
    assert "p99 needs 1,000 samples" in result.headline()


def test_errors_and_empty_answers_are_kept_apart_from_the_good_ones(serve, nothing):
    with serve("--status", "500", "--every", "5") as server:
        result = http(
            nothing,
            Deadline(30),
            url=server.url,
            iterations=100,
            rows="data",
            each=[{"symbol": "BTCUSDT"}, {"empty": "true"}],
        )
    assert (result.samples, result.errors, result.empty) == (40, 20, 40)
    assert result.errors_by_class == {"status 500": 20}
    assert result.error_ratio == 0.2
    assert result.failed.samples == 20


@pytest.mark.parametrize("framing", ["length", "chunked", "close", "old"])
def test_every_framing_of_an_answer_is_understood(serve, nothing, framing):
    with serve("--framing", framing, "--body", '{"data": ["some", "rows"]}') as server:
        result = http(nothing, Deadline(30), url=server.url, workers=3, iterations=60, rows="data")
    assert (result.samples, result.errors, result.bytes) == (60, 0, 60 * 26)


def test_a_statuses_that_is_wanted_is_good(serve, nothing):
    with serve("--status", "404", "--every", "1") as server:
        assert http(nothing, Deadline(30), url=server.url, iterations=20, status=404).samples == 20
        with pytest.raises(Unknown, match="20 times status 404"):
            http(nothing, Deadline(30), url=server.url, iterations=20)


@pytest.mark.alone
def test_requests_that_take_too_long_are_errors(serve, nothing):
    with serve("--delay", "5", "--stall-at", "30", "--stall", "1") as server:
        result = http(
            nothing,
            Deadline(30),
            url=server.url,
            rate=Rate(100),
            during=Duration(2),
            request_timeout=Duration(0.3),
        )
    assert result.errors_by_class.keys() == {"timeout"}
    assert 50 <= result.errors <= 120
    assert result.samples + result.errors == 200


def test_a_service_that_goes_away_is_counted_not_hidden(nothing, speaker_once):
    result = http(nothing, Deadline(30), url=speaker_once, iterations=30, workers=2)
    assert result.samples >= 1
    assert result.samples + result.errors == 30
    assert set(result.errors_by_class) <= {"connection refused", "connection closed", "connection reset"}


@pytest.fixture
def speaker_once():
    """A server that answers a few requests and then is gone."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        answered = 0
        connections = [listener.accept()[0] for _ in range(2)]
        while answered < 5:
            for connection in connections:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                answered += 1
        listener.close()
        for connection in connections:
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def test_nobody_there_is_unreachable(nothing):
    with pytest.raises(Unreachable, match="connection refused"):
        http(nothing, Deadline(5), url="http://127.0.0.1:1/", iterations=5)


def test_a_load_longer_than_its_timeout_is_refused_before_it_begins(nothing):
    with pytest.raises(Refused, match="takes 30s, and the step's timeout is 10s"):
        http(nothing, Deadline(10), url="http://127.0.0.1:1/", during=Duration(30))


@pytest.mark.alone
def test_the_deadline_ends_a_load(serve, nothing):
    with serve("--delay", "5") as server:
        started = time.monotonic()
        with pytest.raises(TimedOut):
            http(nothing, Deadline(0.5), url=server.url, iterations=1_000_000)
        assert time.monotonic() - started < 1


@pytest.mark.alone  # it ends within a second
def test_a_request_to_stop_ends_a_load(serve, nothing):
    deadline = Deadline(30)
    threading.Timer(0.3, deadline.stop.set).start()
    with serve("--delay", "5") as server:
        started = time.monotonic()
        with pytest.raises(Interrupted):
            http(nothing, deadline, url=server.url, during=Duration(20))
        assert time.monotonic() - started < 1


def test_services_are_watched_while_the_load_is_on(serve, tmp_path):
    path = tmp_path / "stack.yaml"
    path.write_text(
        f"stack: 1\nname: watched\nservices:\n"
        f"  burner: {{run: process, command: ['{sys.executable}', -c, 'while True: pass']}}\n"
        f"  outside: {{url: 'http://127.0.0.1:1'}}\n"
    )
    services = Services.of(load_stack(str(path), near=None, home=tmp_path / ".k2run", overrides={}))
    burner = services.backend("burner")
    burner.start(Deadline(10))
    try:
        with serve("--delay", "5") as server:
            result = http(services, Deadline(30), url=server.url, during=Duration(1.6), watch=["burner", "outside"])
    finally:
        burner.kill(Deadline(10))
    assert 0.1 < result.used["burner"].cores < 1.5
    assert result.used["burner"].memory_bytes > 1_000_000
    assert result.used["outside"].cores is None
    assert result.used["outside"].unknown


def test_a_connection_that_expired_while_idle_is_no_error_of_the_service(nothing):
    """The server answers once per connection, and closes it only at the next request, as one that expires may."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            connection.recv(65536)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        rested = http(nothing, Deadline(30), url=url, iterations=2, think=Duration(1.1))
        hurried = http(nothing, Deadline(30), url=url, iterations=2)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    assert (rested.samples, rested.errors) == (2, 0)
    assert (hurried.samples, hurried.errors) == (1, 1)


@pytest.mark.alone
def test_a_load_with_too_many_errors_is_given_up(serve, nothing):
    with serve("--delay", "5", "--status", "500", "--every", "2") as server:
        started = time.monotonic()
        result = http(nothing, Deadline(30), url=server.url, rate=Rate(100), during=Duration(10), most_errors=20)
        assert time.monotonic() - started < 3
    assert result.given_up
    assert 20 < result.errors < 30
    assert result.rate == pytest.approx(50, rel=0.4)

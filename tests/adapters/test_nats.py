"""The nats actions against real NATS servers with JetStream, thrown away afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import nats as client
import pytest
from msgspec import structs
from nats.js.api import ConsumerConfig, StreamConfig
from wheel_programs import free_ports

from k2run.actions.deadline import Deadline
from k2run.adapters import nats
from k2run.adapters.nats import Nats
from k2run.errors import AuthorError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

# program: nats-server nats-server
TESTED_ON = {"nats": "Debian's `nats-server`, with JetStream and without"}

WRONG_END = {
    "action": "nats.health",
    "step": "{}",
    "setting": "connections.nats",
    "connection": 'nats: {{servers: ["nats://127.0.0.1:{port}"]}}',
    "client": "nats",
}
PASSWORD = "a-secret-of-tests"
PROGRAM = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))  # where Debian has it, beside the PATH of a user


class Server:
    """A NATS server with a user and a password."""

    def __init__(self, folder: Path, *more: str) -> None:
        program = shutil.which("nats-server", path=PROGRAM)
        if program is None:
            pytest.skip("nats-server is not installed (Debian: nats-server)")
        self.port = free_ports(1)[0]
        words = ["-a", "127.0.0.1", "-p", str(self.port), "--user", "tester", "--pass", PASSWORD, *more]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([program, *words], stdout=log, stderr=log)
        self.nats = Nats(servers=[f"nats://127.0.0.1:{self.port}"], user="tester", password=PASSWORD)
        end = time.monotonic() + 10
        while not self._listens():
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as link:
            return link.connect_ex(("127.0.0.1", self.port)) == 0

    def do(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """What the test itself does with the streams of the server."""

        async def session() -> Any:
            link = await client.connect(self.nats.servers, user="tester", password=PASSWORD)
            try:
                return await work(link.jetstream())
            finally:
                await link.close()

        return asyncio.run(session())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("nats")
    running = Server(folder, "-js", "-sd", str(folder / "store"))
    yield running
    running.stop()


@pytest.fixture
def orders(server) -> Iterator[Server]:
    """A stream `orders` of the subjects `orders.>`."""
    server.do(lambda streams: streams.add_stream(StreamConfig(name="orders", subjects=["orders.>"])))
    yield server
    server.do(lambda streams: streams.delete_stream("orders"))


def soon(seconds: float = 30) -> Deadline:
    return Deadline(seconds)


def test_a_server_that_lets_us_in_answers(server):
    found = nats.health(server.nats, soon())
    assert found.jetstream
    assert found.version.split(".")[0].isdecimal()
    assert found.max_payload == 2**20
    assert 0 < found.round_trip_ms < found.elapsed_ms
    assert found.source == f"nats://127.0.0.1:{server.port}"


def test_a_message_comes_back(server):
    found = nats.echo(server.nats, soon())
    assert 0 < found.round_trip_ms < found.elapsed_ms


def test_a_published_message_is_stored_once_and_can_be_read(orders):
    sent = nats.publish(orders.nats, soon(), "orders.new", json={"id": 1}, id="first")
    assert (sent.stream, sent.sequence, sent.duplicate) == ("orders", 1, False)
    assert nats.publish(orders.nats, soon(), "orders.new", json={"id": 1}, id="first").duplicate
    nats.publish(orders.nats, soon(), "orders.paid", text="grüße")
    newest = nats.read(orders.nats, soon(), "orders", limit=5)
    assert [(one.sequence, one.subject, one.value) for one in newest.messages] == [
        (1, "orders.new", {"id": 1}),
        (2, "orders.paid", "grüße"),
    ]
    assert nats.read(orders.nats, soon(), "orders", subject="orders.new").messages[0].sequence == 1
    with pytest.raises(Unknown, match=r"no message of 'orders\.gone' in stream 'orders'"):
        nats.read(orders.nats, soon(), "orders", subject="orders.gone")


def test_what_no_stream_stores_fails_unless_that_is_not_asked(server):
    with pytest.raises(Unknown, match=r"no stream that stores 'elsewhere'; set stored: false"):
        nats.publish(server.nats, soon(), "elsewhere", text="x")
    assert nats.publish(server.nats, soon(), "elsewhere", text="x", stored=False).headline() == "published"
    with pytest.raises(AuthorError, match="not both"):
        nats.publish(server.nats, soon(), "elsewhere", text="x", json=1)


def test_a_stream_and_the_lag_of_its_consumer_are_seen(orders):
    orders.do(
        lambda streams: streams.add_consumer("orders", ConsumerConfig(durable_name="worker", ack_policy="explicit"))
    )
    for number in range(5):
        nats.publish(orders.nats, soon(), "orders.new", json=number)

    async def take_two(streams: Any) -> None:
        reader = await streams.pull_subscribe_bind("worker", "orders")
        first, _ = await reader.fetch(2)
        await first.ack_sync()

    orders.do(take_two)
    found = nats.stream(orders.nats, soon(), "orders")
    assert (found.messages, found.first, found.last, found.consumers, found.replicas) == (5, 1, 5, 1, 1)
    assert (found.subjects, found.replicas_current) == (["orders.>"], None)
    assert found.headline() == "orders: 5 messages, 1 consumers"
    lag = nats.consumer(orders.nats, soon(), "orders", "worker")
    assert (lag.pending, lag.unacknowledged, lag.redelivered, lag.bound) == (3, 1, 0, None)


def test_what_does_not_exist_is_unknown(orders):
    with pytest.raises(Unknown, match="no stream 'gone'"):
        nats.stream(orders.nats, soon(), "gone")
    with pytest.raises(Unknown, match="no consumer 'gone' of stream 'orders'"):
        nats.consumer(orders.nats, soon(), "orders", "gone")
    with pytest.raises(Unknown, match="no stream 'gone'"):
        nats.purge(orders.nats, soon(), "gone")
    with pytest.raises(Unknown, match="has no message"):
        nats.read(orders.nats, soon(), "orders")


def test_a_stream_is_purged_by_subject_and_as_a_whole(orders):
    for subject in ("orders.new", "orders.new", "orders.paid"):
        nats.publish(orders.nats, soon(), subject, text="x")
    assert nats.purge(orders.nats, soon(), "orders", subject="orders.new", keep=1).purged == 1
    assert nats.purge(orders.nats, soon(), "orders").purged == 2
    assert nats.stream(orders.nats, soon(), "orders").messages == 0


def test_a_server_without_jetstream_says_so(tmp_path):
    plain = Server(tmp_path)
    try:
        assert not nats.health(plain.nats, soon()).jetstream
        with pytest.raises(Unknown, match=r"keeps no streams.*is JetStream on"):
            nats.stream(plain.nats, soon(), "orders")
        with pytest.raises(Unknown, match=r"keeps no streams.*is JetStream on"):
            nats.purge(plain.nats, soon(), "orders")
    finally:
        plain.stop()


def test_what_keeps_us_out_is_told_with_what_to_check(server, speaker, tmp_path):
    for wrong in ({"password": "wrong-secret"}, {"user": "", "password": ""}):
        with pytest.raises(Refused, match=r"refuses the login.*connections\.nats") as refused:
            nats.health(structs.replace(server.nats, **wrong), soon())
        assert "wrong-secret" not in str(refused.value)
    with pytest.raises(Refused, match=r"gone.creds is missing on this machine"):
        nats.health(structs.replace(server.nats, credentials=str(tmp_path / "gone.creds")), soon())
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 does not answer.*connections\.nats"):
        nats.health(structs.replace(server.nats, servers=["nats://127.0.0.1:1"]), soon())
    port = speaker(lambda link: link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")).rpartition(":")[2]
    with pytest.raises((Refused, Unreachable), match=rf"127\.0\.0\.1:{port}.*connections\.nats"):
        nats.health(structs.replace(server.nats, servers=[f"nats://127.0.0.1:{port}"]), soon(3))


def test_the_next_server_is_asked_when_one_does_not_answer(server):
    both = structs.replace(server.nats, servers=["nats://127.0.0.1:1", *server.nats.servers])
    assert nats.health(both, soon()).jetstream


def test_a_frozen_server_does_not_hold_the_step(tmp_path):
    frozen = Server(tmp_path)
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises((TimedOut, Unreachable), match=r"127\.0\.0\.1"):
            nats.health(frozen.nats, soon(0.5))
        assert time.monotonic() - started < 3
    finally:
        frozen.stop()

"""The rabbitmq actions against a real RabbitMQ broker with its management plugin, thrown away afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pika
import psutil
import pytest
from msgspec import structs
from pika.exceptions import AMQPError
from wheel_programs import free_ports

from k2run.actions.deadline import Deadline
from k2run.adapters import rabbitmq
from k2run.adapters.rabbitmq import Rabbitmq
from k2run.errors import AuthorError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# program: rabbitmq-server rabbitmq-server
TESTED_ON = {"rabbitmq": "Debian's `rabbitmq-server` with its management plugin"}

pytestmark = pytest.mark.xdist_group("rabbitmq")  # one broker, not one a process
WRONG_END = {
    "action": "rabbitmq.health",
    "step": "{}",
    "setting": "connections.rabbitmq",
    "connection": "rabbitmq: {{host: 127.0.0.1, port: {port}}}",
    "client": "pika",
}
PROGRAMS = "/usr/lib/rabbitmq/bin"
"""Debian's programs on the PATH only work as root, and change the user."""
READY_S = 90.0
CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
log.console = true
log.file = false
"""


class Broker:
    """A RabbitMQ node, and the daemon of Erlang that it needs."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("rabbitmq-server", path=os.pathsep.join((PROGRAMS, os.environ["PATH"])))
        epmd = shutil.which("epmd")
        if program is None or epmd is None:
            pytest.skip("rabbitmq-server is not installed (Debian: rabbitmq-server)")
        self.port, management, distribution, daemon = free_ports(4)
        (folder / "plugins").write_text("[rabbitmq_management].\n")
        (folder / "rabbitmq.conf").write_text(CONFIG.format(port=self.port, management=management))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(daemon),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "tested@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
        }
        with (folder / "log").open("wb") as log:
            self._started = [
                subprocess.Popen(words, env=environment, cwd=folder, stdout=log, stderr=log)
                for words in ([epmd], [program])
            ]
        where = {"port": self.port, "user": "guest", "password": "guest"}
        self.rabbitmq = Rabbitmq(**where, management=f"http://127.0.0.1:{management}")
        self._log = folder / "log"

    def wait_until_ready(self) -> None:
        """Return once the node lets us in."""
        log = self._log
        end = time.monotonic() + READY_S
        while True:
            try:
                self.link().close()
                rabbitmq.health(self.rabbitmq, soon(5))
            except (AMQPError, Unreachable, Refused, TimedOut):
                assert time.monotonic() < end, log.read_text()[-4000:]
                assert self._started[1].poll() is None, log.read_text()[-4000:]
                time.sleep(0.1)
            else:
                return

    def link(self) -> pika.BlockingConnection:
        """What the test itself uses."""
        credentials = pika.PlainCredentials("guest", "guest")
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.port, credentials=credentials))

    def processes(self) -> list[psutil.Process]:
        """The node's own; the script that starts it stays its parent."""
        parent = psutil.Process(self._started[1].pid)
        return [*parent.children(recursive=True), parent]

    def stop(self) -> None:
        for process in self.processes() if self._started[1].poll() is None else ():
            process.kill()
        self._started[0].kill()
        for process in self._started:
            process.wait()


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[Broker]:
    running = Broker(tmp_path_factory.mktemp("rabbitmq"))
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture
def orders(broker) -> Iterator[Broker]:
    """A queue `orders`."""
    link = broker.link()
    link.channel().queue_declare("orders", durable=True)
    yield broker
    link.channel().queue_delete("orders")
    link.close()


def soon(seconds: float = 60) -> Deadline:
    return Deadline(seconds)


def test_a_broker_that_lets_us_in_says_its_nodes_and_alarms(broker):
    found = rabbitmq.health(broker.rabbitmq, soon())
    assert (found.nodes, found.nodes_running, found.alarms, found.partitioned) == (1, 1, [], False)
    assert found.version.split(".")[0].isdecimal()
    assert found.cluster.startswith("tested@")
    assert found.source == f"rabbitmq 127.0.0.1:{broker.port}/"


def test_without_the_management_plugin_its_figures_are_not_known(orders):
    bare = structs.replace(orders.rabbitmq, management="")
    found = rabbitmq.health(bare, soon())
    assert (found.nodes, found.alarms, found.headline()) == (None, None, f"{found.version}, lets us in")
    queue = rabbitmq.queue(bare, soon(), "orders")
    assert (queue.unacknowledged, queue.kind, "unacknowledged" in queue.unknowable) == (None, "", True)


def test_a_message_comes_back_and_leaves_no_queue(broker):
    found = rabbitmq.echo(broker.rabbitmq, soon())
    assert 0 < found.round_trip_ms < found.elapsed_ms


@pytest.mark.slow  # the broker's figures are ten seconds old
def test_a_queue_tells_its_depth_its_consumers_and_what_they_have_not_acknowledged(orders):
    for number in range(3):
        rabbitmq.publish(orders.rabbitmq, soon(), "orders", json={"id": number})
    assert rabbitmq.queue(orders.rabbitmq, soon(), "orders").ready == 3
    link = orders.link()
    channel = link.channel()
    channel.basic_qos(prefetch_count=2)
    channel.basic_consume("orders", lambda *_: None)
    link.process_data_events(1)
    found = rabbitmq.queue(orders.rabbitmq, soon(), "orders")
    assert (found.ready, found.consumers) == (1, 1)
    end = time.monotonic() + 30
    while (found := rabbitmq.queue(orders.rabbitmq, soon(), "orders")).unacknowledged != 2:
        assert time.monotonic() < end  # the plugin's figures are some seconds old
        time.sleep(0.3)
    assert found.kind == "classic"
    link.close()
    with pytest.raises(Unknown, match="has no queue 'gone'"):
        rabbitmq.queue(orders.rabbitmq, soon(), "gone")


def test_a_message_that_reaches_no_queue_or_no_exchange_fails(orders):
    with pytest.raises(Refused, match="has no queue for the message"):
        rabbitmq.publish(orders.rabbitmq, soon(), "gone", text="x")
    with pytest.raises(Unknown, match="has no exchange 'gone'"):
        rabbitmq.publish(orders.rabbitmq, soon(), "orders", exchange="gone", text="x")
    with pytest.raises(AuthorError, match="not both"):
        rabbitmq.publish(orders.rabbitmq, soon(), "orders", text="x", json=1)


def test_a_published_message_is_what_a_consumer_gets(orders):
    rabbitmq.publish(orders.rabbitmq, soon(), "orders", json={"id": 7}, headers={"from": "k2run"})
    link = orders.link()
    _, properties, content = link.channel().basic_get("orders", auto_ack=True)
    link.close()
    assert (content, properties.headers) == (b'{"id":7}', {"from": "k2run"})
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)


def test_a_queue_is_purged(orders):
    for _ in range(3):
        rabbitmq.publish(orders.rabbitmq, soon(), "orders", text="x")
    assert rabbitmq.purge(orders.rabbitmq, soon(), "orders").purged == 3
    assert rabbitmq.queue(orders.rabbitmq, soon(), "orders").ready == 0
    with pytest.raises(Unknown, match="has no queue 'gone'"):
        rabbitmq.purge(orders.rabbitmq, soon(), "gone")


def test_what_keeps_us_out_is_told_with_what_to_check(broker, speaker):
    for wrong in ({"password": "wrong-secret"}, {"user": "someone"}, {"vhost": "gone"}):
        with pytest.raises(Refused, match=rf"127\.0\.0\.1:{broker.port}.*connections\.rabbitmq") as refused:
            rabbitmq.echo(structs.replace(broker.rabbitmq, **wrong), soon())
        assert "wrong-secret" not in str(refused.value)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1/ does not answer: .*connections\.rabbitmq"):
        rabbitmq.echo(structs.replace(broker.rabbitmq, port=1), soon())
    with pytest.raises(Unreachable, match=r"connections\.rabbitmq\.management"):
        rabbitmq.health(structs.replace(broker.rabbitmq, management="http://127.0.0.1:1"), soon())
    port = int(speaker(lambda link: link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")).rpartition(":")[2])
    with pytest.raises((Refused, Unreachable, TimedOut), match=rf"127\.0\.0\.1:{port}.*connections\.rabbitmq"):
        rabbitmq.echo(structs.replace(broker.rabbitmq, port=port), soon(3))


def test_a_frozen_broker_does_not_hold_the_step(broker):
    frozen = broker.processes()
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises((TimedOut, Unreachable), match=r"127\.0\.0\.1"):
            rabbitmq.echo(broker.rabbitmq, soon(0.6))
        assert time.monotonic() - started < 3
    finally:
        for process in frozen:
            process.send_signal(signal.SIGCONT)

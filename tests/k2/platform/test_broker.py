"""The broker as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

from confluent_kafka.admin import AdminClient


def test_the_process_that_was_started_is_the_broker_and_ends_on_sigint(sandbox):
    broker = sandbox.broker()
    client = AdminClient({"bootstrap.servers": sandbox.bootstrap, "log_level": 0})
    sandbox.wait_for(lambda: client.list_topics(timeout=5) is not None, 10, "the broker answers")
    started = time.monotonic()
    broker.send(signal.SIGINT)
    broker.process.wait(10)
    assert time.monotonic() - started < 2.0


def test_a_port_in_use_is_one_line_that_names_it(sandbox):
    with socket.create_server(("127.0.0.1", sandbox.broker_port)):
        broker = sandbox.broker()
        assert broker.process.wait(10) == 1
    assert broker.log.strip() == f"error: port {sandbox.broker_port} is already in use"


def test_every_start_is_another_cluster(sandbox):
    def cluster():
        found = []

        def answers():
            found[:] = [AdminClient({"bootstrap.servers": sandbox.bootstrap, "log_level": 0}).list_topics(timeout=5)]
            return True

        sandbox.wait_for(answers, 10, "the broker answers")
        return found[0].cluster_id

    broker = sandbox.broker()
    first = cluster()
    broker.kill()
    sandbox.broker()
    assert cluster() != first


def test_it_is_started_out_of_its_wheel_and_leaves_the_home_alone(sandbox, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "k2run.k2.platform.broker", "--port", str(sandbox.broker_port)]
    with subprocess.Popen(command, env={**os.environ, "HOME": str(home)}) as broker:
        client = AdminClient({"bootstrap.servers": sandbox.bootstrap, "log_level": 0})
        sandbox.wait_for(lambda: client.list_topics(timeout=5) is not None, 10, "the broker answers")
        broker.send_signal(signal.SIGINT)
    assert list(home.iterdir()) == []

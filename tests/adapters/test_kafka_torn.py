"""Connections that break in the middle of a request: an error of the step, never the end of the process."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from wheel_programs import free_ports

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 2
TORN = """\
import os, random, socket, sys, threading, time
from confluent_kafka.admin import AdminClient, NewTopic
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import actions
from k2run.adapters.kafka.client import Kafka
from k2run.errors import ActionError

front, behind, seconds, what = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
tears, torn = False, 0

def carry(one, other, last):
    global torn
    seen = 0
    try:
        while data := one.recv(65536):
            seen += 1
            if tears and seen >= last:
                torn += 1
                break
            other.sendall(data)
    except OSError:
        pass
    for end in (one, other):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

def serve(server):
    while True:
        client, _ = server.accept()
        broker = socket.create_connection(("127.0.0.1", behind))
        threading.Thread(target=carry, args=(client, broker, random.randint(1, 9)), daemon=True).start()
        threading.Thread(target=carry, args=(broker, client, 10**9), daemon=True).start()

threading.Thread(target=serve, args=(socket.create_server(("127.0.0.1", front)),), daemon=True).start()
admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{front}"})
admin.create_topics([NewTopic("t", 4, 1)])["t"].result()
kafka = Kafka(bootstrap=f"127.0.0.1:{front}")
tears, ends = True, time.monotonic() + seconds
while time.monotonic() < ends or not torn:
    try:
        if what == "lag":
            actions.lag(kafka, Deadline(2), group="g", topic="t")
        else:
            actions.groups(kafka, Deadline(2))
    except ActionError:
        pass
os._exit(0)  # its own clients would wait for the connections that it carries
"""


@pytest.mark.parametrize("what", ["lag", "groups"])
def test_a_connection_that_breaks_at_any_moment_is_an_error_of_the_step(what: str, tmp_path: Path) -> None:
    front, behind = free_ports(2)
    (tmp_path / "torn.py").write_text(TORN)
    broker = subprocess.Popen(
        [sys.executable, "-c", BROKER, str(behind), str(front)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(1.5)
        command = [sys.executable, str(tmp_path / "torn.py"), str(front), str(behind), str(SECONDS), what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    finally:
        broker.kill()
        broker.wait()
    assert done.returncode == 0, done.stderr[-2000:]


BROKER = """\
import os, sys
from k2run.k2.platform.broker import find_executable
listens, told = sys.argv[1:]
os.execv(find_executable(), ["tansu", "broker", "--storage-engine", "memory://t/", "--cluster-id", "torn",
    "--listener-url", f"tcp://127.0.0.1:{listens}", "--advertised-listener-url", f"tcp://127.0.0.1:{told}"])
"""

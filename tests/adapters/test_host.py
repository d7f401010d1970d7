"""What is checked on the machine, against the machine itself, the program ping and a real time server."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.host import actions as host
from k2run.errors import AuthorError, NotApplicable, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration
from k2run.stack.services import Services
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTED_ON = {"host": "the machine; ping; chronyd as a time server"}

CHRONYD = shutil.which("chronyd") or shutil.which("chronyd", path="/usr/sbin:/sbin")


@pytest.fixture
def time_server(tmp_path) -> Iterator[str]:
    """A chronyd that serves this machine's own time and changes no clock."""
    if CHRONYD is None:
        pytest.skip("chronyd is not installed (Debian: chrony)")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = tmp_path / "chrony.conf"
    settings.write_text(
        f"port {port}\nbindaddress 127.0.0.1\nallow 127.0.0.1\nlocal stratum 8\ncmdport 0\npidfile {tmp_path}/pid\n"
    )
    server = subprocess.Popen([CHRONYD, "-x", "-d", "-u", "root", "-f", settings], stderr=subprocess.PIPE)
    yield f"127.0.0.1:{port}"
    server.terminate()
    server.wait()
    server.stderr.close()


def test_disk_memory_and_load_are_those_of_the_machine(tmp_path):
    disk, memory, load = host.disk(str(tmp_path)), host.memory(), host.load()
    usage = shutil.disk_usage(tmp_path)
    assert disk.total_bytes == usage.total
    assert disk.free_bytes == pytest.approx(usage.free, rel=0.05)
    assert 0 < disk.used_percent < 100
    assert memory.total_bytes == psutil.virtual_memory().total
    assert 0 < memory.used_percent < 100
    assert load.per_core == pytest.approx(load.one_minute / load.cores)
    with pytest.raises(Unknown):
        host.disk(str(tmp_path / "missing"))


def test_a_battery_is_told_and_a_machine_without_one_is_not_applicable():
    if psutil.sensors_battery() is None:
        with pytest.raises(NotApplicable, match="no battery"):
            host.battery()
    else:
        assert 0 <= host.battery().percent <= 100


def test_the_way_to_a_port_is_timed_and_a_closed_one_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found = host.ping(Deadline(5), "127.0.0.1", port=listening.getsockname()[1], count=4)
    assert (found.by, found.received, found.loss_percent) == ("tcp", 4, 0)
    assert 0 < found.minimum_ms <= found.median_ms <= found.maximum_ms < 500
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 answered none of 5"):
        host.ping(Deadline(5), "127.0.0.1", port=1)
    with pytest.raises(Unknown, match="unknown host"):
        host.ping(Deadline(5), "no-such-host.invalid", port=1)
    with pytest.raises(AuthorError):
        host.ping(Deadline(5), "127.0.0.1", count=0)


@pytest.mark.skipif(shutil.which("ping") is None, reason="ping is not installed (Debian: iputils-ping)")
def test_the_way_to_a_host_is_timed_by_icmp():
    found = host.ping(Deadline(5), "127.0.0.1", count=2)
    assert (found.by, found.received) == ("icmp", 2)
    assert found.median_ms < 200
    with pytest.raises(Unknown, match="cannot ping"):
        host.ping(Deadline(5), "no-such-host.invalid", count=1)


def test_the_clock_is_compared_with_a_time_server(time_server):
    end = time.monotonic() + 10
    while True:
        try:
            found = host.clock(Deadline(1), time_server)
        except (Unreachable, Refused, TimedOut):
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            break
    assert abs(found.skew_ms) < 50
    assert found.stratum == 8


def test_a_clock_that_is_off_a_silent_server_and_garbage_are_told():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{link.getsockname()[1]}"

        def answer(ahead_s: float, header: bytes) -> None:
            _, client = link.recvfrom(512)
            now = time.time() + 2_208_988_800 + ahead_s
            moment = struct.pack("!II", int(now), int(now % 1 * 2**32))
            link.sendto(header + bytes(31 - len(header) + 1) + moment + moment, client)

        for ahead_s, header in ((5.0, b"\x24\x02"), (0.0, b"\x24\x00")):
            thread = threading.Thread(target=answer, args=(ahead_s, header))
            thread.start()
            if ahead_s:
                assert host.clock(Deadline(3), server).skew_ms == pytest.approx(-5000, abs=100)
            else:
                with pytest.raises(Refused, match="not answer like a synchronised time server"):
                    host.clock(Deadline(3), server)
            thread.join()
        started = time.monotonic()
        with pytest.raises(TimedOut, match=server):
            host.clock(Deadline(0.4), server)
        assert time.monotonic() - started < 0.9
    with pytest.raises(AuthorError):
        host.clock(Deadline(1), "127.0.0.1:now")


def test_a_port_of_a_service_is_taken_by_a_stranger_and_free_again_after_the_undo(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stack = tmp_path / "stack.yaml"
    stack.write_text(
        "stack: 1\nname: held\nservices:\n"
        f"  web: {{run: process, command: [sleep, '600'], ports: [{port}]}}\n  away: {{run: external}}\n"
    )
    services = Services.of(load_stack(str(stack), near=None, home=tmp_path / "home", overrides={}))
    struck = host.take_port(services, Deadline(20), "web", at_most=Duration(60))
    undo = next(struck)
    assert undo.action == "host.relieve"
    with pytest.raises(StopIteration):
        next(struck)
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        with pytest.raises(Refused, match=f"something listens on port {port} already"):
            next(host.take_port(services, Deadline(20), "web"))
    finally:
        host.relieve(services, **undo.args)
    with socket.create_server(("127.0.0.1", port)):
        host.relieve(services, **undo.args)  # twice is as good as once
    with pytest.raises(NotApplicable, match="away has no port"):
        next(host.take_port(services, Deadline(20), "away"))

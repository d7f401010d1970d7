"""Connections that ask for nothing take no place from those that do, and fill no log."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from k2run.web.server import HEAD_S

if TYPE_CHECKING:
    from collections.abc import Iterator

FEW = 256
"""File descriptors of the server."""
HALF = b"GET / HTTP/1.1\r\nHost: 127"


@pytest.fixture
def small(lay_out, tmp_path) -> Iterator[tuple[str, object]]:
    """A server that may open few files; its address and its log."""
    served = lay_out(tmp_path)
    log = tmp_path / "log"
    command = f"ulimit -n {FEW}; exec {sys.executable} -m k2run serve --port 0"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=served.folder, env=served.environment, stdout=out, stderr=out
        )
    try:
        while "tokens" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield log.read_text().split()[1], log
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(10)


def half_open(address: str, count: int) -> list[socket.socket]:
    """So many connections with the beginning of a request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 512)), hard))
    _, port = address.rstrip("/").rsplit(":", 1)
    links = []
    for _ in range(count):
        link = socket.socket()
        link.setblocking(False)
        links.append(link)
        with suppress(BlockingIOError):
            link.connect(("127.0.0.1", int(port)))
        with suppress(OSError):
            link.send(HALF)
    return links


@pytest.mark.parametrize("count", [400, pytest.param(3000, marks=pytest.mark.slow)])
def test_half_open_connections_leave_a_browser_served_and_one_line_in_the_log(small, count):
    address, log = small
    links = half_open(address, count)
    try:
        for _ in range(5):
            assert httpx.get(f"{address}enter", timeout=20).status_code == 200
            time.sleep(0.2)
    finally:
        for link in links:
            link.close()
    assert httpx.get(f"{address}healthz", timeout=20).status_code == 200
    warnings = log.read_text().splitlines()[3:]
    assert len(warnings) == 1, warnings
    assert "idle connections were closed" in warnings[0]


def test_the_head_of_a_request_has_ten_seconds_and_an_idle_connection_no_more(served):
    port = int(served.address.rpartition(":")[2])
    links = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    _, half, second = links
    half.sendall(HALF)
    second.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert b"200 OK" in second.recv(65536)
    second.sendall(HALF)
    began = time.monotonic()
    try:
        said = [everything(link) for link in links]
    finally:
        for link in links:
            link.close()
    assert HEAD_S - 1 < time.monotonic() - began < HEAD_S + 8
    assert all(b"408 Request Timeout" in text for text in said)


def everything(link: socket.socket) -> bytes:
    """What comes until the other side ends it."""
    link.settimeout(2 * HEAD_S)
    return b"".join(iter(lambda: link.recv(65536), b""))

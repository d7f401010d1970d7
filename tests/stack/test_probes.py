"""What a look at a service tells."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from k2run.stack.backend import probe
from k2run.stack.model import Ready

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def turned_away() -> Iterator[str]:
    """The address of a proxy before a service that has ended: it takes every connection, and can only close it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def turn_away() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=turn_away, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)  # wakes the thread


def test_a_connection_that_is_closed_without_a_word_is_no_answer(turned_away: str) -> None:
    seen = probe(Ready(http=f"http://{turned_away}/health"), 5)
    assert (seen.answered, seen.ready) == (False, False)
    assert seen.detail


def test_a_port_that_hangs_up_at_once_is_not_ready(turned_away: str) -> None:
    end = time.monotonic() + 20
    # It is watched for a moment only, and the proxy may be late.
    while (seen := probe(Ready(tcp=turned_away), 5)).ready:
        assert time.monotonic() < end
    assert not seen.answered
    assert "hangs up at once" in seen.detail


def test_a_port_that_waits_for_a_question_is_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert probe(Ready(tcp=f"127.0.0.1:{server.getsockname()[1]}"), 5).ready


def _error(code: str, message: str) -> bytes:
    fields = f"SFATAL\0C{code}\0M{message}\0\0".encode()
    return b"E" + (len(fields) + 4).to_bytes(4) + fields


@pytest.mark.parametrize(
    ("says", "ready", "detail"),
    [
        (b"R\0\0\0\x17\0\0\0\nSCRAM-SHA-256\0\0", True, ""),
        (_error("28000", 'no pg_hba.conf entry for host "127.0.0.1"'), True, ""),
        (_error("57P03", "the database system is starting up"), False, "the database system is starting up"),
        (_error("57P03", "the database system is shutting down"), False, "the database system is shutting down"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "not an answer of PostgreSQL"),
        (b"RFB 003.008\n", False, "not an answer of PostgreSQL"),
    ],
)
def test_a_postgres_is_ready_when_it_takes_sessions(says: bytes, ready: bool, detail: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(says)

        threading.Thread(target=answer, daemon=True).start()
        seen = probe(Ready(postgres=f"127.0.0.1:{server.getsockname()[1]}"), 5)
    assert (seen.answered, seen.ready, seen.detail) == (True, ready, detail)

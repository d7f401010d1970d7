from __future__ import annotations

import socket
import sys
import time

import pytest

from k2run.bench.wire import StampedSelector, StampedSocket

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux notes when it received something over TCP")


@pytest.fixture
def pair():
    """A stamped socket, its selector, and the other end."""
    with StampedSelector() as selector, socket.create_server(("127.0.0.1", 0)) as listening:
        stamped = StampedSocket(selector, socket.AF_INET, socket.SOCK_STREAM, 0)
        with stamped:
            stamped.setblocking(True)
            stamped.connect(listening.getsockname())
            other, _ = listening.accept()
            with other:
                yield stamped, selector, other


@LINUX
def test_an_answer_counts_to_when_it_was_received_not_to_when_its_turn_came(pair):
    stamped, selector, other = pair
    selector.select(0)
    before = time.monotonic()
    other.sendall(b"an answer")
    sent = time.monotonic()
    time.sleep(0.05)  # something else has its turn
    selector.select(0)
    assert stamped.recv(100) == b"an answer"
    assert before - 0.001 <= selector.arrived <= sent + 0.001


@LINUX
def test_each_answer_has_a_time_of_its_own(pair):
    stamped, selector, other = pair
    times = []
    for _ in range(3):
        selector.select(0)
        other.sendall(b"one")
        assert stamped.recv(100) == b"one"
        times.append(selector.arrived)
    other.shutdown(socket.SHUT_WR)
    selector.select(0)
    assert stamped.recv(100) == b""
    assert times == sorted(set(times))
    assert selector.arrived == selector.woke


@pytest.mark.parametrize("wrong_s", [-3600, 3600])
def test_a_time_that_cannot_be_is_not_believed(wrong_s):
    with StampedSelector() as selector:
        selector.select(0)
        selector.note(time.time_ns() + wrong_s * 1_000_000_000)
        assert selector.arrived == selector.woke

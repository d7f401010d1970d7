"""Packets of a network namespace of its own, which nothing else uses."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.adapters import tc
from k2run.errors import NotApplicable, Refused, Unknown
from k2run.language.quantities import Duration, Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k2run.actions.action import Undo

TESTED_ON = {"tc": "the kernel, in a dedicated network namespace"}


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=10)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    if shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("iproute2 is not installed")
    name = f"k2run-tc-{os.getpid()}"
    if (made := ip("netns", "add", name)).returncode:
        pytest.skip(f"no network namespace may be made here: {made.stderr.strip()}")
    ip("-n", name, "link", "set", "lo", "up")
    yield name
    ip("netns", "del", name)


@pytest.fixture
def shaped(namespace: str) -> Iterator[Callable[..., list[Undo]]]:
    """Shapes the namespace's `lo`; says which undos were planned."""

    def strike(**wrong: object) -> list[Undo]:
        striking = tc.shape(Deadline(10), "lo", namespace, **wrong)
        return list(striking)

    yield strike
    tc.clear(Deadline(10), "lo", namespace)


def seconds_for(namespace: str, size: int) -> float:
    """Seconds that so many bytes take from one end of the namespace's `lo` to the other."""
    took: list[float] = []

    def move() -> None:
        with open(f"/var/run/netns/{namespace}") as place:  # noqa: PTH123 - setns takes the descriptor
            os.setns(place.fileno(), os.CLONE_NEWNET) if hasattr(os, "setns") else _setns(place.fileno())
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as there:
            here, _ = server.accept()
            with here:
                began, left = time.monotonic(), size
                sending = threading.Thread(target=there.sendall, args=(bytes(size),))
                sending.start()
                while left:
                    left -= len(here.recv(65536))
                sending.join()
                took.append(time.monotonic() - began)

    thread = threading.Thread(target=move)  # a namespace belongs to a thread; this one ends with it
    thread.start()
    thread.join(60)
    return took[0]


def _setns(descriptor: int) -> None:
    import ctypes

    assert ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000) == 0


def test_a_limit_is_kept_and_gone_when_it_is_cleared(namespace: str, shaped: Callable[..., list[Undo]]) -> None:
    shaped(rate=Rate(400_000))
    assert tc.queue(Deadline(5), "lo", namespace).kind == "tbf"
    assert seconds_for(namespace, 400_000) > 0.5
    assert tc.clear(Deadline(5), "lo", namespace).shaped is False


def test_the_undo_is_planned_before_anything_is_shaped(namespace: str) -> None:
    striking = tc.shape(Deadline(5), "lo", namespace, rate=Rate(1_000_000))
    undo = next(striking)
    assert (undo.action, undo.args) == ("tc.clear", {"interface": "lo", "namespace": namespace})
    assert tc.queue(Deadline(5), "lo", namespace).shaped is False
    striking.close()


def test_clearing_what_is_not_shaped_changes_nothing(namespace: str) -> None:
    before = tc.queue(Deadline(5), "lo", namespace)
    assert tc.clear(Deadline(5), "lo", namespace) == before


def test_shaping_twice_is_refused_because_one_undo_would_take_both_away(
    namespace: str, shaped: Callable[..., list[Undo]]
) -> None:
    shaped(rate=Rate(1_000_000))
    with pytest.raises(Refused, match="is already shaped"):
        shaped(rate=Rate(2_000_000))
    assert tc.queue(Deadline(5), "lo", namespace).shaped


def test_packets_are_late_or_lost_where_the_kernel_can_do_it(namespace: str, shaped: Callable[..., list[Undo]]) -> None:
    try:
        shaped(latency=Duration(0.1), loss=1)
    except NotApplicable as problem:  # a kernel without sch_netem
        pytest.skip(problem.message)
    assert tc.queue(Deadline(5), "lo", namespace).kind == "netem"
    assert seconds_for(namespace, 1) > 0.1


def test_nothing_wrong_is_no_fault(shaped: Callable[..., list[Undo]]) -> None:
    with pytest.raises(Refused, match="there is nothing to inject"):
        shaped()
    with pytest.raises(Refused, match="reordering needs a delay"):
        shaped(reorder=10)


def test_an_interface_that_is_not_there_is_unknown(namespace: str) -> None:
    with pytest.raises(Unknown, match="no such interface"):
        tc.queue(Deadline(5), "nosuch0", namespace)
    with pytest.raises(Unknown, match="no such interface"):
        tc.queue(Deadline(5), "lo", "nosuchspace")


def test_the_fault_is_known_by_its_name() -> None:
    assert Catalogue().find("tc.shape").blast == "host"

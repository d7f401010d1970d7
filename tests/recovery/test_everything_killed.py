"""Everything is killed at once: what is in the table stays there once, and what only the broker had is counted."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from outside_faults import SERVICES, TOPIC, WELL_S, Sandbox, killed

from k2run.engine.events import Bound, ClockStopped, StepFinished
from k2run.engine.journal import read_journal
from k2run.engine.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("outside")]
BEHIND_S = 8.0
NEARLY = 500
"""Trades by which the count of the lost may be wrong: the stream reports every hundredth, the consumer each second."""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("everything"))
    try:
        sandbox.up()
        yield sandbox
    finally:
        sandbox.down()


def healthy(sandbox: Sandbox) -> None:
    """Wait until it is, by itself."""
    ends = time.monotonic() + WELL_S
    while (told := sandbox.k2run("diagnose"))[0]:
        assert time.monotonic() < ends, told[1]


def produced(sandbox: Sandbox) -> float:
    """Trades that the broker has acknowledged to the stream."""
    told = httpx.get(f"http://127.0.0.1:{sandbox.ports['STREAM_METRICS']}/metrics", timeout=5).text
    found = re.search(rf'^k2_kafka_messages_produced_total{{.*topic="{TOPIC}".*}} (\S+)$', told, re.MULTILINE)
    assert found
    return float(found[1])


def once_and_all_of(sandbox: Sandbox, before: list[str]) -> None:
    after = sandbox.message_ids()
    assert len(after) == len(set(after))
    assert set(before) <= set(after)


def test_up_starts_all_of_it_again_and_every_row_is_there_once(sandbox: Sandbox) -> None:
    healthy(sandbox)
    before = sandbox.message_ids()
    with killed(*SERVICES)(sandbox):
        code, said = sandbox.k2run("up")
    assert code == 0, said
    assert "had ended without `k2run down`: broker, " in said
    assert "in memory alone is lost" in said
    healthy(sandbox)
    once_and_all_of(sandbox, before)
    assert len(sandbox.message_ids()) > len(before)


def test_the_recovery_from_a_total_failure_counts_what_only_the_broker_had(sandbox: Sandbox) -> None:
    healthy(sandbox)
    sandbox.signal("consumer", signal.SIGSTOP)
    at_first, before = produced(sandbox), sandbox.message_ids()
    time.sleep(BEHIND_S)
    lost = produced(sandbox) - at_first
    with killed(*SERVICES)(sandbox):
        code, said = sandbox.k2run("recover", "total-failure", "--auto")
    assert code == 0, said
    [*_, folder] = Store(sandbox.home).runs()
    events = read_journal(folder)
    assert [event.objective for event in events if isinstance(event, ClockStopped)] == [Bound.MET]
    told = [event.figures for event in events if isinstance(event, StepFinished) and event.figures]
    [about] = [figures["rows_lost_about"] for figures in told if "rows_lost_about" in figures]
    assert lost - NEARLY <= about <= lost + NEARLY
    assert "request them from the source again" in said
    once_and_all_of(sandbox, before)


def test_down_after_a_kill_leaves_nothing_running(sandbox: Sandbox) -> None:
    healthy(sandbox)
    with killed("broker", "postgres", "consumer")(sandbox):
        code, said = sandbox.k2run("down")
    assert code == 0, said
    assert sandbox.processes() == []
    assert sandbox.k2run("up")[0] == 0

from __future__ import annotations

import os
import threading
import time

import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.bench.actions import http
from k2run.bench.plan import Ask, Plan
from k2run.bench.spread import split
from k2run.errors import ActionError, Interrupted, Refused
from k2run.language.quantities import Duration, Rate


def generators():
    """Worker processes that live, without multiprocessing's resource tracker."""
    return [child for child in psutil.Process(os.getpid()).children() if is_generator(child)]


def is_generator(child):
    try:
        return "spawn_main" in " ".join(child.cmdline())
    except psutil.Error:  # it has ended in the meantime
        return False


def test_shares_add_up_to_the_whole():
    plan = Plan(ask=Ask(host="x", port=1, requests=[]), workers=7, rate=100.0, iterations=11)
    shares = split(plan, 3)
    assert [share.workers for share in shares] == [3, 2, 2]
    assert [share.iterations for share in shares] == [4, 4, 3]
    assert sum(share.rate for share in shares) == pytest.approx(100)
    with pytest.raises(Refused, match="cannot be shared out"):
        split(plan, 8)


def test_several_processes_measure_what_one_would(serve, nothing):
    with serve("--delay", "20") as server:
        result = http(
            nothing, Deadline(60), url=server.url, rate=Rate(100), during=Duration(2), processes=2, workers=20
        )
        record = server.stop()
    assert result.samples == len(record) == 200
    assert result.lost_processes == 0
    assert result.rate == pytest.approx(100, rel=0.1)
    assert 19.9 < result.p50_ms < 40


def test_a_process_that_dies_is_missing_and_the_result_says_so(serve, nothing):
    def kill_one():
        end = time.monotonic() + 20
        while len(generators()) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1.5)
        generators()[0].kill()

    with serve("--delay", "5") as server:
        killer = threading.Thread(target=kill_one)
        killer.start()
        result = http(nothing, Deadline(60), url=server.url, workers=2, during=Duration(4), processes=2)
        killer.join()
    assert result.lost_processes == 1
    assert result.samples > 100
    assert "1 generators DIED" in result.headline()


def test_what_a_process_cannot_do_is_told(nothing):
    with pytest.raises(ActionError, match="connection refused"):
        http(nothing, Deadline(60), url="http://127.0.0.1:1/", workers=2, iterations=10, processes=2)


def test_a_request_to_stop_ends_every_process(serve, nothing):
    deadline = Deadline(60)
    threading.Timer(2.5, deadline.stop.set).start()
    with serve("--delay", "5") as server:
        started = time.monotonic()
        with pytest.raises(Interrupted):
            http(nothing, deadline, url=server.url, workers=2, during=Duration(40), processes=2)
        assert time.monotonic() - started < 5
    assert not generators()

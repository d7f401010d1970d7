from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future

import msgspec
import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.bench.http_load import http
from k2run.bench.plan import Ask, Outcome, Plan
from k2run.bench.workers import Worker, _ahead, _by_our_clock, split
from k2run.errors import ActionError, Interrupted, Refused
from k2run.language.quantities import Duration, Rate

pytestmark = pytest.mark.alone


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


class Elsewhere:
    """An executor that answers as a worker of another machine would."""

    def __init__(self, answer):
        self.answer = answer

    def submit(self, work, *args):
        future = Future()
        try:
            future.set_result(self.answer(work(*args)))
        except (ModuleNotFoundError, TimeoutError) as error:
            future.set_exception(error)
        return future


def worker(answer):
    return Worker(Elsewhere(answer), None, lambda: True, "at tcp://10.0.0.7:4000")


def test_the_clock_of_a_worker_is_measured_and_taken_off():
    def an_hour_ahead(present):
        return msgspec.structs.replace(present, time=present.time + 3600)

    ahead = _ahead(worker(an_hour_ahead), Deadline(10))
    assert ahead == pytest.approx(3600, abs=0.01)
    share = Outcome(
        histogram="", failed="", started=1, seconds=1, errors={}, empty=0, size=0, statuses={}, skipped=0, began=5000.0
    )
    assert _by_our_clock(share, ahead).began == pytest.approx(1400, abs=0.01)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": "0.0.1"}, r"at tcp://10\.0\.0\.7:4000 has k2run 0\.0\.1, and this is"),
        ({"form": "another"}, r"at tcp://10\.0\.0\.7:4000 has k2run .*, changed, and this is"),
    ],
)
def test_a_worker_with_another_version_or_plan_is_refused_by_name(changed, said):
    with pytest.raises(Refused, match=said):
        _ahead(worker(lambda present: msgspec.structs.replace(present, **changed)), Deadline(10))


def test_a_worker_without_k2run_is_refused_by_name():
    def missing(_present):
        raise ModuleNotFoundError("No module named 'k2run'")

    with pytest.raises(Refused, match=r"10\.0\.0\.7:4000 cannot run k2run .*: ModuleNotFoundError") as refused:
        _ahead(worker(missing), Deadline(10))
    assert "pip install k2run[dask]" in refused.value.hint


def test_a_worker_that_does_not_answer_is_told_as_busy():
    def silent(_present):
        raise TimeoutError

    with pytest.raises(Refused, match="did not say within 30s who it is") as refused:
        _ahead(worker(silent), Deadline(10))
    assert "busy" in refused.value.hint

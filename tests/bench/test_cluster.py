"""Load from a real Dask cluster: a scheduler and two worker processes on this machine."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from k2run.actions.deadline import Deadline
from k2run.bench.actions import http
from k2run.errors import Interrupted, Refused, Unreachable
from k2run.language.quantities import Duration

distributed = pytest.importorskip("distributed", reason="the package distributed (extra: dask) is not installed")


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as running:
        yield running


ALONE = """
import sys
from k2run.actions.deadline import Deadline
from k2run.bench.load import generate
from k2run.bench.plan import Ask, Plan
from k2run.bench.spread import split, together
from k2run.bench.wire import request_bytes

port = int(sys.argv[1].rpartition(":")[2].strip("/"))
ask = Ask(host="127.0.0.1", port=port, requests=[request_bytes("GET", "/", {}, b"")])
together(generate, split(Plan(ask=ask, workers=2, seconds=100), 2), sys.argv[2], Deadline(120))
"""


def wait_until_at_work(cluster):
    """Both workers have their share of a load."""
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        end = time.monotonic() + 60
        while not all(client.processing().values()) and time.monotonic() < end:
            time.sleep(0.1)


def stop_once_at_work(cluster, deadline):
    wait_until_at_work(cluster)
    deadline.stop.set()


def kill_one_at_work(cluster):
    wait_until_at_work(cluster)
    victim = next(iter(cluster.workers.values()))
    victim.process.process._process.kill()


def two_of(cluster):
    return {"workers": 2, "processes": 2, "dask": cluster.scheduler_address}


def test_an_interrupted_load_ends_at_the_cluster_too(cluster, serve, nothing):
    deadline = Deadline(120)
    with serve("--delay", "5") as server:
        threading.Thread(target=stop_once_at_work, args=(cluster, deadline)).start()
        with pytest.raises(Interrupted):
            http(nothing, deadline, url=server.url, during=Duration(100), **two_of(cluster))
        # Each worker has one thread: a share that went on would hold the next load up until its deadline.
        assert http(nothing, Deadline(40), url=server.url, iterations=20, **two_of(cluster)).samples == 20


@pytest.mark.slow  # k2run's start in a process of its own
def test_a_load_whose_k2run_was_killed_ends_at_the_cluster_too(cluster, serve, nothing):
    with serve("--delay", "5") as server:
        process = subprocess.Popen([sys.executable, "-c", ALONE, server.url, cluster.scheduler_address])
        wait_until_at_work(cluster)
        assert process.poll() is None
        process.kill()
        process.wait()
        assert http(nothing, Deadline(40), url=server.url, iterations=20, **two_of(cluster)).samples == 20


def test_a_cluster_that_is_too_small_or_not_there_is_told(cluster, nothing):
    with pytest.raises(Refused, match="has 2 workers"):
        http(
            nothing,
            Deadline(60),
            url="http://127.0.0.1:1/",
            workers=3,
            iterations=9,
            processes=3,
            dask=cluster.scheduler_address,
        )
    with pytest.raises(Unreachable, match="does not answer"):
        http(nothing, Deadline(60), url="http://127.0.0.1:1/", iterations=9, dask="tcp://127.0.0.1:1")


def test_a_cluster_shares_the_load_and_a_worker_that_dies_is_told(cluster, serve, nothing):
    address = cluster.scheduler_address
    with serve("--delay", "5") as server:
        whole = http(nothing, Deadline(60), url=server.url, workers=4, iterations=200, processes=2, dask=address)
        record = server.stop()
    assert (whole.samples, whole.lost_processes) == (len(record), 0) == (200, 0)

    threading.Thread(target=kill_one_at_work, args=(cluster,)).start()
    with serve("--delay", "5") as server:
        rest = http(nothing, Deadline(60), url=server.url, workers=2, during=Duration(5), processes=2, dask=address)
    assert rest.lost_processes == 1
    assert rest.samples > 100

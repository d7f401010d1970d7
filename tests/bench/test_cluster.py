"""Load from a real Dask cluster: a scheduler and two worker processes on this machine."""

from __future__ import annotations

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


def kill_one_at_work(cluster):
    """Wait until both workers have their share of a load, and kill one of them."""
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        end = time.monotonic() + 60
        while not all(client.processing().values()) and time.monotonic() < end:
            time.sleep(0.1)
    victim = next(iter(cluster.workers.values()))
    victim.process.process._process.kill()


def test_a_request_to_stop_ends_the_load(cluster, serve, nothing):
    deadline = Deadline(60)
    threading.Timer(2, deadline.stop.set).start()
    with serve("--delay", "5") as server:
        started = time.monotonic()
        with pytest.raises(Interrupted):
            http(
                nothing,
                deadline,
                url=server.url,
                workers=2,
                during=Duration(20),
                processes=2,
                dask=cluster.scheduler_address,
            )
        assert time.monotonic() - started < 5


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

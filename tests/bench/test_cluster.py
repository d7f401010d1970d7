"""Load from a real Dask cluster: a scheduler and two worker processes on this machine."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from k2run.actions.deadline import Deadline
from k2run.bench import workers
from k2run.bench.http_load import http
from k2run.errors import Interrupted, Refused, Unreachable
from k2run.language.quantities import Duration, Rate

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
from k2run.bench.workers import split, together
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


def test_a_worker_that_lives_is_always_seen(cluster):
    import dask

    often = {"distributed.client.scheduler-info-interval": "1ms"}  # the client's own look, which knows no workers
    with dask.config.set(often), workers.cluster(cluster.scheduler_address, 2) as both:
        assert all(each.is_alive() for _ in range(100) for each in both)


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
    assert (rest.rate, [each.met for each in rest.judged()]) == (None, [False]), "half of a load has no rate"
    assert "rate not measured" in rest.headline()


# --- the rate of a cluster against the record of the server -----------------------------------------------------------


@contextmanager
def workers_of(many):
    """A cluster of its own, and a client of it."""
    settings = {"processes": True, "dashboard_address": None, "host": "127.0.0.1"}
    with (
        distributed.LocalCluster(n_workers=many, threads_per_worker=1, **settings) as cluster,
        distributed.Client(cluster.scheduler_address, set_as_default=False) as client,
    ):
        client.wait_for_workers(many, timeout=60)
        yield cluster, client


def put_on(server, nothing, cluster, many):
    """A load from so many workers."""
    return http(
        nothing,
        Deadline(120),
        url=server.url,
        rate=Rate(240),
        during=Duration(6),
        workers=40,
        processes=many,
        dask=cluster.scheduler_address,
    )


def recorded_rate(pairs, seconds):
    begin = min(when - taken for when, taken in pairs)
    return sum(when - begin <= seconds for when, _ in pairs) / seconds


def agree(met, pairs):
    """The rate is the server's, or it is not measured."""
    rate = recorded_rate(pairs, met.seconds)
    told = "not measured" if met.rate is None else f"{met.rate:.2f}/s ({met.rate / rate - 1:+.2%})"
    print(f"{told}, the server {rate:.2f}/s, overlap {met.overlap:.1%}: {met.headline()}")
    return met.rate is None or met.rate == pytest.approx(rate, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("many", [1, 2, 4])
def test_workers_together_have_the_rate_that_the_server_saw(serve, nothing, many):
    with workers_of(many) as (cluster, _), serve("--delay", "5", "--when") as server:
        met = put_on(server, nothing, cluster, many)
        assert agree(met, server.stop())
    assert met.rate is not None or met.overlap < 0.95
    assert met.lost_processes == 0


@pytest.mark.slow
@pytest.mark.parametrize("many", [2, 4])
def test_a_worker_that_is_busy_with_something_else_makes_no_wrong_rate(serve, nothing, many):
    def burn():  # inside of the test, so that it travels as a whole: the workers cannot import this module
        import threading
        import time

        end = time.monotonic() + 30

        def work():
            while time.monotonic() < end:
                pass

        threading.Thread(target=work, daemon=True).start()

    with workers_of(many) as (cluster, client), serve("--delay", "5", "--when") as server:
        place = next(iter(client.nthreads()))
        client.submit(time.sleep, 8, workers=[place], allow_other_workers=False, pure=False)
        met = put_on(server, nothing, cluster, many)
        assert agree(met, server.stop())
    with workers_of(many) as (cluster, client), serve("--delay", "5", "--when") as server:
        client.run(burn, workers=[next(iter(client.nthreads()))])
        met = put_on(server, nothing, cluster, many)
        assert agree(met, server.stop())


@pytest.mark.slow
@pytest.mark.parametrize("many", [2, 4])
def test_a_load_that_loses_a_worker_has_no_rate_and_is_not_green(serve, nothing, many):
    with workers_of(many) as (cluster, _), serve("--delay", "5", "--when") as server:
        killer = threading.Thread(target=kill_one_at_work, args=(cluster,))
        killer.start()
        met = put_on(server, nothing, cluster, many)
        killer.join()
    assert (met.lost_processes, met.rate) == (1, None)
    assert False in [each.met for each in met.judged()]

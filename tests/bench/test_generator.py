"""What a load says of its own generator: late, without a connection, lost, or of another version."""

from __future__ import annotations

import json
import math
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from k2run.actions.deadline import Deadline
from k2run.bench.http_load import http
from k2run.bench.latency import Latencies
from k2run.bench.plan import Outcome, merge
from k2run.bench.result import Measured
from k2run.errors import Refused
from k2run.language.quantities import Duration, Rate

ALONE = """
import json, sys, pathlib
from k2run.actions.deadline import Deadline
from k2run.bench.actions import http
from k2run.bench.thresholds import Threshold
from k2run.language.quantities import Duration, Rate
from k2run.stack.stack import load_stack
from k2run.stack.services import Services

folder = pathlib.Path(sys.argv[1])
(folder / "stack.yaml").write_text("stack: 1\\nname: tested\\n")
services = Services.of(load_stack(str(folder / "stack.yaml"), near=None, home=folder, overrides={}))
given = json.loads(sys.argv[2])
for name, kind in {"rate": Rate, "during": Duration, "warm_up": Duration}.items():
    if name in given:
        given[name] = kind(given[name])
given["thresholds"] = [Threshold.parse(each) for each in given.get("thresholds", [])]
print("ready", flush=True)
met = http(services, Deadline(120), **given)
print(json.dumps(met.plain() | {"headline": met.headline()}))
"""


class Generator:
    """A load in a process of its own, which can be stopped and starved."""

    def __init__(self, folder: Any, *, files: int = 0, **load: Any) -> None:
        def starve() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        command = [sys.executable, "-c", ALONE, str(folder), json.dumps(load)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=starve if files else None,  # noqa: PLW1509
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def hold(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def met(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=120)
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.mark.alone
def test_a_generator_that_was_held_up_does_not_report_its_own_lateness_as_the_services(serve, tmp_path):
    with serve("--delay", "20") as server:
        load = {"rate": 200, "during": 6, "warm_up": 0.5, "thresholds": ["p99 < 100ms", "p50 < 100ms"]}
        generator = Generator(tmp_path, url=server.url, **load)
        time.sleep(1.5)
        generator.hold(0.25)
        met = generator.met()
        record = sorted(server.stop())
    assert met["samples"] == 1200
    assert met["p99_ms"] is None
    assert met["max_ms"] is None
    assert met["percentiles"]["p99"]["at_most_ms"] > 200, "an upper bound, the generator's lateness included"
    assert met["p50_ms"] == pytest.approx(record[len(record) // 2] * 1000, rel=0.1)
    assert met["lateness"]["max_ms"] > 200
    assert 40 <= met["tardy"] <= 560
    assert met["from_send"]["max_ms"] < 200, "from the moment at which it was really sent, each was answered soon"
    assert "p99 not measured" in met["headline"]
    assert "the generator was late by up to" in met["headline"]
    judged = {each["objective"]: (each["met"], each["says"]) for each in met["thresholds"]}
    assert judged["p99 < 100ms"][0] is None
    assert "the generator was late" in judged["p99 < 100ms"][1]
    assert judged["p50 < 100ms"][0] is True


@pytest.mark.alone
@pytest.mark.slow  # fifty loads
@pytest.mark.parametrize("turn", range(10))
@pytest.mark.parametrize(
    "disturbed",
    [(200, 0.0, 0), (1000, 0.5, 0), (1000, 0.0, 2), (10_000, 0.0, 1), (3000, 0.1, 0)],
    ids=["at ease", "held", "busy", "too fast", "held for a moment"],
)
def test_no_percentile_is_reported_that_is_not_the_services(serve, tmp_path, disturbed, turn):
    rate, held_s, busy = disturbed
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        with serve("--delay", "1" if rate <= 1000 else "0") as server:
            generator = Generator(tmp_path, url=server.url, rate=rate, during=3, warm_up=0.5)
            time.sleep(1.2 + 0.05 * turn)
            if held_s:
                generator.hold(held_s)
            met = generator.met()
            record = sorted(server.stop())
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    for name, share in {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}.items():
        true, measured = record[math.ceil(share * len(record)) - 1] * 1000, met[f"{name}_ms"]
        # Sent in the middle of a burst of the generator's own, a request waits at the server too: its record has that.
        assert measured is None or measured <= true + max(0.8, 0.25 * true), (name, measured, true, met["headline"])
    assert (rate, held_s) != (200, 0.0) or met["p50_ms"] is not None


@pytest.mark.alone
@pytest.mark.parametrize(
    ("load", "asked"),
    [
        pytest.param({"rate": Rate(100), "during": Duration(3)}, 100, id="open, 100/s"),
        pytest.param({"rate": Rate(500), "iterations": 1000}, 500, id="open, 500/s", marks=pytest.mark.slow),
        pytest.param({"workers": 10, "iterations": 2000}, 0, id="closed, 10"),
    ],
)
def test_a_request_that_hangs_at_the_end_does_not_make_a_rate_smaller(serve, nothing, load, asked):
    last = str(load.get("iterations", 300) - 5)
    with serve("--delay", "4", "--hang-at", last, "--hang", "1.5") as server:
        began = time.monotonic()
        met = http(nothing, Deadline(30), url=server.url, **load)
        whole = time.monotonic() - began
    assert met.max_ms > 1500
    assert whole - met.seconds > 1.3
    assert met.rate == pytest.approx(asked or (met.samples - met.late_answers) / met.seconds, rel=0.03)
    assert met.late_answers <= 20


def test_every_request_of_a_load_is_sent(serve, nothing):
    with serve() as server:
        met = http(nothing, Deadline(30), url=server.url, rate=Rate(3000), during=Duration(1), warm_up=Duration(0.1))
        record = server.stop()
    assert (met.samples, met.warm_up_requests, len(record)) == (3000, 300, 3300)


def test_what_the_generator_cannot_open_is_its_own_error_and_not_the_services(serve, tmp_path):
    with serve("--delay", "300") as server:
        met = Generator(tmp_path, files=40, url=server.url, rate=300, during=1, workers=200).met()
    assert met["errors"] == 0
    assert met["own_errors"].keys() == {"too many open files"}
    assert "requests not sent by the generator: too many open files" in met["headline"]


@pytest.mark.alone
def test_the_headline_of_a_closed_loop_shows_the_longest_wait(serve, nothing):
    with serve("--delay", "1", "--stall-at", "200", "--stall", "0.5") as server:
        met = http(nothing, Deadline(30), url=server.url, iterations=1200)
    assert met.p99_ms < 400
    assert "max 5" in met.headline()


def outcome(began: float, seconds: float, answers: int) -> Outcome:
    good = Latencies()
    good.record_all([0.001] * answers)
    empty = Latencies().encode()
    counts: dict[str, Any] = {"errors": {}, "empty": 0, "size": 0, "statuses": {}, "skipped": 0}
    return Outcome(
        histogram=good.encode(), failed=empty, started=answers, seconds=seconds, answered=answers, began=began, **counts
    )


def test_shares_that_did_not_overlap_are_no_rate():
    apart = Measured.of(merge([outcome(100, 10, 1000), outcome(109, 10, 1000)]), "a service")
    assert (apart.rate, apart.overlap) == (None, pytest.approx(1 / 19, abs=0.001))
    assert "rate not measured" in apart.headline()
    assert "measured at once for only 5% of the time" in apart.headline()
    together = Measured.of(merge([outcome(100, 10, 1000), outcome(100.1, 10, 1000)]), "a service")
    assert together.rate == pytest.approx(198, abs=0.1)
    assert together.samples == 2000
    assert (together.lateness, together.from_send) == (None, None), "what no share measured is not measured"


def test_a_load_that_lost_a_generator_is_not_green(serve, tmp_path, nothing):
    from k2run.bench.baseline import NO_RUNS
    from k2run.bench.result import judge

    with serve("--delay", "1") as server:
        met = http(nothing, Deadline(30), url=server.url, iterations=50)
    from msgspec import structs

    lost = judge(structs.replace(met, lost_processes=1), [], outcome(0, 1, 1), NO_RUNS)
    assert [(each.met, each.says) for each in lost.judged()] == [(False, "1 died")]


def test_a_generator_of_another_version_is_refused_before_the_load(serve, nothing):
    distributed = pytest.importorskip("distributed", reason="the package distributed (extra: dask) is not installed")

    def become_another() -> None:
        import k2run

        k2run.__version__ = "0.0.1"

    settings = {"processes": True, "dashboard_address": None, "host": "127.0.0.1"}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **settings) as cluster,
        distributed.Client(cluster.scheduler_address, set_as_default=False) as client,
        serve() as server,
    ):
        client.run(become_another, workers=[next(iter(client.nthreads()))])
        with pytest.raises(Refused, match=r"has k2run 0\.0\.1, and this is"):
            http(
                nothing,
                Deadline(60),
                url=server.url,
                iterations=20,
                workers=2,
                processes=2,
                dask=cluster.scheduler_address,
            )
        assert server.stop() == []

"""`bench.http` against what the server itself wrote down, against wrk, and against locust's FastHttpUser.

    python benchmarks/bench_http.py [--seconds 5] [--rounds 3] [--only accuracy|peak] [--locust PROGRAM]

Accuracy: a server with a known delay keeps a record of its own, from the moment its machine received a request to that
of its answer; p50 and p99 may differ from it by 3 % or 0.3 ms, whichever is more. wrk, where it is
installed, is told beside it.

Peak: requests a second of one generator on one core, in turn with locust on the same core; the server has the other
one. The bar is 1.0 x. locust is looked for in the PATH, else run by `uvx`; where there is neither, this is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from no_services import no_services

from k2run.actions.deadline import Deadline
from k2run.bench.http_load import http
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k2run.stack.services import Services

SERVER = Path(__file__).resolve().parent.parent / "tests" / "bench" / "recording_server.py"
DELAYS = ((5.0, 0.0), (50.0, 0.0), (5.0, 5.0), (50.0, 20.0))
"""Milliseconds, and the jitter beside them."""
WORKERS = 8
SHARE, LEAST_MS = 0.03, 0.3
LOCUSTFILE = """\
from locust import FastHttpUser, task

class Asking(FastHttpUser):
    @task
    def ask(self):
        self.client.get("/")
"""
WRK_LINE = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)$", re.MULTILINE)
IN_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Percentiles(NamedTuple):
    """Milliseconds."""

    p50: float
    p99: float


class Server(NamedTuple):
    url: str
    stop: Callable[[], list[float]]


@contextmanager
def serving(*settings: str, core: int | None = None) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, SERVER, *settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    if core is not None:
        os.sched_setaffinity(process.pid, {core})

    def stop() -> list[float]:
        return list(json.loads(process.communicate("stop\n", timeout=30)[0]))

    try:
        yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}/", stop)
    finally:
        process.kill()
        process.wait()


def recorded(values: list[float]) -> Percentiles:
    ordered = sorted(values)
    ranks = (max(1, int(len(ordered) * share + 0.5)) for share in (0.5, 0.99))  # as a histogram counts them
    return Percentiles(*(ordered[rank - 1] * 1000 for rank in ranks))


def by_wrk(url: str, seconds: float) -> Percentiles | None:
    """What wrk says of the same server; None where it is not installed."""
    if not shutil.which("wrk"):
        return None
    command = ["wrk", "--latency", "-t1", f"-c{WORKERS}", f"-d{max(1, round(seconds))}s", url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {share: float(value) * IN_MS[unit] for share, value, unit in WRK_LINE.findall(said)}
    return Percentiles(found["50"], found["99"])


def within(said: float, recorded: float) -> bool:
    return abs(said - recorded) <= max(SHARE * recorded, LEAST_MS)


def accuracy(services: Services, seconds: float) -> bool:
    """Whether every percentile is within the bar."""
    fine = True
    for delay, jitter in DELAYS:
        settings = ("--delay", str(delay), "--jitter", str(jitter))
        wanted = seconds if delay < 20 else max(seconds, 12.0)  # p99 needs 1,000 samples
        with serving(*settings) as server:
            met = http(services, Deadline(60), url=server.url, workers=WORKERS, during=Duration(wanted))
            truth = recorded(server.stop())
        with serving(*settings) as server:
            peer = by_wrk(server.url, seconds)
        for name in Percentiles._fields:
            said, true = met.percentiles[name].value_ms, getattr(truth, name)
            if said is None:
                print(f"{delay:g} ms + up to {jitter:g} ms, {name}: not measured, {met.not_measured}")
                fine = False
                continue
            holds = within(said, true)
            fine &= holds
            beside = f", wrk {getattr(peer, name):.2f} ms" if peer else ""
            print(
                f"{delay:g} ms + up to {jitter:g} ms, {name}: {said:.2f} ms, the server's record {true:.2f} ms "
                f"({said - true:+.2f} ms){beside}  bar 3 % or 0.3 ms  {'holds' if holds else 'MISSED'}",
                flush=True,
            )
    return fine


def locust_command(given: str) -> list[str]:
    """How locust is started; empty where it cannot be."""
    if program := given or shutil.which("locust"):
        return [program]
    return ["uvx", "locust"] if shutil.which("uvx") else []


def by_locust(command: list[str], url: str, seconds: float) -> float:
    """Requests a second of as many FastHttpUsers, from its first request to its last."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "locustfile.py"
        file.write_text(LOCUSTFILE)
        users = ["-u", str(WORKERS), "-r", str(WORKERS)]
        asking = [*command, "-f", str(file), "--headless", *users, "-t", f"{seconds:g}s", "-H", url.rstrip("/")]
        done = subprocess.run([*asking, "--json", "--only-summary"], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout) if done.stdout.strip() else []
    if not found:
        sys.exit(f"locust has asked nothing within {seconds:g} s: {done.stderr[-500:]}")
    (one,) = found
    return float(one["num_requests"]) / (float(one["last_request_timestamp"]) - float(one["start_time"]))


def peak(services: Services, seconds: float, rounds: int, locust: list[str]) -> bool:
    """Whether one generator asks at least as often as locust does."""
    if not locust:
        print("peak against locust: left out, there is no locust here (put it into the PATH, or give --locust)")
        return True
    cores = sorted(os.sched_getaffinity(0))
    ours, theirs = [], []
    with serving(core=cores[-1]) as server:
        os.sched_setaffinity(0, {cores[0]})  # the commands that this one starts inherit it
        try:
            for _ in range(rounds):
                met = http(services, Deadline(60), url=server.url, workers=WORKERS, during=Duration(seconds))
                ours.append(met.rate or 0.0)
                theirs.append(by_locust(locust, server.url, seconds))
        finally:
            os.sched_setaffinity(0, cores)
    ratio = statistics.median(mine / peer for mine, peer in zip(ours, theirs, strict=True))
    print(
        f"peak of one core, {WORKERS} callers: {statistics.median(ours):,.0f}/s, locust's FastHttpUser "
        f"{statistics.median(theirs):,.0f}/s: {ratio:.2f} x  bar 1.00 x  {'holds' if ratio >= 1 else 'MISSED'}"
    )
    return ratio >= 1


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=5.0, help="of each load")
    options.add_argument("--rounds", type=int, default=3, help="turns of each of the two for the peak")
    options.add_argument("--only", choices=("accuracy", "peak"))
    options.add_argument("--locust", default="", help="the program")
    given = options.parse_args()
    fine = True
    with no_services() as services:
        if given.only in {None, "accuracy"}:
            fine &= accuracy(services, given.seconds)
        if given.only in {None, "peak"}:
            fine &= peak(services, given.seconds, given.rounds, locust_command(given.locust))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    sys.exit(not fine)


if __name__ == "__main__":
    main()

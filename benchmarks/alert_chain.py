"""From a kill -9 to the chosen runbook and its outcome: embedded stack, Prometheus, Alertmanager, shipped files.

    python benchmarks/alert_chain.py [--kills 20]

Services are killed in turn, the next one when the last incident is closed. The recovery that is chosen waits for
approval, as shipped, and gets it at once. Bars: chosen within 50 s (`for: 30s`, a scrape and an evaluation each 15 s),
one incident for a kill, and for each a message that it opened, one that it waits (unless it was approved before
that was told), one that it recovered: none twice.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

sys.path.append(str(Path(__file__).parents[1] / "tests" / "components"))
from alert_programs import AlertChain
from moved_ports import moved_ports, variables
from wheel_programs import free_ports

from k2run.daemon.alerts.incident_messages import moments_of
from k2run.daemon.alerts.incident_store import IncidentStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.daemon.alerts.incident import Incident

T = TypeVar("T")
BAR_S = 50.0
SECRET = "a secret of this benchmark"
RUNBOOKS = {"api": "api-down", "consumer": "consumer-crashed", "stream": "stream-down"}
EXPECTED = ["incident", "recovered"]


def _until(found: Callable[[], T | None], what: str, seconds: float) -> T:
    end = time.monotonic() + seconds
    while not (it := found()):
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {seconds:g} s")
        time.sleep(0.2)
    return it


class Chain:
    """The embedded stack, and what hears its alerts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = moved_ports()
        self._port = free_ports(1)[0]
        self._env = {**os.environ, **variables(ports), "K2RUN_HOME": str(folder / "home"), "K2RUN_HOOKS_SECRET": SECRET}
        self.incidents = IncidentStore(folder / "home")
        self.k2run("up", "--stack", "sandbox")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "k2run", "serve", "--port", str(self._port)],
            cwd=folder,
            env=self._env,
            stdout=subprocess.DEVNULL,
        )
        (folder / "chain").mkdir()
        jobs = {
            "k2-api": ports["API_BEHIND"],
            "k2-consumer": ports["CONSUMER_METRICS"],
            "k2-stream": ports["STREAM_METRICS"],
        }
        hooks = f"http://127.0.0.1:{self._port}/hooks/alertmanager"
        self._alerts = AlertChain(folder / "chain", hooks, SECRET, [*jobs], quick=False, ports=jobs)

    def k2run(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "k2run", *words],
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"k2run {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def kill(self, service: str) -> float:
        """Kill -9; returns when (monotonic)."""
        status = json.loads(self.k2run("status", "--stack", "sandbox", "--json"))
        [pid] = [one["pid"] for one in status["services"] if one["service"] == service]
        os.kill(pid, signal.SIGKILL)
        return time.monotonic()

    def end(self) -> None:
        self._alerts.end()
        self._server.terminate()
        self._server.wait(30)
        self.k2run("down", "--stack", "sandbox")


def _one_kill(chain: Chain, service: str) -> tuple[float, list[str]]:
    """Kill a service; seconds until its runbook was chosen, and what was wrong."""
    known = {one.id for one in chain.incidents.all()}

    def opened() -> list[Incident]:
        every = [one for one in chain.incidents.all() if one.id not in known]
        return [one for one in every if one.opened.labels.get("alertname") == "ServiceDown" and one.chosen]

    killed = chain.kill(service)
    [incident] = _until(opened, f"an incident of {service}", 180)
    chosen = time.monotonic() - killed
    chain.k2run("incidents", "--approve", incident.id)

    def ended() -> Incident | None:
        return next((one for one in chain.incidents.all() if one.id == incident.id and one.closed), None)

    closed = _until(ended, f"the end of the incident of {service}", 240)
    wrong = []
    if closed.chosen is None or closed.chosen.runbook != RUNBOOKS[service]:
        wrong.append(f"chosen: {closed.chosen}")
    if not closed.recovered:
        wrong.append(f"not recovered: {closed.closed}")
    told = [moment.occasion.value for _, moment in moments_of(closed)]
    if [occasion for occasion in told if occasion != "approval"] != EXPECTED or len(set(told)) < len(told):
        wrong.append(f"messages: {told}")
    others = [one for one in chain.incidents.all() if one.id not in known and one.id != incident.id]
    wrong += [f"another incident: {one.opened.title}" for one in others]
    return chosen, wrong


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=20)
    kills = options.parse_args().kills
    chosen, wrong = [], 0
    with tempfile.TemporaryDirectory(prefix="k2run-alerts-") as folder:
        chain = Chain(Path(folder))
        try:
            for number in range(kills):
                service = [*RUNBOOKS][number % len(RUNBOOKS)]
                seconds, problems = _one_kill(chain, service)
                chosen.append(seconds)
                wrong += bool(problems)
                print(
                    f"{number + 1:3} {service:9} chosen after {seconds:5.1f} s  {'; '.join(problems) or 'right'}",
                    flush=True,
                )
        finally:
            chain.end()
    worst = max(chosen)
    print(f"{kills - wrong} of {kills} right; chosen after {worst:.1f} s at most (bar {BAR_S:g} s)")
    sys.exit(0 if not wrong and worst <= BAR_S else 1)


if __name__ == "__main__":
    main()

"""From a killed service to its recovery, with nothing simulated: processes, Prometheus, Alertmanager, worker, runs."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from alert_programs import SERVICE, AlertChain
from wheel_programs import free_ports

from k2run.actions.deadline import Deadline
from k2run.daemon.alerts.incident_messages import moments_of
from k2run.daemon.alerts.worker import Worker
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack
from tests.daemon.alerts.conftest import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SERVICES = ("alpha", "beta")
RECOVERY = """\
runbook: 1
kind: recovery
name: {service}-down
title: The {service} does not run
stack: {stack}
requires: [{service}]
alerts: [{{labels: {{alertname: ServiceDown, job: k2-{service}}}, start: automatic, stack: {stack}}}]
symptoms: [{{name: Its process has ended, service.status: {{service: {service}}}, expect: result.state == 'stopped'}}]
steady_state: [{{name: It runs, service.status: {{service: {service}}}, expect: result.running}}]
sections: [{{name: Repair, clock: rto, steps: [{{name: Start it, service.start: {{service: {service}}}}}]}}]
"""


class Live:
    """A stack of two services that Prometheus scrapes, and that recovery runbooks start again."""

    def __init__(self, receiver: Any) -> None:
        folder: Path = receiver.folder
        self.receiver = receiver
        (folder / "service.py").write_text(SERVICE)
        self.ports = dict(zip(SERVICES, free_ports(2), strict=True))
        self.file = folder / "live.yaml"
        lines = ["stack: 1", "name: live", "services:"]
        for service, port in self.ports.items():
            command = f'[{sys.executable}, {folder}/service.py, "{port}"]'
            lines.append(f"  {service}: {{run: process, command: {command}}}")
        self.file.write_text("\n".join(lines) + "\n")
        recoveries = folder / "runbooks" / "recovery"
        recoveries.mkdir(parents=True)
        for service in SERVICES:
            (recoveries / f"{service}-down.yaml").write_text(RECOVERY.format(service=service, stack=self.file))
        self.stack = load_stack(str(self.file), near=None, home=receiver.store.home, overrides={})
        (folder / "chain").mkdir()
        ports = {f"k2-{service}": port for service, port in self.ports.items()}
        hooks = f"{receiver.url}/hooks/alertmanager"
        with contextlib.ExitStack() as begun:  # a chain whose programs are missing skips the test
            begun.callback(lifecycle.stop, self.stack)
            lifecycle.start(self.stack, None, Deadline(60))
            self.chain = AlertChain(folder / "chain", hooks, SECRET, [*ports], quick=True, ports=ports)
            begun.callback(self.chain.end)
            worker = Worker(receiver.store, receiver.incidents, str(self.file), watch_s=0.2)
            begun.callback(worker.stop)
            worker.start()
            self.end = begun.pop_all().close

    def kill(self, service: str) -> float:
        """Kill -9; returns when (monotonic)."""
        pid = next(look.status.pid for look in lifecycle.status(self.stack) if look.service.name == service)
        process = psutil.Process(pid)
        process.kill()
        return time.monotonic()

    def up(self) -> bool:
        query = f"{self.chain.url('prometheus')}/api/v1/query"
        answer = httpx.get(query, params={"query": "up == 1"}).json()
        return len(answer["data"]["result"]) == len(SERVICES)

    def incidents(self) -> list[Any]:
        """Those of services that are down; that no data are ingested is true of this stack all the time."""
        every = self.receiver.incidents.all()
        return [one for one in every if one.opened.labels["alertname"] == "ServiceDown"]


@pytest.fixture
def live(receiver: Any) -> Iterator[Live]:
    made = Live(receiver)
    yield made
    made.end()


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("number", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_each_killed_service_is_one_incident_with_one_run_and_one_outcome(live: Live, number: int) -> None:
    """The services in turn; each is told twice: that it is down, and that a run has recovered it."""
    until(live.up)
    chosen, recovered = [], []
    for count in range(number):
        service = SERVICES[count % 2]
        killed = live.kill(service)
        until(lambda count=count: len(live.incidents()) > count and live.incidents()[count].chosen)
        chosen.append(time.monotonic() - killed)
        until(lambda count=count: live.incidents()[count].ended)
        recovered.append(time.monotonic() - killed)
        incident = live.incidents()[count]
        assert (incident.chosen.runbook, incident.recovered) == (f"{service}-down", True), incident
        until(live.up)
    until(lambda: all(one.closed for one in live.incidents()))
    print(f"{number} kills: chosen after {max(chosen):.1f} s at most, recovered after {max(recovered):.1f} s at most")
    assert len(live.incidents()) == number
    assert len(live.receiver.store.runs()) == number
    for incident in live.incidents():
        occasions = [moment.occasion for _, moment in moments_of(incident)]
        assert occasions == ["incident", "recovered"], incident
    for other in live.receiver.incidents.all():
        if other.id not in {incident.id for incident in live.incidents()}:
            assert "recovered" not in [moment.occasion for _, moment in moments_of(other)], "its alert still fires"

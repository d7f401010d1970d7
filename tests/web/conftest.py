"""A real server on a home of its own, with runbooks that break real processes and measure a real endpoint."""

from __future__ import annotations

import hmac
import http.server
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from k2run.daemon.alerts.incident_store import IncidentStore
from k2run.engine.journal import read_journal
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STACK = """\
stack: 1
name: sleepers
title: Two sleepers
services:
  one: {run: process, command: [sleep, "600"]}
  two: {run: process, command: [sleep, "600"]}
"""
SCENARIO = """\
runbook: 1
kind: scenario
name: scenario
title: A sleeper is held
owner: platform
stack: sleepers
inputs:
  level: {type: integer, default: 5, help: the level to wait for}
  note: {type: string, default: nothing, help: a word of your own}
  key: {type: secret, help: where a key is}
objective: {rto: 5m}
sections:
  - name: Ask
    within: 30s
    steps:
      - name: The room is ready
        manual.confirm: {that: "Notifications are off & the <b>room</b> is ready"}
        timeout: 60s
  - name: Break
    steps:
      - name: Hold the first sleeper
        service.pause: {service: one}
      - name: The level rises
        metrics.read: {url: "GAUGE/metrics", metric: k2_degradation_level}
        until: result.value >= level
        every: 100ms
        within: 30s
  - name: Wait
    steps:
      - name: Wait for an operator
        wait: {for: 120s}
        timeout: 130s
"""
SHORT = """\
runbook: 1
kind: readiness
name: short
title: Short steps
stack: none
sections:
  - name: Steps
    steps:
      - name: "Turn {{ item }}"
        loop: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
        shell.run: {command: sleep 0.08}
"""
TALK = """\
runbook: 1
kind: readiness
name: talk
title: Something is asked while other things go on
stack: none
sections:
  - name: Side by side
    parallel: 8
    steps:
      - name: Say something
        manual.input: {question: "What did you see?"}
        timeout: 60s
      - {name: Look once, metrics.read: {url: "GAUGE/metrics", metric: k2_degradation_level}}
      - name: "Turn {{ item }}"
        loop: [1, 2, 3, 4, 5]
        wait: {for: 700ms}
"""
HELD = """\
runbook: 1
kind: recovery
name: held
title: A held sleeper is resumed
stack: sleepers
inputs: {note: {type: string, default: ""}}
alerts:
  - {labels: {alertname: Held}, start: approval, stack: sleepers, inputs: {note: "{{ labels.note }}"}}
  - {labels: {alertname: Broken}, start: automatic, stack: sleepers, inputs: {note: "{{ labels.note }}"}}
symptoms:
  - {name: It is held, service.status: {service: one}, expect: not result.running}
sections:
  - name: Let it go
    steps:
      - {name: The alert says what is held, assert: {that: "note == 'one'"}}
"""


_addresses = itertools.count(2)


def own_address() -> str:
    """An address of this machine for one client alone: the server counts what each address asks for."""
    number = next(_addresses)
    address = f"127.0.{number // 250}.{number % 250 + 1}"
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:  # macOS has only the first
            return "127.0.0.1"
    return address


@dataclass
class Served:
    """A k2run home and the server in front of it."""

    folder: Path
    address: str = ""
    token: str = ""
    said: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def name(self) -> str:
        """Who the token of this home belongs to."""
        return next(line.split()[1] for line in (self.home / "tokens").read_text().splitlines() if line[0] != "#")

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "K2RUN_HOME": str(self.home)}

    def start(self, *options: str) -> None:
        port = self.address.rpartition(":")[2] or "0"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "k2run", "serve", "--port", port, *options],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = [self.process.stdout.readline() for _ in range(3)]
        assert "/enter#" in self.said[1], self.said
        self.address, _, self.token = self.said[1].split()[-1].partition("/enter#")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def client(self, token: str | None = None, **more: str) -> httpx.Client:
        return self.anonymous(authorization=f"Bearer {token or self.token}", **more)

    def anonymous(self, **headers: str) -> httpx.Client:
        transport = httpx.HTTPTransport(local_address=own_address())
        return httpx.Client(base_url=self.address, headers=headers, timeout=30, transport=transport)

    def start_run(self, runbook: str, **form: str) -> str:
        """Start a run; the level that it may wait for is zero then."""
        _Gauge.looks = 0
        with self.client() as client:
            answer = client.post(f"/runbooks/{runbook}/start", data=form or {"tags": ""})
        assert answer.status_code == 303, answer.text
        return answer.headers["location"].rpartition("/")[2]

    def alert(self, alertname: str, *, key: str = "", status: str = "firing", **labels: str) -> str:
        """Let an alert arrive; the incident to which it belongs."""
        content = {"key": key or alertname, "title": f"{alertname} in the test", "status": status}
        body = json.dumps({**content, "labels": {"alertname": alertname, **labels}}).encode()
        at = f"{time.time():.6f}"
        signed = f"{at}.".encode() + body
        signature = hmac.new((self.home / "hooks-secret").read_bytes(), signed, "sha256").hexdigest()
        with self.anonymous() as client:
            headers = {"x-k2run-time": at, "x-k2run-signature": f"sha256={signature}"}
            answer = client.post("/hooks/generic", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["incident"])

    def wait_for_incident(self, incident: str, what: Callable[[Any], bool], seconds: float = 60) -> Any:
        """Wait until something is true of an incident."""
        end = time.monotonic() + seconds
        while not what(found := IncidentStore(self.home).find(incident)):
            assert time.monotonic() < end, found
            time.sleep(0.1)
        return found

    def end_all(self) -> None:
        """End whatever runs, so that the next test finds the stack free."""
        with self.client() as client:
            for mark in self.home.glob("stacks/*/open-run"):
                run = mark.read_text().strip()
                if client.post(f"/runs/{run}/abort").status_code == 303:
                    self.ended(run)

    def events(self, run: str) -> list[Any]:
        return read_journal(self.home / "runs" / run)

    def wait_for(self, run: str, what: Callable[[Any], bool], seconds: float = 30) -> Any:
        """Wait for an event of a run."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for event in self.events(run):
                if what(event):
                    return event
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds}s: {[type(event).__name__ for event in self.events(run)][-5:]}")

    def ended(self, run: str, seconds: float = 30) -> Any:
        return self.wait_for(run, lambda event: type(event).__name__ == "RunFinished", seconds)

    def sleeper(self, name: str = "one") -> psutil.Process:
        """The live process of a service."""
        file = self.folder / "runbooks" / "stacks" / "sleepers.yaml"
        stack = load_stack(str(file), near=None, home=self.home, overrides={})
        [look] = lifecycle.status(stack, [name])
        return psutil.Process(look.status.pid)


class _Gauge(http.server.BaseHTTPRequestHandler):
    """A metric that rises by one with every second look."""

    looks = 0

    def do_GET(self) -> None:
        type(self).looks += 1
        body = f"# TYPE k2_degradation_level gauge\nk2_degradation_level {self.looks // 2}\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="session")
def gauge() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gauge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def lay_out(gauge: str) -> Callable[[Path], Served]:
    """Makes a folder with runbooks and stacks, still without a server."""

    def make(folder: Path) -> Served:
        stacks = folder / "runbooks" / "stacks"
        stacks.mkdir(parents=True)
        (stacks / "sleepers.yaml").write_text(STACK)
        (stacks / "none.yaml").write_text("stack: 1\nname: none\n")
        (folder / "runbooks" / "scenario.yaml").write_text(SCENARIO.replace("GAUGE", gauge))
        (folder / "runbooks" / "short.yaml").write_text(SHORT)
        (folder / "runbooks" / "talk.yaml").write_text(TALK.replace("GAUGE", gauge))
        (folder / "runbooks" / "recovery").mkdir()
        (folder / "runbooks" / "recovery" / "held.yaml").write_text(HELD)
        return Served(folder)

    return make


@pytest.fixture(scope="session")
def served(lay_out: Callable[[Path], Served], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that the tests of this session share."""
    found = lay_out(tmp_path_factory.mktemp("served"))
    found.start()
    yield found
    found.stop()

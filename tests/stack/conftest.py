"""Stacks of small real programs, each in a folder of its own, stopped when the test ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest
from wheel_programs import free_ports

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.engine.dispatch import Caller
from k2run.engine.prompts import Nobody
from k2run.errors import StackInvalid
from k2run.stack import lifecycle
from k2run.stack.backend import State
from k2run.stack.services import backend_of
from k2run.stack.stack import Stack, load_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


WEB = """\
import http.server, json, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"status": sys.argv[2], "parts": {"disk": "ok"}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
print("serving", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Writes a stack file from its `services:` (or whole) and loads it; every stack made is stopped at the end."""
    made: list[Stack] = []

    def make(text: str, name: str = "bench", **overrides: str) -> Stack:
        body = textwrap.dedent(text)
        whole = body if body.startswith("stack:") else f"stack: 1\nname: {name}\n{body}"
        path = tmp_path / f"{name}.yaml"
        path.write_text(whole)
        (tmp_path / "web.py").write_text(WEB)
        made.append(load_stack(str(path), near=None, home=tmp_path / "home", overrides=overrides))
        return made[-1]

    yield make
    for stack in made:
        with contextlib.suppress(StackInvalid):  # a stack that is wrong on purpose; what can be stopped is
            lifecycle.stop(stack)


STOPS_WORKER = """
runbook: 1
kind: scenario
name: stopped
sections:
- name: Break
  steps:
  - name: Stop it
    service.stop: {service: worker}
  - name: Wait
    wait: {for: 60s}
"""


@pytest.fixture
def kill_a_run_that_stopped(tmp_path: Path, state: Callable[..., State]) -> Callable[..., Any]:
    """Kills a run once it has stopped the service `worker`; gives what undoes that run, as a process."""

    def killed(stack: Stack) -> Callable[[], subprocess.CompletedProcess[str]]:
        runbook = tmp_path / "stopped.yaml"
        runbook.write_text(STOPS_WORKER)
        program = [sys.executable, "-m", "k2run"]
        which = ["--stack", str(stack.path)]
        settings: dict[str, Any] = {"env": {**os.environ, "K2RUN_HOME": str(tmp_path / "home")}, "cwd": tmp_path}
        command = [*program, "run", str(runbook), *which, "--plain"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, **settings) as run:
            ends = time.monotonic() + 60
            while state(stack) is not State.STOPPED and time.monotonic() < ends:
                time.sleep(0.05)
            run.kill()
        undo = [*program, "undo", *which]
        return lambda: subprocess.run(undo, check=False, capture_output=True, text=True, timeout=60, **settings)

    return killed


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def call() -> Callable[..., Any]:
    """Calls an action on a stack by its name, as a step does, and gives its result."""

    def call(stack: Stack, action: str, **args: object) -> object:
        caller = Caller(Catalogue(), stack, lambda _step: Nobody())
        plans: list[object] = []
        return caller.call(action, args, Deadline(30), plan=plans.append)

    return call


@pytest.fixture
def state() -> Callable[[Stack], State]:
    """Gives the state of a stack's service `worker`."""

    def state(stack: Stack) -> State:
        return backend_of(stack, stack.services["worker"]).status().state

    return state

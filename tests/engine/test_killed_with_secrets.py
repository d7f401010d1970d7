"""A run whose secrets are names of services and actions, killed at each of its events, is restored and resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest
from killed_run import killed_at

from k2run.actions.deadline import Deadline
from k2run.engine.events import RunFinished
from k2run.stack import lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Bench as AnyBench

STACK = """\
stack: 1
name: admin
services:
  postgres: {run: process, command: [sleep, "600"]}
  passed: {run: process, command: [sleep, "600"]}
"""
RUNBOOK = """\
runbook: 1
kind: scenario
name: undo
title: Everything has the name of a secret
inputs:
  service: {type: secret, default: "env:FIRST"}
  action: {type: secret, default: "env:SECOND"}
  other: {type: secret, default: "env:THIRD"}
steady_state:
  - {name: postgres runs, service.status: {service: postgres}, expect: result.state == 'running'}
sections:
  - name: postgres
    steps:
      - {name: Pause, service.pause: {service: "{{ service }}"}, register: held}
      - {name: Kill passed, service.kill: {service: "{{ other }}"}}
      - {name: What was registered is whole, assert: {that: [held.service == 'postgres', held.service == service]}}
always:
  - {name: Put back, shell.run: {command: "true"}}
"""


@pytest.fixture
def named(bench: AnyBench, monkeypatch: pytest.MonkeyPatch) -> Iterator[AnyBench]:
    for name, secret in {"FIRST": "postgres", "SECOND": "service.pause", "THIRD": "passed"}.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("K2RUN_HOME", str(bench.store.home))
    bench.stack_text = STACK
    lifecycle.start(bench.stack(), None, Deadline(10), lambda _text: None)
    yield bench
    lifecycle.stop(bench.stack(), ["postgres", "passed"])


def settles(bench: AnyBench, event: int, path: Path) -> bool:
    """Kill a run at an event and settle it; whether there was such an event."""
    if not killed_at(event, path, stack_file=bench.stack_file, home=bench.store.home):
        return False
    code, out = bench.output("undo")
    assert code == 0, (event, out)
    states = {name: process.status() for name, process in bench.processes().items()}
    assert set(states) == {"postgres", "passed"}, (event, states, out)
    assert psutil.STATUS_STOPPED not in states.values(), (event, states, out)
    folder = bench.store.find_run("last")
    if isinstance(bench.journal()[-1], RunFinished):
        return True
    code, out = bench.output("resume", folder.name, "--plain")
    assert code == 0, (event, out)
    assert set(bench.processes()) == {"postgres", "passed"}
    return True


@pytest.mark.parametrize("event", [6, 12])
def test_a_run_killed_at_some_events_is_restored_and_resumed(named: AnyBench, event: int) -> None:
    assert settles(named, event, named.write(RUNBOOK))


@pytest.mark.slow
def test_a_run_killed_at_any_of_its_events_is_restored_and_resumed(named: AnyBench) -> None:
    path, event = named.write(RUNBOOK), 1
    while settles(named, event, path):
        event += 1
    assert event > 20

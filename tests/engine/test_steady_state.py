"""The steady state while recovery is timed: its steps hand on values, loop, nest, and wait as they do elsewhere."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from k2run.engine import sections
from k2run.engine.events import ClockStopped

if TYPE_CHECKING:
    from tests.engine.conftest import Bench

RECOVERY = """\
runbook: 1
kind: recovery
name: mend
title: Mend
objective: {rto: 20s}
symptoms:
  - {name: It is broken, assert: {that: true}}
steady_state:
STEADY
sections:
  - name: Mend
    clock: rto
    steps:
      - {name: Nothing is left to do, assert: {that: true}}
"""
HANDED_ON = """
- {name: Restart it, service.restart: {service: one}, register: started}
- name: It lasts, by its new number
  service.status: {service: one}
  until: result.uptime_s > 0.5 and result.pid == started.pid
  every: 100ms
  within: 5s
"""
LOOPED = """
- name: "{{ item }} runs"
  loop: [one, two]
  service.status: {service: "{{ item }}"}
  expect: result.running
  register: both
- {name: Both were seen, assert: {that: "both | map(attribute='running') | list == [true, true]"}}
"""
NESTED = """
- name: All of it
  block:
    - {name: Look at it, service.status: {service: one}, register: seen}
    - {name: It runs, assert: {that: seen.running}}
- {name: What a block registers stays known, assert: {that: seen.running}}
"""
ONLY_A_WARNING = """
- {name: Nice to have, assert: {that: false}, severity: warning}
- {name: Needed, assert: {that: true}}
"""


def recover(bench: Bench, steady: str, within: str = "20s") -> tuple[str, ClockStopped]:
    text = RECOVERY.replace("STEADY", textwrap.indent(steady.strip(), "  ")).replace("20s", within)
    finished = bench.run(text)
    [clock] = [event for event in bench.seen if isinstance(event, ClockStopped)]
    return finished.outcome.value, clock


@pytest.mark.parametrize(
    "steady", [HANDED_ON, LOOPED, NESTED, ONLY_A_WARNING], ids=["handed on", "looped", "nested", "a warning"]
)
def test_a_steady_state_that_holds_stops_the_recovery_clock(sleepers: Bench, steady: str) -> None:
    outcome, clock = recover(sleepers, steady)
    assert (outcome, clock.message) == ("passed", "")
    assert clock.seconds < 10


@pytest.mark.parametrize(
    ("steady", "why"),
    [
        (LOOPED.replace("expect: result.running", "expect: item == 'one'"), "two runs: expected item == 'one'"),
        (NESTED.replace("that: seen.running", "that: not seen.running"), "All of it: It runs: "),
        ("- {name: Gone, file.size: {path: nowhere}}", "Gone: "),
    ],
    ids=["looped", "nested", "an error"],
)
def test_what_does_not_hold_is_named(sleepers: Bench, monkeypatch, steady: str, why: str) -> None:
    monkeypatch.setattr(sections, "RECOVERY_LIMIT", 0.5)
    outcome, clock = recover(sleepers, steady, within="1s")
    assert outcome == "failed"
    assert clock.message.startswith(f"the steady state did not come back: {why}")

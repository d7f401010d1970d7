"""Every fault, however its run ends: the stack is as it was."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from adapter_tests import is_undone_in_a_test

from k2run.actions.action import Blast, Effect
from k2run.actions.catalogue import Catalogue
from k2run.errors import Protected
from k2run.stack import lifecycle

if TYPE_CHECKING:
    from conftest import Faulty

TESTED_ON = {"storage": "the file system", "topic": "the Tansu broker"}

ADAPTERS = Path(__file__).parents[1] / "adapters"
TICKS = "topic: ticks, group: readers"
FAULTS = {
    "service.kill": "{service: worker}",
    "service.stop": "{service: worker}",
    "service.pause": "{service: worker}",
    "settings.crash_loop": "{service: worker, every: 200ms}",
    "settings.change": "{service: worker, options: {'600': '500'}, settle: 0s}",
    "settings.skew_clock": "{service: worker, by: 5m}",
    "host.hog_cpu": "{workers: 1}",
    "host.hog_memory": "{size: 20MiB}",
    "host.fill_disk": "{size: 5MiB}",
    "storage.hide": "{path: data}",
    "storage.damage": "{path: data/settings.toml}",
    "storage.lock": "{path: data/catalog.db}",
    "storage.forbid_writing": "{path: data}",
    "storage.fill": "{path: SMALL}",
    "postgres.lock": "{table: spare}",
    "s3.hide": "{location: 's3://spare/one.txt'}",
    "network.cut": "{link: reader, how: refused}",
    "network.delay": "{link: reader, latency: 50ms, jitter: 10ms}",
    "network.lose": "{link: reader, percent: 5}",
    "network.throttle": "{link: reader, rate: 100000/s}",
    "network.reset": "{link: reader, percent: 50, after: 100ms}",
    "network.fail": "{link: page, percent: 50, status: 503}",
    "tc.shape": "{interface: lo, namespace: NAMESPACE, rate: 1000000/s}",
    "topic.poison": f"{{{TICKS}}}",
    "topic.duplicate": f"{{{TICKS}, count: 5}}",
    "topic.disorder": f"{{{TICKS}, count: 5}}",
    "topic.flood": f"{{{TICKS}, count: 500}}",
    "topic.change_schema": f"{{{TICKS}, count: 2, drop: [side]}}",
    "topic.delete": "{topic: spare, group: readers}",
    "topic.configure": "{topic: ticks, settings: {retention.ms: 60000}}",
}


def runbook(fault: str, then: str) -> str:
    return f"""\
runbook: 1
kind: scenario
name: one-fault
title: One fault
sections:
  - name: Break
    steps:
      - {{name: Strike, {fault}: {FAULTS[fault]}, timeout: 20s}}
      - {{name: Then, shell.run: {{command: "{then}"}}, timeout: 40s}}
"""


def test_every_fault_is_in_the_matrix_or_is_undone_in_a_test_of_its_adapter() -> None:
    known = set(Catalogue().faults())
    assert known >= FAULTS.keys()
    assert [fault for fault in sorted(known - FAULTS.keys()) if not is_undone_in_a_test(fault, ADAPTERS)] == []


def test_every_fault_says_how_far_it_reaches() -> None:
    faults = [action for action in Catalogue().all() if action.effect is Effect.BREAKS]
    assert [fault.name for fault in faults if fault.blast is None or "Blast radius:" not in fault.doc] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_normal_end_the_stack_is_as_it_was(faulty: Faulty, fault: str) -> None:
    before = faulty.seen()
    finished = faulty.run(runbook(fault, "true"))
    assert finished.exit_code == 0, finished.reasons
    assert faulty.seen() == before


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_failed_step_the_stack_is_as_it_was(faulty: Faulty, fault: str) -> None:
    before = faulty.seen()
    assert faulty.run(runbook(fault, "false")).exit_code == 1
    assert faulty.seen() == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_signal_the_stack_is_as_it_was(faulty: Faulty, fault: str, number: signal.Signals) -> None:
    before = faulty.seen()
    process = faulty.begin(runbook(fault, "sleep 30"))
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 3, out
    assert faulty.seen() == before


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_kill_of_k2run_an_undo_puts_the_stack_back(faulty: Faulty, fault: str) -> None:
    before = faulty.seen()
    process = faulty.begin(runbook(fault, "sleep 30"))
    process.kill()
    process.communicate(timeout=10)
    undoing = faulty.command("undo")
    out, _ = undoing.communicate(timeout=40)
    assert undoing.returncode == 0, out
    assert faulty.seen() == before


@pytest.mark.slow
def test_an_undo_whose_proxy_is_dead_says_that_up_comes_first(faulty: Faulty) -> None:
    before = faulty.seen()
    process = faulty.begin(runbook("network.delay", "sleep 30"))
    process.kill()
    process.communicate(timeout=10)
    lifecycle.stop(faulty.stack(), ["network"])
    for words, code, said in (
        (["undo"], 1, "network is not running: run `k2run up --stack"),
        (["up", "--stack", str(faulty.stack_file)], 0, "started network"),
        (["undo"], 0, "undone"),
    ):
        command = faulty.command(*words)
        out, _ = command.communicate(timeout=60)
        assert command.returncode == code, out
        assert said in out
    assert faulty.seen() == before


def test_a_run_may_be_kept_from_reaching_too_far(faulty: Faulty) -> None:
    with pytest.raises(Protected, match="reaches the host"):
        faulty.run(runbook("host.hog_cpu", "true"), max_blast=Blast.DATA.value)
    assert faulty.run(runbook("service.pause", "true"), max_blast="service").exit_code == 0


def test_a_changed_schema_passes_over_what_another_fault_has_left(faulty: Faulty) -> None:
    for fault in ("topic.poison", "topic.change_schema"):
        finished = faulty.run(runbook(fault, "true"))
        assert finished.exit_code == 0, (fault, finished.reasons)

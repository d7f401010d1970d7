"""The recovery runbooks that ship."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from moved_ports import moved_ports, variables

from k2run.actions.action import Effect
from k2run.actions.catalogue import Catalogue
from k2run.engine.outline import all_steps
from k2run.language.loader import load_runbook
from k2run.language.model import Kind
from k2run.recovery.drill import Choice, Round, choose

SHIPPED = Path(__file__).parents[2] / "runbooks" / "recovery"


@pytest.fixture(scope="module")
def shipped():
    catalogue = Catalogue()
    return {file.stem: load_runbook(file, catalogue) for file in sorted(SHIPPED.glob("*.yaml"))}


def test_each_is_valid_and_stands_in_a_file_of_its_name(shipped):
    assert {runbook.name for runbook in shipped.values()} == set(shipped)
    assert len(shipped) > 15


def test_each_promises_a_time(shipped):
    recoveries = [runbook for runbook in shipped.values() if runbook.kind is Kind.RECOVERY]
    assert all(runbook.objective.rto or runbook.objective.within for runbook in recoveries)


def test_each_that_repairs_the_data_path_proves_it_with_a_probe_trade(shipped):
    for name in ("broker-down", "stream-down", "stream-stalled", "consumer-crashed", "consumer-stuck", "api-down"):
        [proof] = [section for section in shipped[name].sections if section.clock == "rto"]
        assert [step.action for step in proof.steps] == ["kafka.produce", "http.get"]
        assert shipped[name].steady_state


def test_each_fault_of_the_drill_names_a_recovery_with_symptoms(shipped):
    faults = choose(shipped["drill"], Choice(every=True))
    assert len(faults) > 15
    for fault in faults:
        assert shipped[fault.recovery.removesuffix(".yaml")].symptoms


def test_each_repair_says_whether_there_was_anything_to_repair(shipped):
    """Else a recovery of what works would have "changed" it, and its verdict would be PASSED."""
    catalogue = Catalogue()
    repairs = {
        step.action
        for runbook in shipped.values()
        if runbook.kind is Kind.RECOVERY
        for step in all_steps(runbook)
        if step.effect is Effect.CHANGES and step.action != "kafka.produce"  # the probe that proves it
    }
    assert len(repairs) > 5
    assert [name for name in sorted(repairs) if "changed" not in catalogue.find(name).result.__struct_fields__] == []


@pytest.mark.slow
def test_a_fault_on_the_sandbox_is_found_and_repaired_and_nothing_is_lost(tmp_path):
    ports = variables(moved_ports())
    done = subprocess.run(
        [str(Path(sys.executable).parent / "k2run"), "drill", "--seed", "2"],
        cwd=tmp_path,
        env={**os.environ, **ports, "K2RUN_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = tmp_path.glob("home/runs/*/drill.json")
    [one] = msgspec.json.decode(file.read_bytes(), type=list[Round])
    assert one.right
    assert one.recovered
    assert one.cost is not None
    assert one.cost.acked > 0
    assert (one.cost.lost, one.cost.doubled) == (0, 0)

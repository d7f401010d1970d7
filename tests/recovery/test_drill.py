from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from k2run.errors import UsageError
from k2run.recovery.drill import Choice, Round, choose

POOL = """\
runbook: 1
kind: scenario
name: pool
inputs: {in_turn: {type: boolean, default: false}}
sections:
  - name: Faults
    when: in_turn
    steps:
      - name: The store is killed
        service.kill: {service: store}
        on_failure: {recovery: recovery/store-down.yaml}
      - name: The worker is killed
        service.kill: {service: worker}
        on_failure: {recovery: recovery/worker-down.yaml}
      - name: A step that is no fault of a drill
        assert: {that: true}
"""


@pytest.fixture
def pool(site) -> str:
    (site.folder / "runbooks" / "pool.yaml").write_text(POOL)
    return "runbooks/pool.yaml"


def test_the_same_seed_chooses_the_same_faults(site):
    runbook = site.runbook(POOL)
    chosen = [[step.name for step in choose(runbook, Choice(seed=3, rounds=5))] for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert set(chosen[0]) == {"The store is killed", "The worker is killed"}


def test_every_fault_comes_as_often_as_asked(site):
    chosen = [step.name for step in choose(site.runbook(POOL), Choice(every=True, rounds=3))]
    assert sorted(chosen) == ["The store is killed"] * 3 + ["The worker is killed"] * 3


def test_a_runbook_without_faults_cannot_be_drilled(site):
    text = POOL.replace("on_failure: {recovery: recovery/store-down.yaml}", "").replace(
        "on_failure: {recovery: recovery/worker-down.yaml}", ""
    )
    with pytest.raises(UsageError, match="no faults"):
        choose(site.runbook(text), Choice())


def test_a_drill_finds_and_repairs_every_fault_and_tells_none_beforehand(site, pool):
    code, said = site.command("drill", pool, "--stack", "stack.yaml", "--every")
    assert code == 0, said
    before_the_table = said.partition("round  fault")[0]
    assert "is killed" not in before_the_table
    [folder] = [run for run in site.store.runs() if "-pool-" in run.name]
    rounds = msgspec.json.decode((folder / "drill.json").read_bytes(), type=list[Round])
    assert [one.right and one.recovered for one in rounds] == [True, True]
    assert all(one.rto is not None and one.rto < 10 for one in rounds)


def test_a_drill_that_is_killed_leaves_its_fault_on_record_for_undo(site, pool):
    # Without a runbook that repairs it, the drill goes on looking while the fault is in force.
    for file in (site.folder / "runbooks" / "recovery").iterdir():
        file.write_text(file.read_text().replace("'stopped'", "'nothing'"))
    command = [str(Path(sys.executable).parent / "k2run"), "drill", pool, "--stack", "stack.yaml"]
    environment = {**os.environ, "K2RUN_HOME": str(site.store.home)}
    process = subprocess.Popen(command, cwd=site.folder, env=environment, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 20
    while site.pid("store") and site.pid("worker") and time.monotonic() < ends:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(5)
    code, said = site.command("undo")
    assert code == 0, said
    assert site.pid("store")
    assert site.pid("worker")

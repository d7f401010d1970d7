from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.service.actions import strangers
from k2run.engine.events import StepFinished
from k2run.engine.run import run
from k2run.errors import UsageError
from k2run.recovery.drill import Choice, Round, choose
from k2run.stack import lifecycle
from k2run.stack.services import Services

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


def test_a_fault_that_cannot_be_made_here_does_not_apply_and_the_drill_goes_on(site):
    filled = "      - name: A disk of its own is full\n        storage.fill: {path: logs}\n"
    text = POOL.replace(
        "      - name: A step",
        f"{filled}        on_failure: {{recovery: recovery/store-down.yaml}}\n      - name: A step",
    )
    (site.folder / "runbooks" / "pool.yaml").write_text(text)
    code, said = site.command("drill", "runbooks/pool.yaml", "--stack", "stack.yaml", "--every")
    assert code == 0, said
    [folder] = [run for run in site.store.runs() if "-pool-" in run.name]
    rounds = msgspec.json.decode((folder / "drill.json").read_bytes(), type=list[Round])
    assert [one.fault for one in rounds if not one.applies] == ["A disk of its own is full"]
    assert all(one.right and one.recovered for one in rounds if one.applies)
    assert "not applicable here" in said


def test_a_port_that_another_program_took_is_let_go_before_its_service_is_started_again(site):
    with socket.create_server(("127.0.0.1", 0)) as free:
        free_port = free.getsockname()[1]
    command = f"[python, -m, http.server, '{free_port}', --bind, 127.0.0.1]"
    stack = site.folder / "stack.yaml"
    stack.write_text(stack.read_text() + f"  web: {{run: process, command: {command}, ports: [{free_port}]}}\n")
    lifecycle.start(site.stack(), ["web"], Deadline(15))
    text = """
        runbook: 1
        kind: scenario
        name: taken
        sections:
          - steps:
              - {name: Too early, host.take_port: {service: web}, ignore_failure: true}
              - {service.kill: {service: web}}
              - {host.take_port: {service: web}}
              - {name: Seen, service.strangers: {}, expect: "result.services == ['web']"}
    """
    finished = run(site.request(site.runbook(text)))
    assert finished.exit_code == 0, finished.reasons
    said = {event.name: event.message for event in site.seen if isinstance(event, StepFinished)}
    assert "something listens on port" in said["Too early"]
    services = Services.of(site.stack())
    assert strangers(services).taken == []
    assert site.pid("web")
    lifecycle.stop(site.stack(), ["web"])


def test_a_fault_that_the_stack_cannot_have_is_left_out_and_named(site, pool):
    file = site.folder / "runbooks" / "pool.yaml"
    lacking = "      - name: The queue is killed\n        requires: queue\n        service.kill: {service: store}\n"
    recovery = "        on_failure: {recovery: recovery/store-down.yaml}\n"
    only = POOL.partition("      - name: The store")[0] + lacking + recovery
    file.write_text(only)
    code, said = site.command("drill", pool, "--stack", "stack.yaml")
    assert code == 2
    assert "left out: The queue is killed: the stack" in said
    assert "no fault of pool applies to the stack" in said
    recovering = site.folder / "runbooks" / "recovery" / "store-down.yaml"
    recovering.write_text(recovering.read_text().replace("requires: [store]", "requires: [store, queue]"))
    file.write_text(POOL)
    code, said = site.command("drill", pool, "--stack", "stack.yaml", "--every")
    assert code == 0, said
    assert "left out: The store is killed: the stack" in said
    assert "has no queue" in said
    assert "1 round, seed 1" in said

"""What a dead run left is told and can be put back, also when its journal is damaged or its folder was cleaned away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from k2run.engine.run import run
from k2run.errors import Unsettled

if TYPE_CHECKING:
    from conftest import Bench


SCENARIO = """\
runbook: 1
kind: scenario
name: hold
sections:
  - name: Break
    steps:
      - {name: Pause one, service.pause: {service: one}}
      - {name: Kill two, service.kill: {service: two}}
      - {name: Work, shell.run: {command: COMMAND}}
"""


def scenario(command: str) -> str:
    return SCENARIO.replace("COMMAND", json.dumps(command))


def states_of(bench: Bench) -> dict[str, str]:
    return {name: process.status() for name, process in bench.processes().items()}


def all_running(bench: Bench) -> bool:
    states = states_of(bench)
    return set(states) == {"one", "two"} and psutil.STATUS_STOPPED not in states.values()


def wait_until_broken(bench: Bench, process: subprocess.Popen[str]) -> None:
    """Until `one` is paused and `two` is killed by the run in `process`."""
    end = time.monotonic() + 40
    while states_of(bench) != {"one": psutil.STATUS_STOPPED}:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "nothing was broken"
        time.sleep(0.02)


@pytest.fixture
def dead(sleepers: Bench) -> Path:
    """The folder of a run that was killed while two faults were in force."""
    path = sleepers.write(scenario("sleep 60"))
    process = sleepers.command("run", str(path), "--stack", str(sleepers.stack_file), "--plain")
    wait_until_broken(sleepers, process)
    process.kill()
    process.communicate()
    return sleepers.store.find_run("last")


def damage(folder: Path, holding: str) -> int:
    """Damage the first line of a journal that holds something; its number."""
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    number = next(number for number, line in enumerate(lines) if holding.encode() in line)
    lines[number] = b"\x00" * len(lines[number])
    journal.write_bytes(b"\n".join(lines))
    return number + 1


@pytest.mark.parametrize(
    "holding",
    ["undo_planned", *(pytest.param(each, marks=pytest.mark.slow) for each in ("run_started", "step_finished"))],
)
def test_a_damaged_line_keeps_no_undo_from_being_played(sleepers: Bench, dead: Path, holding: str) -> None:
    damage(dead, holding)
    code, out = sleepers.output("status", "--stack", str(sleepers.stack_file))
    assert "resume one" in out
    with pytest.raises(Unsettled, match="resume one"):
        run(sleepers.request(scenario("true")))
    code, out = sleepers.output("undo", "--stack", str(sleepers.stack_file))
    assert code == 0, out
    assert all_running(sleepers)
    assert run(sleepers.request(scenario("true"))).exit_code == 0


def test_a_damaged_line_whose_undo_is_kept_nowhere_is_told_and_the_rest_is_put_back(
    sleepers: Bench, dead: Path
) -> None:
    sleepers.store.undo_copy("sleepers").unlink()
    number = damage(dead, "resume one")
    with pytest.raises(Unsettled, match=f"line {number} of the journal"):
        run(sleepers.request(scenario("true")))
    code, out = sleepers.output("undo")
    assert code == 1
    assert "two" in sleepers.processes()
    assert f"line {number} of the journal" in out
    assert "these faults may still be in force: Pause one" in out
    assert "k2run up" in out
    code, out = sleepers.output("undo")
    assert (code, out) == (0, "nothing to undo\n")
    assert sleepers.output("up", "--stack", str(sleepers.stack_file))[0] == 0
    assert all_running(sleepers)
    assert run(sleepers.request(scenario("true"))).exit_code == 0


def test_a_run_whose_folder_was_cleaned_away_is_undone(sleepers: Bench, dead: Path) -> None:
    shutil.rmtree(sleepers.store.home / "runs")
    with pytest.raises(Unsettled, match="start two; resume one"):
        run(sleepers.request(scenario("true")))
    shutil.rmtree(sleepers.store.home / "runs")
    code, out = sleepers.output("undo")
    assert code == 0, out
    assert all_running(sleepers)
    assert dead.is_dir()


def test_a_run_of_which_nothing_is_left_is_told_once_and_lets_the_next_one_start(sleepers: Bench, dead: Path) -> None:
    shutil.rmtree(dead)
    for kept in sleepers.store.stack_folder("sleepers").glob("open-run-*"):
        kept.unlink()
    with pytest.raises(Unsettled, match="its folder is gone: what it broke is not known"):
        run(sleepers.request(scenario("true")))
    code, out = sleepers.output("undo", "--stack", str(sleepers.stack_file))
    assert code == 1
    assert "its folder is gone" in out
    assert "k2run up" in out
    assert sleepers.output("up", "--stack", str(sleepers.stack_file))[0] == 0
    assert all_running(sleepers)
    assert run(sleepers.request(scenario("true"))).exit_code == 0


def test_nothing_is_kept_of_a_run_that_has_ended(sleepers: Bench) -> None:
    assert sleepers.run(scenario("true")).exit_code == 0
    assert not list(sleepers.store.stack_folder("sleepers").glob("open-run*"))


def test_a_runbook_that_cannot_be_read_any_more_keeps_no_undo_from_being_played(sleepers: Bench, dead: Path) -> None:
    (dead / "runbook.yaml").write_text("runbook: 99\n")
    code, out = sleepers.output("undo")
    assert code == 0, out
    assert all_running(sleepers)


def test_undo_does_not_claim_to_have_resumed_what_is_dead_and_says_that_up_comes_first(
    sleepers: Bench, dead: Path
) -> None:
    assert dead.is_dir()
    one = sleepers.processes()["one"]
    one.kill()
    one.wait(5)
    code, out = sleepers.output("undo")
    assert code == 1
    assert "could not undo: resume one" in out
    assert "one is not running: run `k2run up --stack" in out
    assert "first, then `k2run undo` again" in out
    assert "undone      resume one" not in out
    assert sleepers.output("up", "--stack", str(sleepers.stack_file))[0] == 0
    code, out = sleepers.output("undo")
    assert code == 0, out
    assert all_running(sleepers)


def test_undo_goes_on_when_nobody_reads_what_it_says_and_when_one_stack_cannot_be_opened(
    sleepers: Bench, dead: Path
) -> None:
    assert dead.is_dir()
    lost = sleepers.store.stack_folder("another")
    lost.mkdir()
    (lost / "open-run").write_text("20260101-000000-gone-00000")
    with Path(os.devnull).open("wb") as nothing:
        reading, writing = os.pipe()
        os.close(reading)
        environment = {**os.environ, "K2RUN_HOME": str(sleepers.store.home)}
        command = [str(Path(sys.executable).parent / "k2run"), "undo"]
        done = subprocess.run(
            command, cwd=sleepers.folder, env=environment, stdout=writing, stderr=nothing, timeout=60, check=False
        )
        os.close(writing)
    assert done.returncode == 1  # the other stack
    assert all_running(sleepers)


def test_a_run_that_stands_still_holds_the_stack_and_abort_ends_it(sleepers: Bench) -> None:
    path = sleepers.write(scenario("sleep 60"))
    process = sleepers.command("run", str(path), "--stack", str(sleepers.stack_file), "--plain")
    wait_until_broken(sleepers, process)
    code, out = sleepers.output("undo")
    assert code == 4
    assert f"(pid {process.pid}) holds the stack 'sleepers'" in out
    assert "k2run abort" in out
    process.send_signal(signal.SIGSTOP)
    psutil.Process(process.pid).status()
    code, out = sleepers.output("undo")
    assert code == 4
    assert f"is stopped (SIGSTOP): `kill -CONT {process.pid}` lets it continue" in out
    code, out = sleepers.output("status", "--stack", str(sleepers.stack_file))
    assert "(SIGSTOP)" in out
    code, out = sleepers.output("abort")
    assert code == 0, out
    try:
        assert process.wait(10) == 3
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert all_running(sleepers)

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

SLOW = """\
runbook: 1
kind: scenario
name: slow
sections:
  - name: Break
    steps:
      - service.pause: {service: worker}
      - wait: {for: 60s}
"""


def test_abort_ends_the_run_that_holds_the_stack_and_shows_what_it_undoes(site):
    (site.folder / "slow.yaml").write_text(SLOW)
    command = [str(Path(sys.executable).parent / "k2run"), "run", "slow.yaml", "--stack", "stack.yaml", "--plain"]
    environment = {**os.environ, "K2RUN_HOME": str(site.store.home)}
    process = subprocess.Popen(command, cwd=site.folder, env=environment, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 20
    while "fault_struck" not in _journal(site) and time.monotonic() < ends:
        time.sleep(0.1)
    code, said = site.command("abort")
    assert code == 0, said
    assert "undone" in said
    assert "resume worker" in said
    assert process.wait(10) == 3


def test_abort_says_when_nothing_runs(site):
    code, said = site.command("abort")
    assert code == 2
    assert "no run is in progress" in said


def _journal(site) -> str:
    return "".join(path.read_text() for path in site.store.home.glob("runs/*/journal.jsonl"))

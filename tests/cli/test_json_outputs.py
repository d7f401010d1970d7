"""What commands print as JSON fits the published schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
JOURNALS = sorted((ROOT / "tests" / "evidence" / "journals").glob("*.jsonl"))
STACK = """\
stack: 1
name: two
services:
  one: {run: process, command: [sleep, "600"]}
  two: {run: process, command: [no-such-program]}
"""
RUNBOOK = """\
runbook: 1
kind: scenario
name: it
title: It
stack: two
objective: {rto: 10s}
steady_state:
  - {name: One runs, service.status: {service: one}, expect: result.running}
sections:
  - name: Break
    steps:
      - {name: Hold one, service.pause: {service: one}}
      - {name: A failure is no end, shell.run: {command: "false"}, ignore_failure: true}
"""
RECOVERY = """\
runbook: 1
kind: recovery
name: held
title: One is held
stack: two
symptoms:
  - {name: It does not run, service.status: {service: one}, expect: not result.running}
sections:
  - {name: Start it, steps: [{name: Start one, service.start: {service: one}}]}
"""


@cache
def validator(name: str) -> Draft202012Validator:
    schema = json.loads((ROOT / "schemas" / f"output-{name}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def violations(name: str, value: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(value)]


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: path.stem)
def test_every_line_of_real_journals_fits_the_schema_of_events(journal: Path) -> None:
    for line in journal.read_text(encoding="utf-8").splitlines():
        assert violations("events", json.loads(line)) == []


@pytest.mark.parametrize("event", ['{"event": "no_such_event"}', '{"event": "step_finished", "step": 5}'])
def test_what_is_no_event_does_not_fit(event: str) -> None:
    assert violations("events", json.loads(event)) != []


def test_what_commands_print_fits_their_schemas(tmp_path: Path) -> None:
    (tmp_path / "runbooks" / "stacks").mkdir(parents=True)
    (tmp_path / "runbooks" / "recovery").mkdir()
    (tmp_path / "runbooks" / "stacks" / "two.yaml").write_text(STACK)
    (tmp_path / "runbooks" / "it.yaml").write_text(RUNBOOK)
    (tmp_path / "runbooks" / "recovery" / "held.yaml").write_text(RECOVERY)
    (tmp_path / "runbooks" / "broken.yaml").write_text("runbook: 1\n")

    def said(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "k2run", *words, "--json"],
            cwd=tmp_path,
            env={**os.environ, "K2RUN_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.stdout, done.stderr
        return done.stdout

    for line in said("run", "it").splitlines():
        assert violations("events", json.loads(line)) == []
    for name in ("status", "diagnose", "history", "list"):
        assert violations(name, json.loads(said(name))) == [], name
    assert {row["kind"] for row in json.loads(said("list"))} >= {"scenario", "recovery", "invalid"}

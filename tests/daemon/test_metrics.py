from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from k2run.daemon.own_metrics import Exposition, metrics_routes
from k2run.engine.events import Outcome, RunFinished, RunStarted
from k2run.engine.store import Store

ROOT = Path(__file__).parent.parent.parent
JOURNALS = ROOT / "tests" / "evidence" / "journals"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A home with a run that went well, one that was interrupted with an undo pending, and a schedule."""
    store = Store(tmp_path)
    for number, name in enumerate(("demo-day", "consumer-killed")):
        folder = store.home / "runs" / f"20261121-10000{number}-{name}-abcd"
        folder.mkdir(parents=True)
        shutil.copy(JOURNALS / f"{name}.jsonl", folder / "journal.jsonl")
        stack = json.loads((folder / "journal.jsonl").read_text().splitlines()[0])["stack"]
    store.stack_folder(stack).mkdir(parents=True)
    store.mark_open(stack, folder.name)
    return store


def samples(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_runs_verdicts_durations_and_margins_are_measured(store: Store) -> None:
    found = samples(Exposition(store).text().decode())
    names = {key.split("[")[0] for key in found}
    assert {"k2run_runs_total", "k2run_run_duration_seconds_sum", "k2run_last_passed"} <= names
    assert {"k2run_last_objective_margin_seconds", "k2run_last_score", "k2run_undo_pending"} <= names
    [pending] = [value for key, value in found.items() if key.startswith("k2run_undo_pending")]
    assert pending >= 1


def test_a_second_look_says_the_same(store: Store) -> None:
    exposition = Exposition(store)
    assert exposition.text() == exposition.text()


def test_an_empty_home_has_metrics_too(tmp_path: Path) -> None:
    assert "k2run_runs_going 0.0" in Exposition(Store(tmp_path / "none")).text().decode()


def test_the_address_wants_the_token_where_there_is_one(store: Store) -> None:
    with TestClient(Starlette(routes=metrics_routes(store, "a token"))) as client:
        assert client.get("/metrics").status_code == 401
        answer = client.get("/metrics", headers={"authorization": "Bearer a token"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")


def test_prometheus_finds_nothing_wrong_with_the_metrics_and_the_rules(store: Store) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=Exposition(store).text(), capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    rules = [promtool, "check", "rules", str(ROOT / "deploy" / "prometheus" / "k2run-rules.yaml")]
    subprocess.run(rules, check=True, capture_output=True)
    tests = [promtool, "test", "rules", str(ROOT / "deploy" / "prometheus" / "k2run-rules.test.yaml")]
    subprocess.run(tests, check=True, capture_output=True)


def test_dashboard_and_rules_ask_only_for_metrics_that_exist(store: Store) -> None:
    (store.home / "schedule").mkdir()
    text = Exposition(store).text().decode()
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    known |= {f"{name}{end}" for name in known for end in ("_sum", "_count")}
    board: Any = json.loads((ROOT / "deploy" / "grafana" / "k2run.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked.append((ROOT / "deploy" / "prometheus" / "k2run-rules.yaml").read_text())
    used = {name for text in asked for name in re.findall(r"\bk2run_[a-z_]+", text)}
    assert used
    assert used <= known


def ran(store: Store, name: str, second: int, kind: str = "scenario", **over: Any) -> None:
    """A run that has ended, as its journal tells it."""
    at = f"2026-11-21T10:00:{second:02}.000+00:00"
    folder = store.home / "runs" / f"20261121-1000{second:02}-{name}-0000"
    folder.mkdir(parents=True)
    begun = RunStarted(run=folder.name, runbook=name, name=name, title=name, kind=kind, digest="", stack="s", at=at)
    ended = {"outcome": Outcome.PASSED, "verdict": "passed", "exit_code": 0, "seconds": 1.0, **over}
    lines = [msgspec.json.encode(event) for event in (begun, RunFinished(at=at, **ended))]
    (folder / "journal.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def unrecovered(store: Store) -> dict[str, float]:
    found = samples(Exposition(store).text().decode())
    return {
        key.split("'runbook', '")[1].split("'")[0]: value
        for key, value in found.items()
        if key.startswith("k2run_failure_unrecovered")
    }


FAILED = {"outcome": Outcome.FAILED, "verdict": "failed: x", "exit_code": 1}


def test_a_failure_ends_when_any_run_has_proven_the_stack_well(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ran(store, "breaks", 1, **FAILED)
    assert unrecovered(store) == {"breaks": 1.0}
    ran(store, "load", 2, "benchmark")
    ran(store, "part", 3, "readiness", partial=True)
    assert unrecovered(store)["breaks"] == 1.0, "neither a load nor a part of a runbook has proven it"
    ran(store, "recovers", 4, "recovery")
    assert unrecovered(store)["breaks"] == 0.0
    ran(store, "breaks", 5, **FAILED)
    assert unrecovered(store)["breaks"] == 1.0


def test_a_failure_ends_with_a_healthy_diagnosis_and_a_no_go_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.stack_folder("s").mkdir(parents=True)
    ran(store, "demo-day", 1, "readiness", **FAILED | {"verdict": "no-go: the table is old"})
    ran(store, "stopped", 2, **FAILED | {"outcome": Outcome.INTERRUPTED, "exit_code": 3})
    ran(store, "breaks", 3, **FAILED)
    assert unrecovered(store) == {"demo-day": 0.0, "stopped": 0.0, "breaks": 1.0}
    store.note_well("s")
    assert unrecovered(store)["breaks"] == 0.0

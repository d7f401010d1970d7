"""The scenarios that ship are valid; the quickest of them runs green on the embedded stack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.language.loader import load_runbook

SCENARIOS = Path(__file__).parents[2] / "runbooks" / "scenarios"


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_scenario_is_valid_and_proves_its_recovery(path: Path) -> None:
    loaded = load_runbook(path, Catalogue())
    assert loaded.name == path.stem
    assert loaded.steady_state
    assert loaded.objective.within


@pytest.mark.slow
@pytest.mark.parametrize("name", ["consumer-killed"])
def test_a_scenario_runs_green_on_the_embedded_stack(name: str, tmp_path: Path, moved_ports: dict[str, str]) -> None:
    command = [str(Path(sys.executable).parent / "k2run"), "run", str(SCENARIOS / f"{name}.yaml"), "--stack", "sandbox"]
    done = subprocess.run(
        [*command, "--plain"],
        cwd=tmp_path,
        env={**os.environ, **moved_ports, "K2RUN_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

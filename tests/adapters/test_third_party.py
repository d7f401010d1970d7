"""An adapter in a third-party package is found by its entry point: documented, validated, run and undone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "third_party"
RUNBOOK = """\
runbook: 1
kind: scenario
name: flood
title: The gauge tells too much
sections:
  - name: Only
    steps:
      - name: High water is told
        tides.flood: {by_cm: 100}
        expect: result.level_cm == 412
      - name: And read
        tides.level: {}
        expect: result.level_cm == 412
"""


class Site:
    """A folder with a stack, and a k2run that sees the package as an installed one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.gauge = folder, folder / "gauge"
        self.gauge.write_text("312")
        (folder / "stack.yaml").write_text(f"stack: 1\nname: harbour\nconnections: {{gauge: {{file: {self.gauge}}}}}\n")
        install(folder / "site-packages")

    def k2run(self, *words: str) -> tuple[int, str]:
        """Runs a command; gives its exit code and all that it said."""
        path = os.pathsep.join(filter(None, [str(self.folder / "site-packages"), os.environ.get("PYTHONPATH", "")]))
        done = subprocess.run(
            [str(Path(sys.executable).parent / "k2run"), *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "K2RUN_HOME": str(self.folder / ".k2run")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout


def install(where: Path) -> None:
    """Put the package and what an installer writes about it into a folder: no network, no build."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    shutil.copytree(PACKAGE / "k2run_tides", where / "k2run_tides", ignore=shutil.ignore_patterns("__pycache__"))
    record = where / f"{name.replace('-', '_')}-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.3\nName: {name}\nVersion: {version}\n")
    points = "".join(
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in found.items())
        for group, found in project["entry-points"].items()
    )
    (record / "entry_points.txt").write_text(points)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_actions_of_a_third_partys_package_are_documented(site: Site) -> None:
    code, said = site.k2run("doc", "tides.flood")
    assert code == 0, said
    assert "Make the gauge tell too high a level" in said
    assert "by_cm" in said
    code, said = site.k2run("doc")
    assert "tides.level" in said


def test_a_runbook_with_them_is_validated_down_to_the_argument(site: Site) -> None:
    (site.folder / "flood.yaml").write_text(RUNBOOK)
    assert site.k2run("validate", "flood.yaml")[0] == 0
    (site.folder / "wrong.yaml").write_text(
        RUNBOOK.replace("by_cm: 100", "by_mm: 1000").replace("tides.level", "tides.levle")
    )
    code, said = site.k2run("validate", "wrong.yaml")
    assert code == 2
    assert "wrong.yaml:9" in said
    assert "by_cm" in said
    assert "tides.level" in said


def test_a_run_uses_them_and_undoes_their_fault(site: Site) -> None:
    (site.folder / "flood.yaml").write_text(RUNBOOK)
    code, said = site.k2run("run", "flood.yaml", "--stack", "stack.yaml", "--plain")
    assert code == 0, said
    assert "412 cm" in said
    assert site.gauge.read_text() == "312.0"


def test_a_call_that_was_left_behind_does_not_change_the_exit_code(site: Site) -> None:
    wait = "      - {name: Wait, tides.wait: {}, timeout: 200ms, severity: warning}\n"
    read = "      - {name: Read, tides.level: {}}\n"
    (site.folder / "wait.yaml").write_text(RUNBOOK[: RUNBOOK.index("      - name: High")] + wait + read)
    code, said = site.k2run("run", "wait.yaml", "--stack", "stack.yaml", "--plain")
    assert code == 0, said
    assert said.rstrip().splitlines()[-1].startswith("report"), "all that was said has come"
    (site.folder / "wait.yaml").write_text((site.folder / "wait.yaml").read_text().replace(", severity: warning", ""))
    assert site.k2run("run", "wait.yaml", "--stack", "stack.yaml", "--plain")[0] == 1


def test_a_package_that_cannot_be_loaded_is_told_and_what_to_do_about_it(site: Site) -> None:
    shutil.rmtree(site.folder / "site-packages" / "k2run_tides")
    code, said = site.k2run("doc")
    assert code == 5, said
    assert "cannot be loaded: No module named 'k2run_tides'" in said
    assert "again, or remove it" in said
    assert "Traceback" not in said

"""Problems as SARIF: every one with its rule, level and region."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from k2run.faces.authoring.lint import lint_files
from k2run.faces.checking import check_files

if TYPE_CHECKING:
    from pathlib import Path

WRONG = "runbook: 1\nkind: readiness\nsections:\n  - steps:\n      - wait: {for: 5}\n      - kafka.lagg: {topic: t}\n"


def test_validate_writes_each_problem_with_its_rule_and_region(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.yaml").write_text(WRONG)
    problems = check_files(["a b.yaml"], form="sarif")
    log = json.loads(capsys.readouterr().out)
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    assert len(run["results"]) == len(problems) == 2
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] == "error"
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b.yaml"
    region = next(r for r in run["results"] if r["ruleId"] == "K301")["locations"][0]["physicalLocation"]["region"]
    assert (region["startLine"], region["startColumn"], region["endColumn"]) == (6, 9, 19)
    assert all(rule["shortDescription"]["text"] and rule["help"]["text"] for rule in run["tool"]["driver"]["rules"])


def test_danger_is_a_warning_and_style_a_note(tmp_path: Path, capsys) -> None:
    file = tmp_path / "runbook.yaml"
    file.write_text("runbook: 1\nkind: scenario\nsections: [{name: A, steps: [{wait: {for: 1s}}]}]\n")
    lint_files([str(file)], form="sarif")
    results = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    assert {result["ruleId"]: result["level"] for result in results} == {
        "L104": "warning",
        "L110": "warning",
        "L206": "note",
    }

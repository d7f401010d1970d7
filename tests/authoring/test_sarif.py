"""Problems as SARIF: every one with its rule, level and region."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from k2run.authoring.lint import lint_files
from k2run.authoring.validate import check_files

if TYPE_CHECKING:
    from pathlib import Path

_TEXT = {"type": "string", "minLength": 1}
_LEVEL = {"enum": ["none", "note", "warning", "error"]}
_AT = {"type": "integer", "minimum": 1}


def closed(**properties: Any) -> dict[str, Any]:
    """A mapping that must have these keys and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


MESSAGE = closed(text=_TEXT)
RULE = closed(id=_TEXT, defaultConfiguration=closed(level=_LEVEL), shortDescription=MESSAGE, help=MESSAGE)
PLACE = closed(
    artifactLocation=closed(uri={"type": "string", "pattern": r"^[\w./%~:-]+$"}),
    region=closed(startLine=_AT, startColumn=_AT, endColumn=_AT),
)
RESULT = closed(
    ruleId=_TEXT,
    ruleIndex={"type": "integer", "minimum": 0},
    level=_LEVEL,
    message=MESSAGE,
    locations={"type": "array", "minItems": 1, "items": closed(physicalLocation=PLACE)},
)
LOG = closed(
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"const": "2.1.0"},
    runs={
        "type": "array",
        "items": closed(
            tool=closed(driver=closed(name=_TEXT, version=_TEXT, rules={"type": "array", "items": RULE})),
            columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
            results={"type": "array", "items": RESULT},
        ),
    },
)
"""What k2run uses of SARIF 2.1.0, under the names, types and bounds that its specification gives (OASIS, section 3)."""
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


@pytest.mark.parametrize("check", [check_files, lint_files])
@pytest.mark.parametrize(
    "text",
    [
        WRONG,
        "",
        "runbook: 1\nkind: [\n",
        "\x00",
        "runbook: 1\nkind: scenario\nsections: [{name: Ünïcödé ⏱, steps: [{wait: {for: 5}}]}]\n",
        "runbook: 1\nkind: scenario\nsections: [{name: A, steps: [{wait: {for: 1s}}]}]\n",
        "runbook: 1\ntitle: A\nkind: readiness\nowner: me\nsections: [{name: A, steps: [{name: W, set: {a: 1}}]}]\n",
    ],
    ids=["structure", "empty", "yaml", "zero", "beyond ASCII", "style", "clean"],
)
def test_every_log_is_sarif_as_specified(check: Any, text: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.yaml").write_text(text)
    check(["a b.yaml"], form="sarif")
    log = json.loads(capsys.readouterr().out)
    assert [(list(error.absolute_path), error.message) for error in Draft202012Validator(LOG).iter_errors(log)] == []
    for run in log["runs"]:
        rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        assert len(rules) == len(set(rules))
        for result in run["results"]:
            assert rules[result["ruleIndex"]] == result["ruleId"]
            region = result["locations"][0]["physicalLocation"]["region"]
            assert region["endColumn"] >= region["startColumn"]

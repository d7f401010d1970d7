"""Lint finds what is dangerous or hard to read, at its place, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2run.authoring.action_manual import LINT_CODES
from k2run.authoring.lint import findings, lint_files
from k2run.language.problems import Explanation, read_explanations

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.authoring.lint import Subject

RUNBOOKS = Path(__file__).parents[2] / "runbooks"
SOURCES = Path(LINT_CODES).parent
EXPLAINED = read_explanations(LINT_CODES)
PAUSE = "- name: The consumer is held\n  service.pause: {service: consumer}\n"

BUDGET = "objective: {within: 1m}\nsections:\n  - steps:\n      - {service.ready: {service: api}, timeout: 2m}\n"
PLACED = [
    ("L101", PAUSE, 9, "service.pause"),
    ("L102", "- name: A\n  service.ready: {service: api}\n  until: result.ready\n", 10, "until"),
    ("L105", BUDGET, 8, "2m"),
    ("L107", "- name: A\n  http.get: {service: api, headers: {Authorization: Bearer abc}}\n", 9, "Bearer abc"),
    ("L109", "- name: A\n  shell.run: {command: [systemctl, stop, kafka]}\n", 9, "[systemctl, stop, kafka]"),
    ("L109", "- name: A\n  shell.probe: {command: kill 1}\n", 9, "kill 1"),
    ("L201", "vars: {a: 1, b: '{{ a }}'}\n", 5, "b"),
    ("L203", "- http.get: {service: api, path: /}\n", 8, "http.get"),
]

SILENT = [
    (
        "L101",
        "steady_state: [{service.ready: {service: api}}]\nsections: [{steps: [{service.pause: {service: api}}]}]\n",
    ),
    ("L102", "- name: A\n  service.ready: {service: api}\n  until: result.ready\n  retries: 3\n"),
    ("L106", "sections: [{name: A, within: 10s, parallel: true, steps: [{wait: {for: 6s}}, {wait: {for: 6s}}]}]\n"),
    ("L107", '- name: A\n  http.get: {service: api, headers: {Authorization: "Bearer {{ run.id }}"}}\n'),
    ("L109", "always: [{name: A, shell.run: {command: docker rm -f leftover}}]\n"),
    ("L201", "inputs: {a: {help: h}}\nsections: [{name: '{{ a }}', when: a == 'x', steps: [{wait: {for: 1s}}]}]\n"),
    ("L204", '- {name: "{{ run.id }}", wait: {for: 1s}}\n- {name: "{{ run.id }}", wait: {for: 1s}}\n'),
    ("L111", PAUSE + "- name: B\n  service.ready: {service: api}\n  until: result.ready\n  within: 5s\n"),
]


def codes(subject: Subject) -> list[str]:
    return [finding.code for finding in findings(subject)]


def test_every_rule_is_explained_and_no_other() -> None:
    used = {code for file in SOURCES.glob("*.py") for code in re.findall(r'"(L\d{3})"', file.read_text())}
    assert set(EXPLAINED) == used


@pytest.mark.parametrize("entry", [entry for entry in EXPLAINED.values() if entry.wrong], ids=lambda entry: entry.code)
def test_a_wrong_example_is_found(entry: Explanation, subject: Callable[[str], Subject]) -> None:
    assert entry.code in codes(subject(entry.wrong))


@pytest.mark.parametrize("entry", [entry for entry in EXPLAINED.values() if entry.right], ids=lambda entry: entry.code)
def test_a_right_example_is_not_found(entry: Explanation, subject: Callable[[str], Subject]) -> None:
    assert entry.code not in codes(subject(entry.right))


@pytest.mark.parametrize(("code", "piece", "line", "token"), PLACED, ids=[row[0] for row in PLACED])
def test_a_finding_stands_at_its_place(
    code: str, piece: str, line: int, token: str, subject: Callable[[str], Subject]
) -> None:
    found = next(finding for finding in findings(subject(piece)) if finding.code == code)
    start = found.place.column - 1
    assert (found.place.line, found.line[start : start + found.length]) == (line, token)
    assert found.hint


@pytest.mark.parametrize(("code", "piece"), SILENT, ids=[row[0] for row in SILENT])
def test_a_rule_is_silent_where_there_is_a_reason(code: str, piece: str, subject: Callable[[str], Subject]) -> None:
    assert code not in codes(subject(piece))


def test_a_comment_allows_a_finding_on_its_line_or_the_next(subject: Callable[[str], Subject]) -> None:
    above = PAUSE.replace("  service", "  # lint: allow L101, L111 - on purpose\n  service")
    beside = PAUSE.replace("consumer}", "consumer}  # lint: allow L101")
    assert codes(subject(above)) == []
    assert codes(subject(beside)) == ["L111"]


def test_a_runbook_without_title_and_owner_is_found(catalogue, tmp_path: Path, capsys) -> None:
    file = tmp_path / "bare.yaml"
    file.write_text("runbook: 1\nkind: readiness\nsections: [{name: A, steps: [{wait: {for: 1s}}]}]\n")
    found = lint_files([str(file)], form="json")
    assert [finding.code for finding in found] == ["L206"]
    assert json.loads(capsys.readouterr().out)[0]["place"]["line"] == 1


def test_of_a_runbook_that_is_not_valid_the_problems_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("runbook: 1\nkind: readiness\n")
    (tmp_path / "b.yaml").write_text("runbook: 1\nkind: readiness\nsections: [{name: A, steps: [{wait: {for: 1s}}]}]\n")
    assert [finding.code for finding in lint_files([str(tmp_path)], form="text")] == ["K203", "L206"]


def test_the_runbooks_that_ship_are_clean(capsys) -> None:
    assert lint_files([str(RUNBOOKS)], form="text") == []

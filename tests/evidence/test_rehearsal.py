"""A rehearsal's report against the rehearsal before it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import Bound
from k2run.engine.journal import read_journal
from k2run.engine.store import Store
from k2run.evidence.compare import last_rehearsal
from k2run.evidence.reports import write_reports
from k2run.evidence.view import view_of

if TYPE_CHECKING:
    from pathlib import Path

REHEARSAL = """\
runbook: 1
kind: {kind}
name: {name}
title: A rehearsal
stack: ./none.yaml
sections:
  - name: Talk | of it
    within: 10s
    steps: [{{wait: {{for: {seconds}}}}}]
  - name: {extra}
    steps:
      - manual.input: {{question: What must change?, default: no operator}}
        timeout: 20s
"""


NOTE = """\
runbook: 1
kind: rehearsal
name: noted
title: A note
stack: ./none.yaml
objective: {within: 10s}
sections:
  - name: Talk
    within: 10s
    steps:
      - name: Say it
        loop: [one, two]
        manual.note: {text: "{{ item }}"}
        register: said
      - {name: Checked, assert: {that: "said == [none, none]"}}
"""


def rehearse(folder: Path, seconds: str, extra: str = "Questions", kind: str = "rehearsal", name: str = "talk") -> None:
    (folder / "none.yaml").write_text("stack: 1\nname: none\n")
    (folder / "talk.yaml").write_text(REHEARSAL.format(seconds=seconds, extra=extra, kind=kind, name=name))
    environment = {**os.environ, "K2RUN_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "k2run", "run", "talk.yaml", "--json", "--unattended"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three rehearsals, with another runbook between."""
    folder = tmp_path_factory.mktemp("rehearsals")
    rehearse(folder, "10ms")
    rehearse(folder, "400ms")
    rehearse(folder, "10ms", kind="readiness", name="talk-other")
    rehearse(folder, "20ms", extra="More questions")
    return Store(folder / "home").runs()


def test_a_note_that_no_operator_read_is_not_confirmed(tmp_path: Path) -> None:
    (tmp_path / "none.yaml").write_text("stack: 1\nname: none\n")
    (tmp_path / "noted.yaml").write_text(NOTE)
    environment = {**os.environ, "K2RUN_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "k2run", "run", "noted.yaml", "--json", "--unattended"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    view = view_of(read_journal(Store(tmp_path / "home").find_run("last")))
    assert [step.standing.value for step in view.leaves()] == ["unconfirmed", "unconfirmed", "passed"]
    assert view.finished is not None
    assert view.finished.verdict == "passed, subject to 2 items for a person"
    [talk] = [section.finished for section in view.sections.values()]
    assert talk is not None
    assert talk.objective is Bound.NOT_MEASURED  # no operator has talked for ten seconds
    [whole] = view.objectives
    assert (whole.objective, whole.bound) == ("whole run within 10s", Bound.NOT_MEASURED)
    assert "no person has played all of it" in (Store(tmp_path / "home").find_run("last") / "report.html").read_text()
    [skipped] = re.findall(r'name="whole run[^>]*>(<\w+)', (junit(tmp_path) / "junit.xml").read_text())
    assert skipped == "<skipped"


def junit(folder: Path) -> Path:
    """The folder of the last run, with a JUnit file."""
    run = Store(folder / "home").find_run("last")
    write_reports(run, junit=True)
    return run


def attended(folder: Path, name: str, *, yes: bool) -> Path:
    """A copy of a run under another name, as if an operator had been there, or not."""
    lines = (folder / "journal.jsonl").read_text().replace(folder.name, name).splitlines()
    begun = json.loads(lines[0]) | {"attended": yes}
    copy = folder.parent / name
    copy.mkdir()
    (copy / "journal.jsonl").write_text("\n".join([json.dumps(begun, separators=(",", ":")), *lines[1:]]) + "\n")
    return copy


def test_a_rehearsal_is_set_against_the_last_that_was_attended_alike(tmp_path: Path) -> None:
    rehearse(tmp_path, "10ms")
    [first] = Store(tmp_path / "home").runs()
    names = [f"2999010{number}-000000-talk-00000" for number in range(1, 4)]
    with_operator, alone, newest = (
        attended(first, name, yes=yes) for name, yes in zip(names, (True, False, True), strict=True)
    )
    for run, expected in ((newest, with_operator), (alone, first), (with_operator, first)):
        last = last_rehearsal(run, view_of(read_journal(run)))
        assert last is not None
        assert last.started is not None
        assert last.started.run == expected.name


def test_the_report_of_a_rehearsal_sets_it_against_the_one_before(runs):
    markdown, page = ((runs[3] / name).read_text() for name in ("report.md", "report.html"))
    assert "## Compared with the last rehearsal" in markdown
    assert runs[1].name in markdown, "the last one, not the first one and not another runbook"
    talk = next(line for line in markdown.splitlines() if line.startswith("| Talk") and "%" in line)
    assert re.search(r"\| \S+ ≤ 10s \| \S+ ≤ 10s \| -\d+ %", talk)
    assert 'id="last-time"' in page
    assert "More questions" in page
    assert "absent" in page, "a section that only one of them had"


def test_the_first_rehearsal_and_other_runs_have_nothing_to_be_set_against(runs):
    for folder in (runs[0], runs[2]):
        assert last_rehearsal(folder, view_of(read_journal(folder))) is None
        assert "Against the last" not in (folder / "report.html").read_text()


def test_a_last_rehearsal_that_cannot_be_read_is_passed_over(runs):
    journal = runs[1] / "journal.jsonl"
    kept = journal.read_bytes()
    journal.write_bytes(b"not a journal\n" * 3)
    try:
        write_reports(runs[3])
        assert runs[0].name in (runs[3] / "report.md").read_text()
    finally:
        journal.write_bytes(kept)
        write_reports(runs[3])

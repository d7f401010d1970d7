"""The dress rehearsal as a presenter plays it: the real platform, a real terminal, and what the browser is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from moved_ports import moved_ports, variables
from terminal_session import Session

from k2run.actions.catalogue import Catalogue
from k2run.engine.events import Bound, Objected, RunStarted, SectionFinished, StepFinished
from k2run.engine.journal import read_journal
from k2run.evidence.view import view_of
from k2run.language.loader import load_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.language.model import Section

SHIPPED = Path(__file__).parents[2] / "runbooks"
REHEARSAL = load_runbook(SHIPPED / "rehearsal.yaml", Catalogue())
PACE = float(os.environ.get("K2RUN_REHEARSAL_PACE", "0.01"))
"""Share of its time for which each point is talked about; with 0.95 the whole demo is played in real time."""
MATERIALS = """\
runbook: 1
kind: readiness
name: materials
sections:
  - name: Materials
    steps:
      - notebook.execute:
          path: "{{ stack.connections.jupyter.notebook }}"
          save: a/market-data-demo-with-outputs.ipynb
        timeout: 2m
      - notebook.pages: {path: a/market-data-demo-with-outputs.ipynb, file: a/demo-slides.html}
"""
BROWSER = """\
#!/bin/sh
echo "$1" >> "$OPENED"
"""


@pytest.fixture
def presenter(tmp_path: Path) -> Iterator[Session]:
    """A terminal beside a platform that is up, in a folder with the executed notebook."""
    desktop = {"DISPLAY": ":0", "BROWSER": f"{tmp_path}/browser %s", "OPENED": str(tmp_path / "opened")}
    session = Session(tmp_path, {**variables(moved_ports()), **desktop})
    (tmp_path / "browser").write_text(BROWSER)
    (tmp_path / "browser").chmod(0o755)
    (tmp_path / "materials.yaml").write_text(MATERIALS)
    try:
        k2run(session, "up")
        k2run(session, "run", "materials.yaml", "--stack", "sandbox", "--plain")
        yield session
    finally:
        session.close()
        k2run(session, "down")


def k2run(session: Session, *words: str) -> None:
    command = [sys.executable, "-m", "k2run", *words]
    done = subprocess.run(
        command, cwd=session.folder, env=session.environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def points(section: Section) -> list[str]:
    return [point for step in section.steps if step.action == "manual.note" for point in step.loop or ()]


@pytest.mark.slow
def test_a_presenter_plays_the_whole_rehearsal_and_every_part_of_it_is_timed(presenter: Session) -> None:
    presenter.start("rehearse", "--into", "a", "--stack", "sandbox")
    presenter.sees("presenter's view  http://127.0.0.1:")
    for section in REHEARSAL.sections[:7]:
        assert section.within is not None
        said = points(section)
        for point in said:
            presenter.sees(point[:30], within=120)
            presenter.sees("> ")
            time.sleep(PACE * section.within / len(said))
            presenter.types("")
    for step in REHEARSAL.sections[7].steps:
        for question in step.loop or ():
            presenter.sees(str(question)[:30])
            presenter.sees("> ")
            presenter.types("yes")
    presenter.sees("demo-slides.html", within=60)
    presenter.sees("> ")
    presenter.types("yes")
    presenter.sees("What must change before the demo?", within=120)
    presenter.sees("> ")
    presenter.types("speak slower")
    assert presenter.ends(120) == 0, presenter.screen

    opened = (presenter.folder / "opened").read_text().splitlines()
    assert opened[0].endswith("/presenter")
    assert opened[1] == (presenter.folder / "a" / "demo-slides.html").as_uri()
    [began] = presenter.events(RunStarted)
    assert began.attended
    assert {step.outcome.value for step in presenter.events(StepFinished)} == {"passed"}
    ended = {section.name: section for section in presenter.events(SectionFinished)}
    for section in REHEARSAL.sections:
        if section.within is not None:
            assert ended[section.name].objective is Bound.MET, section.name
    for section in REHEARSAL.sections[:7]:
        assert section.within is not None
        assert ended[section.name].seconds >= PACE * section.within
    assert ended["Switch to the backup"].seconds < 30
    [judged] = presenter.events(Objected)
    assert (judged.objective, judged.bound) == ("whole run within 20m", Bound.MET)
    view = view_of(read_journal(presenter.home.find_run("last")))
    assert [clock.clock for clock in view.clocks if not clock.message] == ["rto"]

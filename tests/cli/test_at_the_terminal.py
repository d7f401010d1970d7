"""What a person at a terminal is asked, and what becomes of the answer: the real command, on a real terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from terminal_session import LIMIT_S, Session

from k2run.actions.catalogue import Catalogue
from k2run.app.answers import given_again
from k2run.engine.events import Answered, Asked, Noted, RunFinished, StepFinished
from k2run.errors import UsageError
from k2run.files import account_name
from k2run.language.loader import load_runbook, parse_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator


HEAD = "runbook: 1\nkind: readiness\nname: it\ntitle: It\n"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    session.close()


SHIPPED = Path(__file__).parents[2] / "runbooks" / "rehearsal.yaml"


def talk() -> tuple[str, list[str]]:
    """The shipped rehearsal, with nothing but what a presenter says and what judges it; and all its points."""
    whole = yaml.safe_load(SHIPPED.read_text())
    own = {"manual.note", "set", "assert"}
    sections = [
        {"name": each["name"], "steps": [step for step in each["steps"] if own & step.keys()]}
        for each in whole["sections"][:7]
    ]
    head = {"runbook": 1, "kind": "rehearsal", "name": "it", "title": "It", "sections": sections}
    points = [point for each in sections for step in each["steps"] for point in step.get("loop", ())]
    return yaml.safe_dump(head, sort_keys=False), points


def test_a_demo_that_was_presented_point_by_point_is_judged_by_its_length(session: Session) -> None:
    text, points = talk()
    session.write(text)
    session.start("run", "it.yaml", "--stack", "stack.yaml")
    for _ in points:
        session.sees("> ")
        session.types("")
    assert session.ends() == 0
    *_, judged = session.events(StepFinished)
    assert (judged.name, judged.outcome) == ("The seven sections take less than 12 minutes", "passed")
    assert set(judged.figures) == {"demo_s"}


def test_a_demo_of_which_one_point_was_not_presented_has_no_length(session: Session) -> None:
    text, points = talk()
    session.write(text)
    session.start("run", "it.yaml", "--stack", "stack.yaml", "--unattended")
    assert session.ends() == 7, "nothing at all was judged"
    *_, judged = session.events(StepFinished)
    assert (judged.name, judged.outcome, judged.figures) == (
        "The seven sections take less than 12 minutes",
        "skipped",
        {},
    )
    assert len(points) > 20


def test_each_section_has_talking_points_for_its_minutes() -> None:
    for section in load_runbook(SHIPPED, Catalogue()).sections[:7]:
        points = [point for step in section.steps if step.action == "manual.note" for point in step.loop or ()]
        assert section.within is not None
        assert len(points) >= section.within / 30, f"{section.name}: a point lasts half a minute"


STEPS = """\
sections:
  - name: S
    steps:
      - {name: One, assert: {that: 1 == 1}}
      - {name: Two, assert: {that: 2 == 2}}
      - {name: Three, assert: {that: 3 == 3}}
"""


def test_step_asks_before_each_step_and_does_what_was_decided(session: Session) -> None:
    session.write(HEAD + STEPS)
    session.start("run", "it.yaml", "--stack", "stack.yaml", "--step")
    session.sees("step 1: One")
    session.sees("> ")
    session.types("n looks right")
    session.sees("noted")
    session.types("")
    session.sees("step 2: Two")
    session.sees("> ")
    session.types("s")
    session.sees("step 3: Three")
    session.sees("> ")
    session.types("")
    assert session.ends() == 0
    steps = [(event.name, event.outcome.value, event.message) for event in session.events(StepFinished)]
    assert steps == [
        ("One", "passed", steps[0][2]),
        ("Two", "skipped", f"skipped by {account_name()}"),
        ("Three", "passed", steps[2][2]),
    ]
    assert [event.message for event in session.events(Noted)] == [f"{account_name()}: looks right"]


def test_step_can_end_the_run_before_a_step_is_done(session: Session) -> None:
    session.write(HEAD + STEPS)
    session.start("run", "it.yaml", "--stack", "stack.yaml", "--step")
    session.sees("step 1: One")
    session.sees("> ")
    session.types("a")
    assert session.ends() == 3
    assert not session.events(StepFinished)


def test_step_without_a_terminal_is_refused(session: Session) -> None:
    session.write(HEAD + STEPS)
    done = subprocess.run(
        [str(Path(sys.executable).parent / "k2run"), "run", "it.yaml", "--stack", "stack.yaml", "--step"],
        cwd=session.folder,
        env={**os.environ, "K2RUN_HOME": str(session.folder / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "--step needs an interactive terminal" in done.stderr


MANUAL = """\
sections:
  - name: S
    steps:
      - name: Printed
        manual.confirm: {that: The reference is printed, assignee: the presenter}
        within: 25s
        timeout: 90s
      - name: Way
        manual.choose: {question: Which one, choices: [video, notebook], default: notebook, assignee: Ada}
        register: way
      - name: Room
        manual.input: {question: Which room}
        register: room
      - {name: Note, manual.note: {text: Lights on}}
      - {name: Kept, assert: {that: [way.answer == 'notebook', room.answer == 'Blue', room.by | length > 0]}}
"""


def test_questions_name_their_assignee_and_count_down_to_the_objective(session: Session) -> None:
    session.write(HEAD + MANUAL)
    session.start("run", "it.yaml", "--stack", "stack.yaml")
    session.sees("The reference is printed (for the presenter)")
    session.sees("objective in 2")
    session.sees("objective in 2")  # it goes on while no key is pressed
    session.types("y")
    session.sees("Which one (for Ada)")
    session.sees("> ")
    session.types("")
    session.sees("Which room")
    session.sees("> ")
    session.types("Blue")
    session.sees("Lights on")
    session.sees("> ")
    session.types("ok")
    assert session.ends() == 0
    assert [event.question for event in session.events(Asked)][:2] == [
        "The reference is printed (for the presenter)",
        "Which one (for Ada)",
    ]
    answers = session.events(Answered)
    assert [event.answer for event in answers] == ["yes", "notebook", "Blue", "ok"]
    assert {event.by for event in answers} == {account_name()}
    assert all(event.at for event in answers)
    assert session.events(StepFinished)[0].objective.value == "met"


def test_a_late_answer_counts_and_the_objective_is_missed(session: Session) -> None:
    session.write(HEAD + MANUAL.partition("      - name: Way")[0].replace("within: 25s", "within: 1s"))
    session.start("run", "it.yaml", "--stack", "stack.yaml")
    session.sees("objective missed by")
    session.types("yes")
    session.ends()
    [step] = session.events(StepFinished)
    assert (step.outcome.value, step.objective.value) == ("passed", "missed")


SECRET = """\
inputs: {token: {type: secret}, count: {type: integer, default: 3}, pause: {type: duration, default: 30s}}
sections:
  - name: S
    steps:
      - {name: One, assert: {that: 1 == 1}}
      - {name: Use, shell.run: {command: "test {{ token }} = quiet-key -a {{ pause | human }} = 30s"}}
"""


def test_a_secret_that_the_run_did_not_keep_is_asked_for_when_it_goes_on(session: Session) -> None:
    session.write(HEAD + SECRET)
    session.start("run", "it.yaml", "--stack", "stack.yaml", "-e", "token=quiet-key")
    assert session.ends() == 0
    session.lose_power()
    session.start("resume", "last")
    session.sees("token (secret)")
    session.types("quiet-key")
    assert session.ends() == 0
    assert "quiet-key" not in session.screen
    assert "quiet-key" not in (session.home.find_run("last") / "journal.jsonl").read_text()


def test_a_secret_is_given_again_in_the_file_of_inputs_that_the_run_began_with(session: Session) -> None:
    session.write(HEAD + SECRET)
    (session.folder / "again.yaml").write_text("token: quiet-key\ncount: 3\npause: 30s\n")
    session.start("run", "it.yaml", "--stack", "stack.yaml", "--inputs", "again.yaml")
    assert session.ends() == 0
    session.lose_power()
    session.start("resume", "last", "--unattended", "--inputs", "again.yaml")
    assert session.ends() == 0
    assert session.events(RunFinished)


def test_nothing_else_is_given_to_a_run_that_goes_on() -> None:
    class Nothing:
        @staticmethod
        def find(_name: str) -> None:
            return None

        @staticmethod
        def names() -> list[str]:
            return []

    top = "inputs: {token: {type: secret}, count: {type: integer, default: 3}}\n"
    steps = "sections: [{steps: [{set: {a: 1}}]}]\n"
    runbook = parse_runbook(HEAD + top + steps, "it.yaml", Nothing())
    assert given_again(runbook, {"count": 3}, {"token": "x", "count": "3"}) == {"token": "x"}
    for wrong in ({"count": "4"}, {"other": "1"}):
        with pytest.raises(UsageError, match="cannot be given to a resumed run"):
            given_again(runbook, {"count": 3}, wrong)

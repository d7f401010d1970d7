"""What a report shows of a long loop."""

from __future__ import annotations

import re

from k2run.engine.events import Outcome, OutlineSection, OutlineStep, RunStarted, StepFinished
from k2run.evidence.report_html import report_html
from k2run.evidence.report_markdown import report_markdown
from k2run.evidence.step_view import SHOWN_TURNS
from k2run.evidence.view import RunView, view_of


def looped(turns: int, failed: frozenset[int] = frozenset()) -> RunView:
    outline = [
        OutlineSection(path="sections[0]", name="All", steps=[OutlineStep(path=LOOP, name="Look", action="x.y")])
    ]
    about = {"run": "r", "runbook": "r.yaml", "name": "r", "kind": "readiness", "title": "R", "stack": "s"}
    started = RunStarted(**about, digest="", outline=outline)
    return view_of([started, *(ended(turn, failed=turn in failed) for turn in range(turns))])


LOOP = "sections[0].steps[0]"


def ended(turn: int, *, failed: bool) -> StepFinished:
    return StepFinished(
        seq=turn + 2,
        step=f"{LOOP}#{turn}",
        section="sections[0]",
        name=f"Look at {turn}",
        action="x.y",
        outcome=Outcome.FAILED if failed else Outcome.PASSED,
        seconds=0.001 * (turn + 1),
        severity="critical",
        attempts=1,
    )


def test_a_long_loop_shows_its_first_turns_and_every_turn_that_did_not_pass():
    view = looped(1000, failed=frozenset({3, 700}))
    page, text = report_html(view), report_markdown(view)
    for written in (page, text):
        assert len(set(re.findall(r"Look at \d+", written))) == SHOWN_TURNS + 2
        assert "Look at 700" in written
        assert "973 more turns passed, each in 27ms to 1s" in written
    assert "lines 28 to 1001 of journal.jsonl" in page
    assert "#28 to #1001" in text


def test_a_loop_that_fits_is_shown_whole():
    text = report_markdown(looped(SHOWN_TURNS + 1))
    assert f"Look at {SHOWN_TURNS}" in text
    assert "more turns" not in text

"""The scenes of the walkthrough: every section, every talking point, as long as the rehearsal gives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.cli.document_tasks import _titles, middle
from k2run.engine.events import Outcome, RunStarted, SectionFinished, SectionStarted
from k2run.evidence.notebook_pages import Sources, scenes, talking_points
from k2run.evidence.view import RunView, view_of
from k2run.language.loader import load_runbook

REHEARSAL = load_runbook(Path(__file__).parents[2] / "runbooks" / "rehearsal.yaml", Catalogue())


def a_run(seconds: float) -> RunView:
    """A run of a demo day with nothing but its resilience, from 100 s on."""
    told = {
        "name": "demo-day",
        "title": "Demo day",
        "kind": "readiness",
        "stack": "sandbox",
        "runbook": "",
        "digest": "",
    }
    common = {"seq": 1, "at": "2026-11-29T10:00:00.000Z"}
    began = RunStarted(**common, t=0.0, run="r1", **told)
    section = SectionStarted(**common, t=100.0, section="s1", name="Resilience")
    end = SectionFinished(
        **common, t=100.0 + seconds, section="s1", name="Resilience", outcome=Outcome.PASSED, seconds=seconds
    )
    return view_of([began, section, end])


def sources(view: RunView | None) -> Sources:
    return Sources(
        page="http://here",
        stack="sandbox",
        notebook="file:///there/demo.html",
        titles=_titles(REHEARSAL),
        run="r1" if view is not None else "",
        view=view,
        now="today",
    )


def test_every_section_says_all_its_points_in_order_and_takes_its_time() -> None:
    made = scenes(REHEARSAL, sources(a_run(90.0)))
    sections = [each for each in REHEARSAL.sections if each.name[0].isdecimal()]
    assert list(dict.fromkeys(scene.chapter for scene in made)) == [each.name for each in sections]
    for section in sections:
        mine = [scene for scene in made if scene.chapter == section.name]
        assert list(dict.fromkeys(scene.caption for scene in mine)) == talking_points(section)
        assert sum(scene.seconds for scene in mine) == pytest.approx(section.within)
    assert sum(scene.seconds for scene in made) >= 600  # what demo-day holds the video to


def test_the_resilience_is_a_replay_at_its_own_pace() -> None:
    made = [scene for scene in scenes(REHEARSAL, sources(a_run(45.0))) if scene.chapter == "5 Resilience"]
    moments = [float(scene.url.partition("at=")[2]) for scene in made]
    assert made[0].url.startswith("http://here/runs/r1/replay?at=")
    assert moments == sorted(moments)
    assert (moments[0] > 100, moments[-1]) == (True, 145.0)
    assert sum(scene.seconds for scene in made) == pytest.approx(45)
    assert {scene.note for scene in made} == {"replay at its own pace: Demo day, run of 2026-11-29 10:00:00 UTC"}


def test_pages_of_the_notebook_are_those_of_the_section() -> None:
    made = scenes(REHEARSAL, sources(a_run(45.0)))
    assert {scene.url for scene in made if scene.chapter == "3 Storage"} == {
        "file:///there/demo.html#3-storage",
        "http://here/stacks/sandbox?far&show=5",
    }


def test_without_a_run_its_section_is_not_invented() -> None:
    made = scenes(REHEARSAL, sources(None))
    assert not any("/runs/" in scene.url for scene in made)
    assert middle(None) == 0.0
    assert middle(a_run(40.0)) == 130.0

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

import pytest

from k2run.engine.events import Scored
from k2run.evidence.overview import verdict_box
from k2run.evidence.reports import write_reports
from k2run.evidence.view import score_says, verdict, view_of
from k2run.terminal.lines import Tone
from k2run.terminal.transcript import closing
from k2run.web.fragments import draw
from k2run.web.listings import Runs

if TYPE_CHECKING:
    from conftest import Bench

TOP = """\
runbook: 1
kind: readiness
name: scored
title: Scored
score:
  categories: {A: {title: First, points: 60}, B: {title: Second, points: 40}}
  bands: [{at_least: 95, name: Fine, light: green}, {at_least: 0, name: Poor, light: red}]
  go: 95
sections:
  - name: Only
    category: A
    steps:
"""


def scored(bench: Bench, steps: str) -> tuple[Scored, int, str]:
    finished = bench.run(TOP + steps)
    found = next(event for event in bench.seen if isinstance(event, Scored))
    return found, finished.exit_code, finished.verdict


def test_everything_passed_is_a_hundred_and_a_go(bench: Bench) -> None:
    score, code, verdict = scored(
        bench,
        "      - {name: A, assert: {that: true}, points: 3}\n"
        "      - {name: B, assert: {that: true}, points: {category: B, max: 1}}\n",
    )
    assert (score.score, score.coverage, score.band, score.light, code, verdict) == (100, 1, "Fine", "green", 0, "go")


def test_points_are_weighed_by_their_category(bench: Bench) -> None:
    score, code, _ = scored(
        bench,
        "      - {name: A, assert: {that: true}, points: 1}\n"
        "      - {name: A2, assert: {that: false}, points: 2, severity: warning}\n"
        "      - {name: B, assert: {that: true}, points: {category: B, max: 1}}\n",
    )
    assert score.score == pytest.approx(60)
    assert code == 1
    assert score.missing == ["A2: expected false (0 of 2 points)"]


def test_the_first_award_that_holds_counts(bench: Bench) -> None:
    awards = "['5 when result.exit_code == 1', '4 when result.exit_code == 0', '0']"
    score, _, _ = scored(
        bench,
        "      - {name: A, shell.run: {command: 'true'}, severity: warning, "
        f"points: {{max: 5, award: {awards}}}}}\n",
    )
    assert score.lines[0].earned == pytest.approx(48)


def test_what_could_not_be_judged_stays_out_of_the_score_and_is_named(bench: Bench) -> None:
    score, code, verdict = scored(
        bench,
        "      - {name: A, assert: {that: true}, points: 1}\n"
        "      - {name: Grafana, requires: [grafana], assert: {that: true}, points: 1}\n"
        "      - {name: Person, manual.confirm: {that: It is so}, points: {category: B, max: 1}}\n",
    )
    assert (score.score, score.coverage, code) == (100, 0.3, 0)
    assert score.not_applicable == ["Grafana: the stack 'none' has no grafana"]
    assert score.for_a_person == ["Person"]
    assert verdict == "go, subject to 1 item for a person"


def test_a_failed_critical_check_is_no_go_whatever_the_score(bench: Bench) -> None:
    score, code, verdict = scored(
        bench,
        "      - {name: A, assert: {that: true}, points: 100}\n      - {name: Red, assert: {that: false}}\n",
    )
    assert (score.score, score.go, score.light, code) == (100, False, "red", 1)
    assert verdict == 'no-go: "Red" failed'


PART = """\
      - {name: A, assert: {that: true}, points: 1, tags: [quick]}
      - {name: B, assert: {that: true}, points: {category: B, max: 1}}
"""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tags": frozenset({"quick"})}, "1 of 2 steps, the others were not checked (--tags quick)"),
        ({"skip_tags": frozenset({"quick"})}, "1 of 2 steps, the others were not checked (--skip-tags quick)"),
        ({"start_at": "B"}, "1 of 2 steps, the others were not checked (before --start-at B)"),
    ],
)
def test_a_run_of_a_part_is_no_go_and_has_no_score(bench: Bench, options: dict[str, Any], said: str) -> None:
    finished = bench.run(TOP + PART, **options)
    assert finished.verdict == f"passed; only a part: {said}"
    assert finished.exit_code == 0
    assert not [event for event in bench.seen if isinstance(event, Scored)]
    view = view_of(bench.seen)
    assert verdict(view, finished)[0] == "PARTIAL"
    badge = next(part for line in closing(view, 100) for part in line if part.text == " PARTIAL ")
    assert badge.tone is Tone.BADGE_WARN
    assert '<section class="verdict warn"><h2><span class="word">PARTIAL</span>' in str(verdict_box(view))
    brief = Runs(bench.store).brief(bench.store.find_run("last"))
    assert brief is not None
    assert (brief.word, brief.light) == ("PARTIAL", "warn")


def test_tags_that_leave_nothing_out_are_a_whole_run(bench: Bench) -> None:
    assert (
        bench.run(TOP + PART.replace("max: 1}}", "max: 1}, tags: [quick]}"), tags=frozenset({"quick"})).verdict == "go"
    )


@pytest.mark.parametrize(("needed", "code"), [(50, 0), (51, 1)])
def test_the_share_of_points_without_a_person_that_is_judged_is_part_of_a_go(
    bench: Bench, needed: int, code: int
) -> None:
    steps = """\
      - {name: A, assert: {that: true}, points: 1}
      - {name: Grafana, requires: [grafana], assert: {that: true}, points: 1}
      - {name: Person, manual.confirm: {that: It is so}, points: {category: B, max: 1}}
"""
    finished = bench.run(TOP.replace("go: 95", f"go: 95\n  coverage: {needed}") + steps)
    scored = next(event for event in bench.seen if isinstance(event, Scored))
    assert (scored.score, scored.coverage, scored.unattended, finished.exit_code) == (100, 0.3, 0.5, code)
    if code:
        why = "50 % of the points that need no person were judged, 51 % are needed"
        assert finished.verdict == f"no-go: {why}"
        assert (scored.band, scored.light, scored.why) == ("Poor", "red", why)


def test_points_that_the_run_did_not_reach_are_not_judged(bench: Bench) -> None:
    steps = (
        "      - {name: A, assert: {that: true}, points: 1}\n      - {name: Halt, stop: {because: enough}}\n"
        "      - {name: Late, assert: {that: true}, points: 3}\n"
    )
    score, _, _ = scored(bench, steps)
    assert score.coverage == pytest.approx(0.15)


def test_the_score_is_told_in_the_same_words_everywhere(bench: Bench) -> None:
    steps = (
        "      - {name: A, assert: {that: true}, points: 3}\n      - {name: Red, assert: {that: false}}\n"
        "      - {name: B, requires: [grafana], assert: {that: true}, points: {category: B, max: 1}}\n"
    )
    scored(bench, steps)
    view = view_of(bench.seen)
    says = [f"{label} {text}" for label, text in score_says(view.scored)]  # type: ignore[arg-type]
    assert says == [
        "Score 60 of 60 points judged, 100 of 100",
        "Judged 60 % of all points, 60 % of those that need no person",
        'Band Poor, red: "Red" failed, which is critical',
    ]
    terminal = " ".join(" ".join(part.text for part in line) for line in closing(view, 100))
    web = draw("parts/score.html", view=view)
    written = "".join(path.read_text() for path in write_reports(bench.store.find_run("last")))
    for shown in (terminal, *(html.unescape(re.sub("<[^>]+>", "", page)) for page in (web, written))):
        assert all(" ".join(line.split()) in " ".join(shown.replace("**", "").split()) for line in says)


def test_nothing_judged_is_not_a_go(bench: Bench) -> None:
    score, code, _ = scored(bench, "      - {name: Grafana, requires: [grafana], assert: {that: true}, points: 1}\n")
    assert (score.score, score.go, code) == (0, False, 1)


def test_a_critical_failure_never_reads_as_an_excellent_band(bench: Bench) -> None:
    text = """\
runbook: 1
kind: readiness
name: test
sections:
  - name: Only
    steps:
      - {name: Good, assert: {that: true}, points: {category: all, max: 95}}
      - {name: Bad, assert: {that: false}}
score:
  categories: {all: 100}
  bands: [{at_least: 90, name: Excellent}, {at_least: 0, name: Not ready, light: red}]
"""
    bench.run(text)
    scored = next(event for event in bench.seen if isinstance(event, Scored))
    assert (scored.score, scored.band, scored.light) == (100, "Not ready", "red")

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import Scored

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
    assert verdict == "no-go: Red failed"


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

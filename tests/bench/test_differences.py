"""What is called different: more than runs differ from each other by themselves."""

from __future__ import annotations

import random
from math import exp

import msgspec
import pytest

from k2run.bench.baseline import Baselines
from k2run.bench.latency import Latencies
from k2run.bench.plan import Outcome as Load
from k2run.bench.regression import ASSUMED, MOST, RATE, Sample, change, drift, quantile, sample_of, trends, two_sided
from k2run.bench.result import Measured, judge
from k2run.bench.thresholds import Threshold
from k2run.engine.events import Outcome, RunFinished, RunStarted, StepFinished
from k2run.engine.journal import JOURNAL, read_journal
from k2run.evidence.compare import compare
from k2run.evidence.view import view_of

LOAD = "0123456789ab"


def measured(p50_ms, *, samples=2000, seed=1, load=LOAD):
    """A load whose latencies are spread around a median."""
    chance, good = random.Random(seed), Latencies()
    good.record_all([p50_ms / 1000 * chance.lognormvariate(0, 0.2) for _ in range(samples)])
    counts = {"errors": {}, "empty": 0, "size": 0, "statuses": {}, "skipped": 0}
    outcome = Load(
        histogram=good.encode(), failed=Latencies().encode(), started=samples, seconds=10, answered=samples, **counts
    )
    return Measured.of(outcome, "a service", load=load)


def one_run(home, number, *loads, outcome=Outcome.PASSED):
    """The journal of a run with a load in each step: a, b …"""
    folder = home / "runs" / f"20261121-{number:06}-demo-aaaa"
    folder.mkdir(parents=True, exist_ok=True)
    at = "2026-11-21T09:00:00.000+00:00"
    begun = {"runbook": "r.yaml", "name": "demo", "title": "A run", "kind": "benchmark", "digest": "d", "stack": "s"}
    more = {"section": "b", "action": "bench.http", "outcome": outcome, "seconds": 1.5, "at": at}
    steps = zip("abc", loads, strict=False)
    events = [
        RunStarted(seq=1, at=at, run=folder.name, **begun),
        *(
            StepFinished(seq=2 + n, step=path, name=f"Load {path}", result=met.plain(), **more)
            for n, (path, met) in enumerate(steps)
        ),
        RunFinished(seq=9, at=at, outcome=outcome, verdict="go", exit_code=0, seconds=2.0),
    ]
    (folder / JOURNAL).write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    return folder


def judged(home, met, text, step="a"):
    outcome = Load(histogram="", failed="", started=1, seconds=1, errors={}, empty=0, size=0, statuses={}, skipped=0)
    baselines = Baselines(home=str(home), stack="s").at(step)
    return judge(met, [Threshold.parse(text)], outcome, baselines).thresholds[0]


def runs_of(chance, many, spread, factor=1.0):
    return [Sample(value=5 * factor * exp(chance.gauss(0, spread)), error=0.001) for _ in range(many)]


# --- the test itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)]
)
def test_quantiles_of_students_t_are_those_of_the_tables(freedom, value):
    assert quantile(0.05, freedom) == pytest.approx(value, rel=1e-5)
    assert two_sided(value, freedom) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("many", [3, 5, 10])
@pytest.mark.parametrize("spread", [0.02, 0.15])
def test_of_runs_of_an_unchanged_service_about_five_in_a_hundred_are_called_different(many, spread):
    chance, different = random.Random(17), 0
    for _ in range(2000):
        before = runs_of(chance, many, spread)
        different += change("p50", before, runs_of(chance, 1, spread)[0], before).shown
    assert different / 2000 == pytest.approx(0.05, abs=0.015)


def test_a_shift_beyond_the_spread_of_ten_runs_is_found():
    chance, found = random.Random(17), 0
    for _ in range(500):
        before = runs_of(chance, 10, 0.025)
        found += change("p50", before, runs_of(chance, 1, 0.025, 1.1)[0], before).shown
    assert found / 500 > 0.9


def test_figures_that_are_told_together_are_right_together():
    chance, different = random.Random(17), 0
    for _ in range(500):
        before = [runs_of(chance, 8, 0.05) for _ in range(5)]
        told = [change("p50", one, runs_of(chance, 1, 0.05)[0], one, among=5).shown for one in before]
        different += any(told)
    assert different / 500 == pytest.approx(0.05, abs=0.02)


def test_one_run_is_a_weak_baseline_and_the_words_say_so():
    chance = random.Random(3)
    (before,), (near,), (far,) = runs_of(chance, 1, 0), runs_of(chance, 1, 0, 1.15), runs_of(chance, 1, 0, 1.6)
    close, wide = (change("p50", [before], after, [before]) for after in (near, far))
    assert not close.shown
    assert "not enough runs to tell: +15 % (" in close.says()
    assert f"the {ASSUMED:.0%} assumed between runs, 1 of which is known" in close.says()
    assert wide.shown
    assert "+60 %, slower" in wide.says()
    known = change("p50", [before], near, [before] * 8)
    assert "+15 %, slower" in known.says()
    assert "beyond the spread of 8 runs" in known.says()
    assert "no difference beyond the spread of 8 runs" in change("p50", [before], before, [before] * 8).says()
    assert "lower" in change(RATE, [far], before, [far] * 8).says()


def test_a_run_with_few_samples_is_told_apart_less_easily():
    many = [Sample(value=5, error=0.01)] * 8
    assert change("p50", many, Sample(value=5.5, error=0.01), many).shown
    assert not change("p50", many, Sample(value=5.5, error=0.1), many).shown


def test_a_drift_is_told_from_chance():
    chance = random.Random(5)
    climbing = [5 * 1.08**n * exp(chance.gauss(0, 0.03)) for n in range(10)]
    assert drift(climbing).each == pytest.approx(1.08, abs=0.01)
    assert "drifting: +8" in drift(climbing).says()
    assert "a run over the last 10 runs" in drift(climbing).says()
    told = [drift([5 * exp(chance.gauss(0, 0.1)) for _ in range(10)]) is not None for _ in range(2000)]
    assert sum(told) / 2000 == pytest.approx(0.01, abs=0.007)


# --- what a threshold makes of it -------------------------------------------------------------------------------------


def test_a_regression_is_measured_from_the_last_green_runs_and_their_spread(tmp_path):
    for number, p50 in enumerate([5.0, 5.5, 4.8, 5.3, 4.9, 5.4]):
        one_run(tmp_path, number, measured(p50, seed=number))
    one_run(tmp_path, 7, measured(50), outcome=Outcome.FAILED)
    usual = judged(tmp_path, measured(5.6), "regression < 10%")
    assert (usual.met, usual.value) == (True, 0.0)
    assert "p50: no difference beyond the spread of 6 runs" in usual.says
    assert "against 6 runs up to 20261121-000005-demo-aaaa #2" in usual.says
    slower = judged(tmp_path, measured(7), "regression < 10%")
    assert slower.met is False
    assert slower.value == pytest.approx(0.36, abs=0.03)
    assert "slower" in slower.says


def test_with_too_few_runs_a_regression_is_not_measured_which_is_excused(tmp_path):
    one_run(tmp_path, 1, measured(5))
    near = judged(tmp_path, measured(5.6), "regression < 10%")
    assert (near.met, near.excused) == (None, True)
    assert "not enough runs to tell" in near.says
    assert judged(tmp_path, measured(5.6), "regression < 100%").met is True
    assert judged(tmp_path, measured(9), "regression < 10%").met is False


def test_the_baseline_is_the_newest_runs_and_no_more(tmp_path):
    for number in range(MOST + 5):
        one_run(tmp_path, number, measured(5, seed=number))
    found = Baselines(home=str(tmp_path), stack="s").find("last green", LOAD)
    assert [one.run[9:15] for one in found.runs] == [f"{number:06}" for number in range(5, MOST + 5)]


def test_a_baseline_that_is_not_pinned_cannot_drift_unseen(tmp_path):
    """Each run is 8 % slower than the one before, which none of them shows by itself."""
    lost = []
    for number in range(10):
        met = measured(5 * 1.08**number, seed=number)
        found = judged(tmp_path, met, "regression < 50%")
        lost.append(found.met is False)
        if number >= 4:
            assert "drifting: +" in found.says
        one_run(tmp_path, number, met, outcome=Outcome.FAILED if found.met is False else Outcome.PASSED)
    assert any(lost), "8 % ten times are more than 50 %"
    assert not any(lost[:5])


def test_of_alike_loads_in_a_run_each_is_compared_with_its_own(tmp_path):
    for number in range(4):
        one_run(tmp_path, number, measured(5, seed=number), measured(20, seed=number))
    assert judged(tmp_path, measured(5, seed=9), "regression < 10%", "a").met is True
    assert judged(tmp_path, measured(20, seed=9), "regression < 10%", "b").met is True
    assert judged(tmp_path, measured(20, seed=9), "regression < 10%", "a").met is False


def test_a_percentile_that_the_generator_spoiled_is_no_regression(tmp_path):
    for number in range(4):
        one_run(tmp_path, number, measured(5, seed=number))
    met = measured(5)
    blurred = msgspec.structs.replace(met.percentiles["p50"], value_ms=None, low_ms=None, high_ms=None, blurred=True)
    spoiled = msgspec.structs.replace(
        met, percentiles=met.percentiles | {"p50": blurred}, generator="the generator was late", tardy=5
    )
    found = judged(tmp_path, spoiled, "regression < 10%")
    assert (found.met, found.excused, found.says) == (None, False, "the generator was late")


def test_a_percentile_that_one_side_cannot_carry_is_not_compared(tmp_path):
    for number in range(4):
        one_run(tmp_path, number, measured(5, samples=500, seed=number))
    found = judged(tmp_path, measured(5), "p99 regression < 10%")
    assert (found.met, found.excused) == (None, False)
    assert "too few samples for p99" in found.says
    assert sample_of(measured(5, samples=500).percentiles["p99"]) is None


# --- two runs beside each other, and all of them ----------------------------------------------------------------------


def told(home, one, other):
    views = [view_of(read_journal(folder)) for folder in (one, other)]
    rows = compare(*views, Baselines(home=str(home), stack="s"))
    return {row.name: row.says for row in rows if row.kind in {"latency", "rate"}}


def test_two_runs_differ_where_the_runs_before_do_not_explain_it(tmp_path):
    folders = [one_run(tmp_path, n, measured(p50, seed=n)) for n, p50 in enumerate([5.0, 5.5, 4.8, 5.3, 4.9, 5.4, 5.1])]
    slower = one_run(tmp_path, 8, measured(9))
    alike = told(tmp_path, folders[0], folders[1])
    assert alike["Load a: p50"].startswith("not enough runs to tell")
    alike = told(tmp_path, folders[5], folders[6])
    assert alike["Load a: p50"].startswith("no difference beyond the spread of 6 runs")
    assert alike["Load a: rate"].startswith("no difference")
    assert told(tmp_path, folders[6], slower)["Load a: p50"].startswith("+76")
    # The first run has none before it: those after it tell the spread, without the one that it is compared with.
    assert "beyond the spread of 7 runs" in told(tmp_path, folders[0], slower)["Load a: p50"]


def test_loads_that_are_not_the_same_are_not_compared(tmp_path):
    one, other = one_run(tmp_path, 1, measured(5)), one_run(tmp_path, 2, measured(9, load="another"))
    assert told(tmp_path, one, other)["Load a: p50"] == "not the same load"


def test_a_trend_warns_of_a_drift(tmp_path):
    from k2run.bench.regression import Point

    points = [
        Point(run="r", began="2026", outcome="passed", value=5 * 1.08**n, seq=1, kind="figure") for n in range(10)
    ]
    assert "drifting: +8 % a run over the last 10 runs" in trends("p99_ms", points)[0].says()
    assert "drifting" not in trends("p99_ms", [msgspec.structs.replace(each, value=5.0) for each in points])[0].says()

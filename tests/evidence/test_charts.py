import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from k2run.bench.latency import Latencies, counts
from k2run.engine.events import FaultStruck, Outcome, RunFinished, StepFinished, StepStarted, StepTried
from k2run.engine.journal import read_journal
from k2run.evidence.drawings import measurements
from k2run.evidence.html import FAR_LETTER, FAR_SIZES, Form, Mark, over_time, round_steps, round_times, short
from k2run.evidence.measurements import KEPT, Series
from k2run.evidence.view import view_of

MEASURED = Path(__file__).parent / "journals" / "measured.jsonl"
STEP = {"step": "a", "section": "s", "name": "The backlog shrinks"}


def lag_run(values, expected="result.total < 50", args=None, action="kafka.lag"):
    """A run that watched a figure until it was low enough."""
    events = [FaultStruck(seq=1, t=0.5, step="f", action="service.pause", name="Hold", began=0.5)]
    events.append(StepStarted(seq=2, t=1.0, args=args or {"topic": "t"}, action=action, **STEP))
    events += [
        StepTried(seq=3 + n, t=2.0 + n, step="a", attempt=n, result={"total": value, "topic": "t"})
        for n, value in enumerate(values[:-1])
    ]
    last = {
        "result": {"total": values[-1]},
        "expected": expected,
        "outcome": Outcome.PASSED,
        "seconds": 9.0,
        "action": action,
    }
    events.append(StepFinished(seq=90, t=20.0, **last, **STEP))
    return view_of(
        [*events, RunFinished(seq=91, t=21.0, outcome=Outcome.PASSED, verdict="", exit_code=0, seconds=21.0)]
    )


def test_a_lag_is_drawn_from_every_attempt_with_the_fault_marked():
    (drawn,) = lag_run([600, 400, 200, 100, 40]).measured.all()
    assert drawn.points == [(2.0, 600), (3.0, 400), (4.0, 200), (5.0, 100), (20.0, 40)]
    assert drawn.lines == (3, 90)
    page = measurements(lag_run([600, 400, 200, 100, 40]))
    assert 'class="fault"' in page
    assert "First 600, highest 600, last 40; 5 measurements" in page
    ET.fromstring(page)


def test_what_never_changed_or_was_measured_once_is_not_drawn():
    assert measurements(lag_run([5, 5, 5, 5, 5])) == ""
    assert measurements(lag_run([600, 40])) == ""
    assert measurements(lag_run([600, 400, 200, 40], expected="true", action="http.get")) == ""


def test_of_other_actions_the_field_that_the_expectation_names_is_followed():
    (drawn,) = lag_run([600, 400, 200, 100, 40], action="http.get").measured.all()
    assert drawn.title == "http.get total, t"
    assert [value for _, value in drawn.points] == [600, 400, 200, 100, 40]


def test_the_same_metric_of_two_services_is_two_series():
    view = view_of([])
    for seq, service in enumerate(["consumer", "api"] * 2):
        named = {"step": f"s{seq}", "section": "s", "name": "Read", "action": "metrics.read"}
        view.fold(StepStarted(seq=seq, args={"metric": "level", "service": service}, **named))
        view.fold(StepFinished(seq=seq, t=seq, result={"value": seq}, outcome=Outcome.PASSED, seconds=0.1, **named))
    assert [(each.title, each.count) for each in view.measured.all(1)] == [("level, consumer", 2), ("level, api", 2)]


def test_a_peak_is_told_although_its_point_was_dropped():
    values = [0.0, 9.0, *[1.0] * KEPT, 0.0]
    (drawn,) = lag_run(values).measured.all()
    assert max(value for _, value in drawn.points) < 9
    assert drawn.most == 9
    assert "highest 9, last 0" in measurements(lag_run(values))


def test_the_lag_and_the_level_of_a_real_run_are_drawn_on_one_clock():
    drawn = {each.title: each for each in view_of(read_journal(MEASURED)).measured.all()}
    assert drawn["lag of market.crypto.trades.binance, k2-iceberg-writer-crypto-v2"].most == 601288
    assert {value for _, value in drawn["k2_degradation_level, consumer"].points} == {0.0, 2.0}


def loaded(histogram):
    result = {"histogram": histogram, "percentiles": {"p50": {"value_ms": 5.0}, "p99": {"value_ms": None}}}
    step = {"step": "a", "section": "s", "name": "Load <b>", "action": "bench.http", "outcome": Outcome.PASSED}
    return view_of([StepFinished(seq=1, seconds=1.0, result={**result, "not_measured": "p99 needs 1,000"}, **step)])


def test_a_load_is_drawn_with_what_its_samples_can_carry():
    latencies = Latencies()
    for n in range(200):
        latencies.record(0.004 + n / 100_000)
    page = measurements(loaded(latencies.encode()))
    assert "200 good answers: p50 5 ms. Not measured: p99 needs 1,000" in page
    assert "Load &lt;b&gt;" in page
    assert page.count('role="img"') == 2
    ET.fromstring(page)


@pytest.mark.parametrize("histogram", ["", "nonsense", "HISTFAAAAB"])
def test_a_damaged_histogram_leaves_the_rest_of_the_page(histogram):
    assert measurements(loaded(histogram)) == ""


def test_an_encoded_histogram_gives_its_counts_back():
    latencies = Latencies()
    for milliseconds in (1, 1, 5):
        latencies.record(milliseconds / 1000)
    assert [(round(value), number) for value, number in counts(latencies.encode())] == [(1, 2), (5, 1)]


def test_axes_have_round_figures():
    assert round_steps(601215) == [0, 200000, 400000, 600000]
    assert round_steps(2.16) == [0, 1, 2]
    assert round_steps(0) == [0]
    assert round_times(39.2, 75.1, 5) == [40, 50, 60, 70]
    assert round_times(0, 0.1, 6)[:2] == [0, 0.02]
    assert [short(value) for value in (9999, 601288, 1.5e6, 0)] == ["9,999", "601.3k", "1.5M", "0"]
    assert msgspec.json.encode(round_steps(0.5)) == b"[0.0,0.2,0.4]"


@pytest.mark.parametrize("far", [0, *FAR_SIZES])
@pytest.mark.parametrize("at", [2.0, 11.0, 19.0, 20.0])
def test_what_is_written_at_a_mark_is_inside_the_picture(at, far):
    (drawn,) = lag_run([600, 400, 200, 100, 40]).measured.all()
    form = Form(far=far)
    chart = ET.fromstring(over_time(drawn, [Mark(at=at, word="resume consumer", kind="undone")], form=form))
    [said] = [each for each in chart.iter("text") if each.text == "resume consumer"]
    begin, wide = float(said.get("x")), len("resume consumer") * (FAR_LETTER if far else 6.5)
    assert begin >= 0
    assert begin + wide <= form.frame[0]


def test_the_fewer_charts_share_a_screen_the_larger_they_are():
    areas = [width * height for width, height in FAR_SIZES.values()]
    assert areas == sorted(areas, reverse=True)
    assert Form(far=3).frame[:2] == FAR_SIZES[4]
    assert Form(far=9).frame[:2] == FAR_SIZES[6]


@pytest.mark.parametrize("seconds", [30, 100, 290, 305, 3600])
def test_labels_of_the_time_are_inside_the_picture_and_do_not_touch(seconds):
    points = [(0.0, 1.0), (float(seconds), 2.0)]
    series = Series(title="Level", unit="", points=points, count=2, most=2.0)
    for levels in ((), ("NORMAL", "CIRCUIT_BREAK")):
        form = Form(far=6, levels=levels, labels=lambda at: f"12:{at // 60:02.0f}:00")
        svg = ET.fromstring(str(over_time(series, [], form=form)))
        height = FAR_SIZES[6][1] - 6
        labels = [each for each in svg.iter("text") if float(each.attrib["y"]) == height]
        spans = [(float(each.attrib["x"]), FAR_LETTER * len(each.text or "") / 2) for each in labels]
        assert len(spans) >= 2
        assert all(at + half <= FAR_SIZES[6][0] for at, half in spans)
        assert all(one + half < other - half for (one, half), (other, _) in itertools.pairwise(spans))

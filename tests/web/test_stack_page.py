"""The page of a stack: what its services publish over time, and never a zero for what was not seen."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from k2run.adapters.metrics import Exposition, Series
from k2run.language.document import read_document
from k2run.stack.model import Chart, Show
from k2run.stack.validation import problems_of
from k2run.web.stack_pages import SPAN_S, Looks, promql, quantile


def page(text: str) -> Exposition:
    families = text_string_to_metric_families(text)
    series = [Series(one.name, one.labels, one.value) for each in families for one in each.samples]
    return Exposition("http://here/metrics", series, set())


def looks(show: Show, *texts: str) -> Looks:
    """What is kept of pages that were read one second apart."""
    made = Looks(chart=Chart(title="A", service="one", metric="wait_seconds" if show[0] == "p" else "n", show=show))
    for second, text in enumerate(texts):
        made.take(page(text), float(second), 1000.0 + second)
    return made


def test_a_series_that_is_missing_leaves_a_gap_and_says_why() -> None:
    seen = looks(Show.VALUE, "n 1\n", "other 1\n")
    assert list(seen.points) == [(1000.0, 1.0)]
    assert "n has no series at http://here/metrics" in seen.problem


def test_several_series_are_added_up_and_of_a_level_the_highest_counts() -> None:
    text = 'n{p="0"} 1\nn{p="1"} 2\n'
    assert looks(Show.VALUE, text).points[-1][1] == 3
    level = Looks(chart=Chart(title="A", service="one", metric="n", levels=["LOW", "HIGH", "FULL"]))
    level.take(page(text), 0.0, 1000.0)
    assert level.points[-1][1] == 2


def test_a_rate_needs_two_looks_and_counts_on_after_a_restart() -> None:
    seen = looks(Show.RATE, "n 10\n", "n 30\n", "n 5\n")
    assert [value for _, value in seen.points] == [20.0, 2.5]


def test_a_percentile_is_one_of_the_last_seconds_in_milliseconds() -> None:
    before = (
        'wait_seconds_bucket{le="0.1"} 100\nwait_seconds_bucket{le="0.2"} 100\nwait_seconds_bucket{le="+Inf"} 100\n'
    )
    after = before.replace('le="0.2"} 100', 'le="0.2"} 110').replace('+Inf"} 100', '+Inf"} 110')
    seen = looks(Show.P50, before, before, after)
    assert [round(value, 6) for _, value in seen.points] == [150.0]  # none while nothing was asked


def test_a_percentile_beyond_the_last_bucket_is_its_bound() -> None:
    assert quantile(0.99, {0.1: 1.0, float("inf"): 10.0}) == 0.1
    assert quantile(0.5, {}) is None


def test_points_reach_back_as_far_as_the_chart() -> None:
    made = Looks(chart=Chart(title="A", service="one", metric="n"))
    for at in (0.0, 1.0, SPAN_S + 0.5):
        made.take(page("n 1\n"), at, at)
    assert [at for at, _ in made.points] == [1.0, SPAN_S + 0.5]


def test_prometheus_is_asked_for_one_instance() -> None:
    chart = Chart(title="A", service="one", metric="n_seconds", show=Show.P95, labels={"path": 'a"b'})
    assert promql(chart, "h:1") == (
        '1000 * histogram_quantile(0.95, sum by (le) (rate(n_seconds_bucket{path="a\\"b",instance="h:1"}[30s])))'
    )


WATCHED = """\
stack: 1
title: Watched
services:
  one: {{metrics: "{gauge}/metrics", ready: {{http: "{gauge}/metrics"}}}}
  two: {{metrics: "http://127.0.0.1:9/metrics"}}
charts:
  - {{title: Level, service: one, metric: k2_degradation_level, levels: [LOW, HIGH]}}
  - {{title: Rate <b>, service: one, metric: k2_degradation_level, show: rate, unit: steps}}
  - {{title: Lag, service: two, metric: lag}}
"""


def test_the_page_shows_what_services_publish_without_any_prometheus(served: Any, gauge: str) -> None:
    (served.folder / "runbooks" / "stacks" / "watched.yaml").write_text(WATCHED.format(gauge=gauge))
    end = time.monotonic() + 30
    with served.anonymous() as client:
        assert 'href="/stacks/watched"' in client.get("/").text
        while (text := client.get("/stacks/watched/live?far").text).count("<svg") < 2:
            assert time.monotonic() < end, text
            time.sleep(0.3)
        assert client.get("/stacks/nothing").status_code == 404
        alone = client.get("/stacks/watched?far&show=1").text
    assert "Rate &lt;b&gt;" in text
    assert "steps/s" in text
    assert text.count("not seen: ") == 1  # the service that does not answer, and no zero for it
    assert "HIGH" in text
    assert 'data-refresh="/stacks/watched/live?far&amp;show=1"' in alone
    assert alone.count("<figure") == 1


@pytest.mark.parametrize(
    ("chart", "said"),
    [
        ("{title: A, service: one}", "needs `metric`"),
        ("{title: A, service: on, metric: n}", "there is no service 'on'"),
        ("{title: A, service: one, metric: n, shows: rate}", "has no `shows`"),
        ("{title: A, service: one, metric: n, show: speed}", "Invalid enum value 'speed'"),
        ("level", "a chart is a mapping"),
    ],
)
def test_a_chart_that_cannot_be_is_a_problem_of_the_stack_file(chart: str, said: str) -> None:
    text = f"stack: 1\nservices: {{one: {{}}}}\ncharts:\n  - {chart}\n"
    problems = problems_of(read_document(text, "stack.yaml"))
    assert any(said in each.message for each in problems), problems

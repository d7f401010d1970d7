from __future__ import annotations

import itertools

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters import metrics
from k2run.errors import NotApplicable, Refused, Unknown, Unreachable
from k2run.language.quantities import Duration

TESTED_ON = {"metrics": "a real HTTP server with prometheus_client's format"}

PAGE = """
# HELP k2_degradation_level Level of degradation
# TYPE k2_degradation_level gauge
k2_degradation_level{service="k2-platform"} 2
# HELP k2_http_requests_total Requests
# TYPE k2_http_requests_total counter
k2_http_requests_total{method="GET",status_code="200"} 120
k2_http_requests_total{method="GET",status_code="500"} 3
k2_http_requests_total{method="POST",status_code="200"} 7
# HELP k2_rows_written_total Rows
# TYPE k2_rows_written_total counter
# HELP k2_memory_share Share
# TYPE k2_memory_share gauge
k2_memory_share NaN
"""


@pytest.fixture
def consumer(web, services):
    web.page("/metrics", PAGE)
    return services(f"consumer: {{metrics: '{web.url}/metrics'}}\napi: {{url: '{web.url}'}}")


def test_one_series_gives_its_value(consumer):
    reading = metrics.read(consumer, Deadline(5), service="consumer", metric="k2_degradation_level")
    assert (reading.value, reading.labels) == (2.0, {"service": "k2-platform"})
    assert reading.headline() == "k2_degradation_level 2"


def test_labels_choose_one_of_several_series(consumer):
    labels = {"method": "GET", "status_code": "500"}
    reading = metrics.read(consumer, Deadline(5), service="consumer", metric="k2_http_requests_total", labels=labels)
    assert reading.value == 3


def test_several_series_are_ambiguous_unless_they_are_to_be_summed(consumer):
    with pytest.raises(Unknown, match=r"3 series.*status_code"):
        metrics.read(consumer, Deadline(5), service="consumer", metric="k2_http_requests_total")
    reading = metrics.read(
        consumer,
        Deadline(5),
        service="consumer",
        metric="k2_http_requests_total",
        labels={"method": "GET"},
        sum=True,
    )
    assert (reading.value, reading.series) == (123, 2)


@pytest.mark.parametrize(
    ("metric", "labels", "why"),
    [
        ("k2_degradation_levle", {}, "did you mean k2_degradation_level"),
        ("k2_rows_written_total", {}, "declared .* no series yet"),
        ("k2_degradation_level", {"service": "other"}, "no series with service='other'"),
        ("k2_memory_share", {}, "not a number"),
    ],
)
def test_what_is_not_there_is_unknown_and_never_zero(consumer, metric, labels, why):
    with pytest.raises(Unknown, match=why):
        metrics.read(consumer, Deadline(5), service="consumer", metric=metric, labels=labels, sum=True)


def test_a_service_without_metrics_is_not_applicable(consumer):
    with pytest.raises(NotApplicable, match="publishes no metrics"):
        metrics.read(consumer, Deadline(5), service="api", metric="up")


def test_a_service_that_is_down_is_unreachable(services):
    stack = services("consumer: {metrics: 'http://127.0.0.1:1/metrics'}")
    with pytest.raises(Unreachable):
        metrics.read(stack, Deadline(5), service="consumer", metric="up")


def test_a_page_that_is_not_metrics_is_refused(web, services):
    for body, status in (("<html><body>hello there</body></html>", 200), ("gone", 404)):
        with pytest.raises(Refused):
            metrics.read(services(""), Deadline(5), url=web.page("/metrics", body, status=status), metric="up")


def test_a_course_counts_a_restart_of_the_counter_from_zero(web, services):
    values = itertools.chain([10, 20, 5, 15], itertools.repeat(15))
    web.pages["/metrics"] = lambda _: (200, {}, f"rows_total {next(values)}\n".encode())
    result = metrics.sample(
        services(""),
        Deadline(5),
        url=f"{web.url}/metrics",
        metrics=["rows_total"],
        during=Duration(0.3),
        every=Duration(0.1),
    )
    course = result.metrics["rows_total"]
    assert result.samples == 4
    assert result.seconds == pytest.approx(0.3, abs=0.1)
    assert (course.first, course.last, course.minimum, course.maximum, course.increase) == (10, 15, 5, 20, 25)
    assert course.per_second == pytest.approx(25 / result.seconds, rel=0.01)

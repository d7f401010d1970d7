"""Metrics that a service publishes itself, in the Prometheus text format; a missing series is unknown, not zero."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from k2run.actions.action import Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters.http.client import Request, send
from k2run.errors import NotApplicable, Refused, Unknown
from k2run.language.quantities import Duration
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT_FORMAT = {"Accept": "text/plain; version=0.0.4"}
ONCE = Duration(1)


class Reading(Result, frozen=True, kw_only=True):
    """The value of one metric.

    Attributes:
        labels: Those of the series; with several summed, those asked for.
        series: How many series the value stands for.
    """

    metric: str
    value: float
    labels: dict[str, str] = {}
    series: int = 1

    def headline(self) -> str:
        """Such as `queue_depth 2`."""
        return f"{self.metric} {self.value:g}"


class Course(Struct, frozen=True, kw_only=True):
    """How one metric went over a while.

    Attributes:
        increase: What a counter gained; a restart of its process counts from zero, as Prometheus does it.
        per_second: `increase` over the time between the first and the last sample.
    """

    first: float
    last: float
    minimum: float
    maximum: float
    mean: float
    increase: float
    per_second: float


class Samples(Result, frozen=True, kw_only=True):
    """Several metrics over a while.

    Attributes:
        metrics: What each metric did, by its name.
        samples: How often each was read.
        seconds: Time between the first and the last sample.
    """

    metrics: dict[str, Course]
    samples: int
    seconds: float

    def headline(self) -> str:
        """Such as `rows_total 10 → 250 (24/s)`."""
        return ", ".join(
            f"{name} {course.first:g} → {course.last:g} ({course.per_second:.3g}/s)"
            for name, course in list(self.metrics.items())[:2]
        )


class Series(NamedTuple):
    """One line of the text format."""

    name: str
    labels: dict[str, str]
    value: float


class Exposition(NamedTuple):
    """What a service publishes: its series, and the metrics it declares, with or without series."""

    address: str
    series: list[Series]
    declared: set[str]


@action("metrics.read")
def read(
    services: Services,
    deadline: Deadline,
    metric: str,
    service: str = "",
    url: str = "",
    labels: dict[str, str] = {},
    sum: bool = False,
) -> Reading:
    """The value of one metric of a service.

    Args:
        metric: Name of the series as it is published, such as `http_requests_total`.
        service: The service to read; the URL of its metrics comes from the stack.
        url: The URL of a metrics page, instead of a service.
        labels: Labels that the series must have; others may be there as well.
        sum: Add up all series that fit, instead of insisting on one.
    """
    return _pick(published(services, service, url, deadline), metric, labels, add_up=sum)


@action("metrics.sample")
def sample(
    services: Services,
    deadline: Deadline,
    metrics: list[str],
    during: Duration,
    service: str = "",
    url: str = "",
    labels: dict[str, str] = {},
    every: Duration = ONCE,
) -> Samples:
    """How several metrics of a service go over a while.

    Args:
        metrics: Names of the series; several series of one name are added up.
        during: How long to watch, such as `10s`.
        service: The service to read; the URL of its metrics comes from the stack.
        url: The URL of a metrics page, instead of a service.
        labels: Labels that the series must have; others may be there as well.
        every: Time between two samples.
    """
    if every <= 0 or during < every:
        raise Refused(
            f"{during} with a sample every {every} gives fewer than two samples",
            hint="`during` must be longer than `every`",
        )
    seen: dict[str, list[float]] = {metric: [] for metric in metrics}
    times: list[float] = []
    for turn in range(int(during / every + 1e-6) + 1):
        if times:
            deadline.sleep(max(0.0, times[0] + turn * every - time.monotonic()))
        times.append(time.monotonic())
        exposition = published(services, service, url, deadline)
        for metric, values in seen.items():
            values.append(_pick(exposition, metric, labels, add_up=True).value)
    seconds = times[-1] - times[0]
    return Samples(
        source=exposition.address,
        metrics={metric: _course(values, seconds) for metric, values in seen.items()},
        samples=len(times),
        seconds=round(seconds, 3),
    )


def published(services: Services, service: str, url: str, deadline: Deadline) -> Exposition:
    """What a service publishes at the moment.

    Raises:
        NotApplicable: It publishes no metrics in this stack.
        Refused: What answers is no metrics page.
    """
    headers: dict[str, str] = {}
    if bool(service) == bool(url):
        raise Refused("give either a service or a url")
    if service:
        found = services.find(service)
        url, headers = found.metrics, found.headers
        if not url:
            raise NotApplicable(
                f"the service {service!r} publishes no metrics in this stack", hint="add `metrics: URL` to it"
            )
    request = Request(url=url, headers=headers | TEXT_FORMAT)
    answer = send(request, deadline)
    if answer.status != 200:  # noqa: PLR2004 - OK
        raise Refused(f"the metrics at {request.address} answered {answer.status_line}")
    return _parse(request.address, answer.text)


def _parse(address: str, text: str) -> Exposition:
    from prometheus_client.parser import text_string_to_metric_families

    series: list[Series] = []
    declared: set[str] = set()
    try:
        for family in text_string_to_metric_families(text):
            declared.add(family.name)
            series += [Series(one.name, one.labels, one.value) for one in family.samples]
    except (ValueError, KeyError, IndexError) as error:
        raise Refused(
            f"{address} does not answer with Prometheus metrics: {error}", hint="is this the URL of the metrics page?"
        ) from error
    return Exposition(address, series, declared)


def _pick(exposition: Exposition, metric: str, labels: dict[str, str], *, add_up: bool) -> Reading:
    fitting = [one for one in exposition.series if one.name == metric and labels.items() <= one.labels.items()]
    if not fitting:
        raise _absent(exposition, metric, labels)
    if len(fitting) > 1 and not add_up:
        raise Unknown(
            f"{metric} has {len(fitting)} series at {exposition.address}: {_some(fitting)}",
            hint="name the labels of one, or set `sum: true`",
        )
    value = math.fsum(one.value for one in fitting)
    if math.isnan(value):
        raise Unknown(f"{metric} is not a number (NaN) at {exposition.address}")
    return Reading(
        source=exposition.address,
        metric=metric,
        value=value,
        labels=fitting[0].labels if len(fitting) == 1 else labels,
        series=len(fitting),
    )


def _absent(exposition: Exposition, metric: str, labels: dict[str, str]) -> Unknown:
    named = [one for one in exposition.series if one.name == metric]
    if named:
        wanted = ", ".join(f"{name}={value!r}" for name, value in labels.items())
        return Unknown(f"{metric} has no series with {wanted} at {exposition.address}; it has {_some(named)}")
    if metric.removesuffix("_total") in exposition.declared:
        return Unknown(f"{metric} is declared at {exposition.address}, but has no series yet")
    from difflib import get_close_matches

    near = get_close_matches(metric, {one.name for one in exposition.series}, 1)
    hint = f"did you mean {near[0]}?" if near else ""
    return Unknown(f"there is no metric {metric} at {exposition.address}", hint=hint)


def _some(fitting: list[Series]) -> str:
    shown = ["{" + ", ".join(f"{name}={value!r}" for name, value in one.labels.items()) + "}" for one in fitting[:3]]
    return " ".join(shown) + (" …" if len(fitting) > len(shown) else "")


def _course(values: list[float], seconds: float) -> Course:
    increase = math.fsum(_gains(values))
    return Course(
        first=values[0],
        last=values[-1],
        minimum=min(values),
        maximum=max(values),
        mean=math.fsum(values) / len(values),
        increase=increase,
        per_second=increase / seconds,
    )


def _gains(values: list[float]) -> Iterator[float]:
    for before, after in pairwise(values):
        yield after - before if after >= before else after

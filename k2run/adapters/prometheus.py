"""Prometheus: instant and range queries, targets, rules, alerts. What it does not know is unknown, never zero.

https://prometheus.io/docs/prometheus/latest/querying/api/
Long because the adapter is one module: its connection, what its API answers, its results and its actions.
"""

from __future__ import annotations

import math
import time
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from k2run.actions.action import Result, action
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import MISREAD
from k2run.adapters.http.client import Answer, Request, send
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls, with_query
from k2run.errors import Refused, Unknown
from k2run.language.quantities import Duration

T = TypeVar("T")
_OF_THE_QUERY = "PromQL "
"""How warnings begin that are about the query, not about the data."""


class Prometheus(Connection, frozen=True, kw_only=True, key="prometheus"):
    """Where Prometheus answers.

    Attributes:
        url: Its base URL, such as `http://127.0.0.1:9090`.
        headers: Sent with every request, such as an authorization.
        tls: How an HTTPS server is trusted.
    """

    url: str
    headers: dict[str, str] = {}
    tls: Tls = TRUSTING_THE_SYSTEM


class Failed(Struct):
    """An answer that says no."""

    status: str = ""
    error: str = ""


class AtOnce(Struct):
    """One series at one moment."""

    metric: dict[str, str]
    value: tuple[float, str]


class Instant(Struct):
    """The answer to a query at one moment."""

    resultType: str  # noqa: N815 - the API's name
    result: Any

    def series(self) -> list[tuple[dict[str, str], str]]:
        """Labels and value of each series."""
        if self.resultType == "scalar":
            return [({}, self.result[1])]
        if self.resultType == "vector":
            return [(one.metric, one.value[1]) for one in msgspec.convert(self.result, list[AtOnce])]
        raise Refused(f"the expression gives a {self.resultType}, not a value", hint="use prometheus.query_range")


class OverTime(Struct):
    """One series over a time."""

    metric: dict[str, str]
    values: list[tuple[float, str]]


class Matrix(Struct):
    """The answer to a query over a time."""

    result: list[OverTime]


class ApiTarget(Struct):
    """One scrape target."""

    labels: dict[str, str]
    health: str
    scrapeUrl: str = ""  # noqa: N815 - the API's name
    lastError: str = ""  # noqa: N815 - the API's name


class ApiTargets(Struct):
    """The scrape targets."""

    activeTargets: list[ApiTarget]  # noqa: N815 - the API's name


class ApiRule(Struct):
    """One rule."""

    name: str
    type: str
    health: str
    query: str = ""
    state: str = ""
    lastError: str = ""  # noqa: N815 - the API's name


class Group(Struct):
    """A group of rules."""

    name: str
    rules: list[ApiRule]


class ApiRules(Struct):
    """All groups of rules."""

    groups: list[Group]


class ApiAlert(Struct):
    """One alert."""

    state: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class ApiAlerts(Struct):
    """The active alerts."""

    alerts: list[ApiAlert]


def ask(prometheus: Prometheus, deadline: Deadline, path: str, params: dict[str, Any]) -> Answer:
    """One exchange, whatever its status."""
    url = with_query(prometheus.url.rstrip("/") + path, params)
    return send(Request(url=url, headers=prometheus.headers, tls=prometheus.tls), deadline)


def call(prometheus: Prometheus, deadline: Deadline, what: str, params: dict[str, Any], kind: type[T]) -> T:
    """Ask, and read a whole answer.

    Raises:
        Unknown: Prometheus says that something is missing in it.
    """
    found, warnings = asked(prometheus, deadline, what, params, kind)
    whole(prometheus, warnings)
    return found


def whole(prometheus: Prometheus, warnings: list[str]) -> None:
    """Nothing is missing in an answer; what Prometheus says of the query itself is no matter here.

    Raises:
        Unknown: It is a partial one.
    """
    missing = [warning for warning in warnings if not warning.startswith(_OF_THE_QUERY)]
    if missing:
        raise Unknown(
            f"Prometheus at {prometheus.url} gave a partial answer: {'; '.join(missing)}",
            hint="repair what it could not read, or set `partial: true` to judge what could be read",
        )


def asked(
    prometheus: Prometheus, deadline: Deadline, what: str, params: dict[str, Any], kind: type[T]
) -> tuple[T, list[str]]:
    """Ask, and read the answer with its warnings."""
    answer = ask(prometheus, deadline, f"/api/v1/{what}", params)
    try:
        if answer.status != 200:  # noqa: PLR2004 - OK
            failed = msgspec.json.decode(answer.content, type=Failed)
            raise Refused(f"Prometheus at {prometheus.url} answered {answer.status_line}: {failed.error}")
        said = msgspec.json.decode(answer.content)
        return msgspec.convert(said["data"], kind), [str(warning) for warning in said.get("warnings") or ()]
    except (*MISREAD, KeyError, TypeError) as error:
        raise Refused(
            f"{prometheus.url} does not answer like Prometheus ({answer.status_line}): {error}",
            hint="check connections.prometheus.url",
        ) from error


LAST_HOUR = Duration(3600)
QUARTER_MINUTE = Duration(15)


class Series(Struct, frozen=True, kw_only=True):
    """One series of an instant query."""

    labels: dict[str, str]
    value: float


class Vector(Result, frozen=True, kw_only=True):
    """The answer to an instant query.

    Attributes:
        value: The value, when there is one series (or `sum` was set); otherwise None.
        series: All series of the answer.
        count: How many they are.
        warnings: What Prometheus says about the answer, such as that a part of it is missing.
    """

    query: str
    value: float | None
    series: list[Series]
    count: int
    warnings: list[str] = []

    def headline(self) -> str:
        """The value, or how many series there are."""
        shown = f"{self.value:g}" if self.value is not None else f"{self.count} series"
        return "; ".join([shown, *self.warnings])


class Course(Struct, frozen=True, kw_only=True):
    """One series of a range query; `points` are pairs of Unix time in seconds and value."""

    labels: dict[str, str]
    points: list[tuple[float, float]]
    first: float
    last: float
    minimum: float
    maximum: float
    mean: float


class Range(Result, frozen=True, kw_only=True):
    """The answer to a range query.

    Attributes:
        minimum: The lowest value of all series.
        maximum: The highest value of all series.
        mean: The mean over all points of all series.
        points: How many points there are.
        warnings: What Prometheus says about the answer, such as that a part of it is missing.
    """

    query: str
    series: list[Course]
    minimum: float
    maximum: float
    mean: float
    points: int
    warnings: list[str] = []


class Target(Struct, frozen=True, kw_only=True):
    """One scrape target, and why it is down when it is."""

    job: str
    instance: str
    health: str
    url: str = ""
    error: str = ""


class Targets(Result, frozen=True, kw_only=True):
    """Scrape targets, counted by health."""

    up: int
    down: int
    unknown: int
    targets: list[Target]

    def headline(self) -> str:
        """Such as `3 of 4 up; down: kafka`."""
        missing = sorted({target.job for target in self.targets if target.health != "up"})
        return f"{self.up} of {len(self.targets)} up" + (f"; not up: {', '.join(missing)}" if missing else "")


class Alert(Struct, frozen=True, kw_only=True):
    """One alert, as its rule makes it now."""

    name: str
    state: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Alerts(Result, frozen=True, kw_only=True):
    """Active alerts, counted by state."""

    firing: int
    pending: int
    alerts: list[Alert]

    def headline(self) -> str:
        """Such as `1 firing: KafkaBrokerDown`."""
        names = sorted({alert.name for alert in self.alerts if alert.state == "firing"})
        return f"{self.firing} firing" + (f": {', '.join(names)}" if names else "")


class Rule(Struct, frozen=True, kw_only=True):
    """One alerting or recording rule."""

    name: str
    group: str
    type: str
    health: str
    query: str = ""
    state: str = ""
    error: str = ""


class Rules(Result, frozen=True, kw_only=True):
    """The rules that are loaded; `unhealthy` could not be evaluated."""

    count: int
    unhealthy: int
    rules: list[Rule]

    def headline(self) -> str:
        """Such as `21 rules, 0 unhealthy`."""
        return f"{self.count} rules, {self.unhealthy} unhealthy"


class Ready(Result, frozen=True, kw_only=True):
    """Prometheus is ready to answer queries."""

    status: int
    elapsed_ms: float


class Existing(Result, frozen=True, kw_only=True):
    """How many series there are now."""

    metric: str
    count: int
    labels: list[dict[str, str]]

    def headline(self) -> str:
        """Such as `12 series`."""
        return f"{self.count} series"


@action("prometheus.ready")
def ready(prometheus: Prometheus, deadline: Deadline) -> Ready:
    """Prometheus is up and ready to answer queries."""
    answer = ask(prometheus, deadline, "/-/ready", {})
    if answer.status != 200:  # noqa: PLR2004 - OK
        raise Refused(f"Prometheus at {prometheus.url} is not ready: {answer.status_line}")
    return Ready(source=prometheus.url, status=answer.status, elapsed_ms=round(answer.elapsed * 1000, 3))


@action("prometheus.query")
def query(prometheus: Prometheus, deadline: Deadline, query: str, sum: bool = False, partial: bool = False) -> Vector:
    """What a PromQL expression says now.

    An empty answer is unknown. A single series (or a scalar) gives `result.value`.

    Args:
        query: The expression.
        sum: Add up all series into `result.value`.
        partial: Whether an answer may be judged in which something is missing, as Prometheus itself says.
    """
    answer, warnings = asked(prometheus, deadline, "query", {"query": query}, Instant)
    if not partial:
        whole(prometheus, warnings)
    series = [Series(labels=labels, value=float(value)) for labels, value in answer.series()]
    series = [one for one in series if not math.isnan(one.value)]
    if not series:
        raise Unknown(
            f"Prometheus at {prometheus.url} has no data for {query}",
            hint="is the metric scraped, and its name right? (NaN counts as no data)",
        )
    value = math.fsum(one.value for one in series) if sum or len(series) == 1 else None
    return Vector(source=prometheus.url, query=query, value=value, series=series, count=len(series), warnings=warnings)


@action("prometheus.query_range")
def query_range(
    prometheus: Prometheus,
    deadline: Deadline,
    query: str,
    last: Duration = LAST_HOUR,
    step: Duration = QUARTER_MINUTE,
    partial: bool = False,
) -> Range:
    """What a PromQL expression said over the last while; an empty answer is unknown.

    Args:
        query: The expression.
        last: How far to look back from now.
        step: Time between two points.
        partial: Whether an answer may be judged in which something is missing, as Prometheus itself says.
    """
    end = time.time()
    params = {"query": query, "start": end - last, "end": end, "step": float(step)}
    answer, warnings = asked(prometheus, deadline, "query_range", params, Matrix)
    if not partial:
        whole(prometheus, warnings)
    series = [
        _course(one.metric, points)
        for one in answer.result
        if (points := [(at, float(value)) for at, value in one.values if not math.isnan(float(value))])
    ]
    if not series:
        raise Unknown(f"Prometheus at {prometheus.url} has no data for {query} in the last {last}")
    values = [value for one in series for _, value in one.points]
    return Range(
        source=prometheus.url,
        query=query,
        series=series,
        minimum=min(values),
        maximum=max(values),
        mean=math.fsum(values) / len(values),
        points=len(values),
        warnings=warnings,
    )


@action("prometheus.series_exists")
def series_exists(prometheus: Prometheus, deadline: Deadline, metric: str, labels: dict[str, str] = {}) -> Existing:
    """A metric has at least one series now; none at all is unknown.

    Args:
        metric: Name of the metric.
        labels: Labels that its series must have.
    """
    selector = ",".join(f"{name}={msgspec.json.encode(value).decode()}" for name, value in labels.items())
    answer, _ = asked(prometheus, deadline, "query", {"query": f"{metric}{{{selector}}}"}, Instant)
    found = [found for found, _ in answer.series()]
    if not found:
        raise Unknown(
            f"Prometheus at {prometheus.url} has no series {metric}{{{selector}}}",
            hint="is it scraped? see prometheus.targets",
        )
    return Existing(source=prometheus.url, metric=metric, count=len(found), labels=found)


@action("prometheus.targets")
def targets(prometheus: Prometheus, deadline: Deadline, job: str = "") -> Targets:
    """The scrape targets and how they do; no target at all is unknown.

    Args:
        job: Only the targets of this job.
    """
    active = call(prometheus, deadline, "targets", {"state": "active"}, ApiTargets).activeTargets
    seen = [
        Target(
            job=one.labels.get("job", ""),
            instance=one.labels.get("instance", ""),
            health=one.health,
            url=one.scrapeUrl,
            error=one.lastError,
        )
        for one in active
        if not job or one.labels.get("job") == job
    ]
    if not seen:
        of_job = f" of job {job!r}" if job else ""
        raise Unknown(f"Prometheus at {prometheus.url} has no targets{of_job}", hint="check its scrape_configs")
    up, down = (sum(one.health == health for one in seen) for health in ("up", "down"))
    return Targets(source=prometheus.url, up=up, down=down, unknown=len(seen) - up - down, targets=seen)


@action("prometheus.rules")
def rules(prometheus: Prometheus, deadline: Deadline, type: Literal["all", "alert", "record"] = "all") -> Rules:
    """The alerting and recording rules that are loaded, and whether they can be evaluated.

    Args:
        type: Only alerting or only recording rules.
    """
    params = {} if type == "all" else {"type": type}
    found = [
        Rule(
            name=rule.name,
            group=group.name,
            type=rule.type,
            health=rule.health,
            query=rule.query,
            state=rule.state,
            error=rule.lastError,
        )
        for group in call(prometheus, deadline, "rules", params, ApiRules).groups
        for rule in group.rules
    ]
    unhealthy = sum(rule.health == "err" for rule in found)
    return Rules(source=prometheus.url, count=len(found), unhealthy=unhealthy, rules=found)


@action("prometheus.alerts")
def alerts(prometheus: Prometheus, deadline: Deadline, name: str = "") -> Alerts:
    """The alerts that are pending or firing now.

    Args:
        name: Only alerts of this name.
    """
    active = [
        Alert(name=one.labels.get("alertname", ""), state=one.state, labels=one.labels, annotations=one.annotations)
        for one in call(prometheus, deadline, "alerts", {}, ApiAlerts).alerts
        if not name or one.labels.get("alertname") == name
    ]
    firing, pending = (sum(one.state == state for one in active) for state in ("firing", "pending"))
    return Alerts(source=prometheus.url, firing=firing, pending=pending, alerts=active)


def _course(labels: dict[str, str], points: list[tuple[float, float]]) -> Course:
    values = [value for _, value in points]
    return Course(
        labels=labels,
        points=points,
        first=values[0],
        last=values[-1],
        minimum=min(values),
        maximum=max(values),
        mean=math.fsum(values) / len(values),
    )

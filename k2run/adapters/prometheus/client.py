"""What Prometheus' HTTP API answers, as far as it is read here, and how it is asked.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._documents import MISREAD
from k2run.adapters.http.client import Answer, Request, send
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls, with_query
from k2run.errors import Refused, Unknown

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


class Target(Struct):
    """One scrape target."""

    labels: dict[str, str]
    health: str
    scrapeUrl: str = ""  # noqa: N815 - the API's name
    lastError: str = ""  # noqa: N815 - the API's name


class Targets(Struct):
    """The scrape targets."""

    activeTargets: list[Target]  # noqa: N815 - the API's name


class Rule(Struct):
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
    rules: list[Rule]


class Rules(Struct):
    """All groups of rules."""

    groups: list[Group]


class Alert(Struct):
    """One alert."""

    state: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Alerts(Struct):
    """The active alerts."""

    alerts: list[Alert]


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

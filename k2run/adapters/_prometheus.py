"""What Prometheus' HTTP API answers, as far as it is read here, and how it is asked.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._tls import TRUSTING_THE_SYSTEM, Tls
from k2run.adapters._web import Answer, Request, send, with_query
from k2run.errors import Refused

T = TypeVar("T")


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
    status: str = ""
    error: str = ""


class AtOnce(Struct):
    metric: dict[str, str]
    value: tuple[float, str]


class Instant(Struct):
    resultType: str  # noqa: N815 - the API's name
    result: Any

    def series(self) -> list[tuple[dict[str, str], str]]:
        if self.resultType == "scalar":
            return [({}, self.result[1])]
        if self.resultType == "vector":
            return [(one.metric, one.value[1]) for one in msgspec.convert(self.result, list[AtOnce])]
        raise Refused(f"the expression gives a {self.resultType}, not a value", hint="use prometheus.query_range")


class OverTime(Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class Matrix(Struct):
    result: list[OverTime]


class Target(Struct):
    labels: dict[str, str]
    health: str
    scrapeUrl: str = ""  # noqa: N815 - the API's name
    lastError: str = ""  # noqa: N815 - the API's name


class Targets(Struct):
    activeTargets: list[Target]  # noqa: N815 - the API's name


class Rule(Struct):
    name: str
    type: str
    health: str
    query: str = ""
    state: str = ""
    lastError: str = ""  # noqa: N815 - the API's name


class Group(Struct):
    name: str
    rules: list[Rule]


class Rules(Struct):
    groups: list[Group]


class Alert(Struct):
    state: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Alerts(Struct):
    alerts: list[Alert]


def ask(prometheus: Prometheus, deadline: Deadline, path: str, params: dict[str, Any]) -> Answer:
    url = with_query(prometheus.url.rstrip("/") + path, params)
    return send(Request(url=url, headers=prometheus.headers, tls=prometheus.tls), deadline)


def call(prometheus: Prometheus, deadline: Deadline, what: str, params: dict[str, Any], kind: type[T]) -> T:
    answer = ask(prometheus, deadline, f"/api/v1/{what}", params)
    try:
        if answer.status != 200:  # noqa: PLR2004 - OK
            failed = msgspec.json.decode(answer.content, type=Failed)
            raise Refused(f"Prometheus at {prometheus.url} answered {answer.status_line}: {failed.error}")
        return msgspec.convert(msgspec.json.decode(answer.content)["data"], kind)
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise Refused(
            f"{prometheus.url} does not answer like Prometheus ({answer.status_line}): {error}",
            hint="look at connections.prometheus.url",
        ) from error

"""What Grafana's HTTP API answers, as far as it is read here, and how it is asked.

https://grafana.com/docs/grafana/latest/developers/http_api/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.actions.connection import Connection
from k2run.adapters.grafana.dashboards import Panel, Source, read_panels
from k2run.adapters.http.json_api import Api, basic
from k2run.adapters.http.tls import TRUSTING_THE_SYSTEM, Tls
from k2run.errors import Unknown

if TYPE_CHECKING:
    from k2run.actions.deadline import Deadline

_OK, _ABSENT = 200, 404


class Grafana(Connection, frozen=True, kw_only=True, key="grafana"):
    """Where Grafana answers.

    Attributes:
        url: Its base URL, such as `http://127.0.0.1:3000`.
        user: Of basic authentication; empty when a token is given.
        password: Likewise.
        token: Of a service account, instead of a user.
        headers: Sent with every request.
        tls: How an HTTPS server is trusted.
    """

    url: str
    user: str = ""
    password: str = ""
    token: str = ""
    headers: dict[str, str] = {}
    tls: Tls = TRUSTING_THE_SYSTEM

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"grafana {self.url}"

    def api(self) -> Api:
        """How it is asked."""
        shown = {"Authorization": f"Bearer {self.token}"} if self.token else basic(self.user, self.password)
        return Api("Grafana", self.url, "connections.grafana", {**shown, **self.headers}, self.tls)


class State(Struct):
    """Of `/api/health`."""

    database: str
    version: str = ""


class Found(Struct):
    """One hit of `/api/search`."""

    uid: str
    title: str
    folderTitle: str = ""  # noqa: N815 - the API's name


class Checked(Struct):
    """Of a datasource's health."""

    status: str = ""
    message: str = ""


class Made(Struct):
    """A new annotation."""

    id: int


class _Dashboard(Struct):
    dashboard: dict[str, Any]


class _Data(Struct, frozen=True):
    values: list[list[Any]] = []


class _Frame(Struct, frozen=True):
    data: _Data = _Data()


class _Outcome(Struct):
    frames: list[_Frame] = []
    error: str = ""


class _Outcomes(Struct):
    results: dict[str, _Outcome]


def call(
    grafana: Grafana, deadline: Deadline, path: str, kind: Any, doing: str, *, method: str = "GET", sent: Any = None
) -> Any:
    """Ask Grafana and read its answer as `kind`.

    Raises:
        Unreachable: Nothing answers.
        Refused: It says no, or it is not Grafana.
        Unknown: There is no such thing.
    """
    api = grafana.api()
    answer = api.ask(deadline, path, method=method, sent=sent)
    if answer.status == _ABSENT:
        raise Unknown(f"cannot {doing}: {grafana.url} has none such", hint="check the uid")
    if answer.status != _OK:
        raise api.refusal(answer, doing)
    return api.read(answer, kind)


def panels(grafana: Grafana, deadline: Deadline, uid: str) -> tuple[str, list[Panel]]:
    """The title of a dashboard, and its panels that ask for data, also those inside of rows."""
    found = call(grafana, deadline, f"/api/dashboards/uid/{uid}", _Dashboard, f"read the dashboard {uid!r}").dashboard
    sources = call(grafana, deadline, "/api/datasources", list[Source], "list the datasources")
    return str(found.get("title", uid)), read_panels(found, sources)


def samples(grafana: Grafana, deadline: Deadline, panel: Panel, since: str) -> tuple[int, str]:
    """How many values the queries of a panel bring, and what went wrong with one of them."""
    if panel.unseen:
        return 0, panel.unseen
    sent = {"queries": panel.queries, "from": since, "to": "now"}
    api = grafana.api()
    answer = api.ask(deadline, "/api/ds/query", method="POST", sent=sent)
    # Grafana answers with 400 or 207 when a query fails, and says in the body which.
    if answer.status not in {_OK, 207, 400}:
        raise api.refusal(answer, f"query the panel {panel.title!r}")
    outcomes = api.read(answer, _Outcomes).results.values()
    count = sum(
        sum(value is not None for value in column)
        for outcome in outcomes
        for frame in outcome.frames
        for column in frame.data.values[1:]  # the first column is the time
    )
    return count, "; ".join(outcome.error for outcome in outcomes if outcome.error)

"""What Grafana's HTTP API answers, as far as it is read here, and how it is asked; dashboards as its page reads them.

https://grafana.com/docs/grafana/latest/developers/http_api/
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.actions.connection import Connection
from k2run.adapters.http.client import Api, basic
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls
from k2run.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from k2run.actions.deadline import Deadline


_OK, _ABSENT = 200, 404
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::(\w+))?\}|\$([A-Za-z_]\w*)|\[\[([A-Za-z_]\w*)(?::(\w+))?\]\]", re.ASCII)
_ALL = "$__all"
_OF_ANOTHER_PANEL = "-- Dashboard --"
_ITSELF = frozenset({"-- Mixed --", "mixed"})
_JOINED: Mapping[str, Callable[[Sequence[str]], str]] = {
    "csv": ",".join,
    "raw": lambda values: "{" + ",".join(values) + "}",
    "glob": lambda values: "{" + ",".join(values) + "}",
    "pipe": "|".join,
}
"""How several values of a variable are written; any other way is a regular expression, as Prometheus wants it."""


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
        raise Unknown(f"cannot {doing}: not found at {grafana.url}", hint="check the uid")
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


class Source(Struct):
    """A datasource."""

    uid: str
    name: str
    type: str
    url: str = ""
    isDefault: bool = False  # noqa: N815 - the API's name


class Panel(Struct, frozen=True):
    """One panel of a dashboard that asks for data.

    Attributes:
        unseen: Why it is not known what it would ask; empty when that is known.
    """

    title: str
    queries: list[dict[str, Any]]
    unseen: str = ""


class NoValue(Exception):
    """A variable has no value in the dashboard; its page would ask for one."""


def read_panels(dashboard: dict[str, Any], sources: Sequence[Source]) -> list[Panel]:
    """The panels that ask for data, those inside of rows included.

    Args:
        dashboard: As Grafana keeps it.
        sources: All datasources.
    """
    variables = Variables(dashboard.get("templating", {}).get("list", []), sources)
    found = (_panel(panel, variables) for panel in _flat([*dashboard.get("panels", []), *dashboard.get("rows", [])]))
    return [panel for panel in found if panel is not None]


def _flat(found: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in found:
        yield panel
        yield from _flat(panel.get("panels") or [])


def _panel(panel: dict[str, Any], variables: Variables) -> Panel | None:
    title = str(panel.get("title", ""))
    if panel.get("libraryPanel") and not panel.get("targets"):
        return Panel(title, [], "it is a library panel: the dashboard does not say what it asks")
    targets = [target for target in panel.get("targets") or () if not target.get("hide")]
    try:
        queries = [query for target in targets if (query := _query(panel, target, variables)) is not None]
    except NoValue as error:
        return Panel(title, [], str(error))
    return Panel(title, queries) if queries else None


def _query(panel: dict[str, Any], target: dict[str, Any], variables: Variables) -> dict[str, Any] | None:
    """A query as `/api/ds/query` takes it; None for one that shows what another panel has asked."""
    uid = variables.source(target.get("datasource") or panel.get("datasource"))
    if uid == _OF_ANOTHER_PANEL:
        return None
    filled = {name: variables.filled(value) for name, value in target.items() if name != "datasource"}
    return {**filled, "datasource": {"uid": uid}, "intervalMs": 15_000, "maxDataPoints": 100}


class Variables:
    """The variables of a dashboard with the values that its page would begin with.

    Args:
        listed: As the dashboard lists them.
        sources: All datasources.
    """

    def __init__(self, listed: Sequence[dict[str, Any]], sources: Sequence[Source]) -> None:
        self._listed = {str(one.get("name", "")): one for one in listed}
        self._sources = sources
        self._uids = {source.name: source.uid for source in sources}

    def filled(self, value: Any) -> Any:
        """A value of a query with the variables in it filled in.

        Raises:
            NoValue: One has no value. Grafana's own, such as `$__rate_interval`, are for its server to fill in.
        """
        if isinstance(value, dict):
            return {name: self.filled(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        return _VARIABLE.sub(self._replaced, value) if isinstance(value, str) else value

    def source(self, named: Any) -> str:
        """The uid of a datasource that is named by its uid, by its name, by a variable, or not at all."""
        given = str((named.get("uid") or "") if isinstance(named, dict) else named or "")
        given = str(self.filled(given))
        if given in {"", "default", "null"} | _ITSELF:
            kind = named.get("type", "") if isinstance(named, dict) else ""
            return self._default(str(kind or ""))
        return self._uids.get(given, given)

    def _default(self, kind: str) -> str:
        """The datasource that is used where none is named: the default one, or the first of the kind that is wanted."""
        fitting = [source for source in self._sources if kind in {"", "datasource", source.type}]
        first = next((source.uid for source in fitting if source.isDefault), "")
        return first or next((source.uid for source in fitting), "")

    def _replaced(self, match: re.Match[str]) -> str:
        name = match[1] or match[3] or match[4]
        variable = self._listed.get(name)
        return match[0] if variable is None else self._written(variable, match[2] or match[5] or "")

    def _written(self, variable: dict[str, Any], form: str) -> str:
        values = self._values(variable)
        if values == [_ALL]:
            everything = str(variable.get("allValue") or "")
            options = [str(one.get("value")) for one in variable.get("options") or () if isinstance(one, dict)]
            values = [value for value in options if value != _ALL]
            if everything or not values:
                return everything or ".*"
        if len(values) == 1:
            return values[0]
        return _JOINED.get(form, _as_pattern)(values)

    def _values(self, variable: dict[str, Any]) -> list[str]:
        """What is chosen at first."""
        current = (variable.get("current") or {}).get("value")
        values = [
            str(value) for value in (current if isinstance(current, list) else [current]) if value not in (None, "")
        ]
        if values:
            return values
        if variable.get("type") == "datasource":
            return [self._default(str(variable.get("query", "")))]
        if variable.get("type") in {"constant", "textbox"}:
            return [str(variable.get("query", ""))]
        if variable.get("includeAll"):
            return [_ALL]
        if variable.get("type") in {"custom", "interval"} and variable.get("query"):
            return [str(variable["query"]).partition(",")[0].strip()]
        raise NoValue(f"its variable ${variable.get('name')} has no value in the dashboard: choose one and save it")


def _as_pattern(values: Sequence[str]) -> str:
    return "(" + "|".join(map(re.escape, values)) + ")"

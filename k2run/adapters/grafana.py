"""Grafana: whether it works, what dashboards it has, whether their panels show anything, and marks on them.

https://grafana.com/docs/grafana/latest/developers/http_api/
Long because the adapter is one module: its connection, what its API answers, its results and its actions.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from msgspec import Struct

from k2run.actions.action import Effect, Result, action
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import conforming
from k2run.adapters.http.client import Api, basic
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls
from k2run.errors import AuthorError, Refused, Unknown
from k2run.language.json_schema import JsonSchema
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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


def asking_panels(grafana: Grafana, deadline: Deadline, uid: str) -> tuple[str, list[Asking]]:
    """The title of a dashboard, and its panels that ask for data, also those inside of rows."""
    found = call(grafana, deadline, f"/api/dashboards/uid/{uid}", _Dashboard, f"read the dashboard {uid!r}").dashboard
    sources = call(grafana, deadline, "/api/datasources", list[Source], "list the datasources")
    return str(found.get("title", uid)), read_panels(found, sources)


def samples(grafana: Grafana, deadline: Deadline, panel: Asking, since: str) -> tuple[int, str]:
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


class Asking(Struct, frozen=True):
    """One panel of a dashboard that asks for data.

    Attributes:
        unseen: Why it is not known what it would ask; empty when that is known.
    """

    title: str
    queries: list[dict[str, Any]]
    unseen: str = ""


class NoValue(Exception):
    """A variable has no value in the dashboard; its page would ask for one."""


def read_panels(dashboard: dict[str, Any], sources: Sequence[Source]) -> list[Asking]:
    """The panels that ask for data, those inside of rows included."""
    variables = Variables(dashboard.get("templating", {}).get("list", []), sources)
    found = (_panel(panel, variables) for panel in _flat([*dashboard.get("panels", []), *dashboard.get("rows", [])]))
    return [panel for panel in found if panel is not None]


def _flat(found: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in found:
        yield panel
        yield from _flat(panel.get("panels") or [])


def _panel(panel: dict[str, Any], variables: Variables) -> Asking | None:
    title = str(panel.get("title", ""))
    if panel.get("libraryPanel") and not panel.get("targets"):
        return Asking(title, [], "it is a library panel: the dashboard does not say what it asks")
    targets = [target for target in panel.get("targets") or () if not target.get("hide")]
    try:
        queries = [query for target in targets if (query := _query(panel, target, variables)) is not None]
    except NoValue as error:
        return Asking(title, [], str(error))
    return Asking(title, queries) if queries else None


def _query(panel: dict[str, Any], target: dict[str, Any], variables: Variables) -> dict[str, Any] | None:
    """A query as `/api/ds/query` takes it; None for one that shows what another panel has asked."""
    uid = variables.source(target.get("datasource") or panel.get("datasource"))
    if uid == _OF_ANOTHER_PANEL:
        return None
    filled = {name: variables.filled(value) for name, value in target.items() if name != "datasource"}
    return {**filled, "datasource": {"uid": uid}, "intervalMs": 15_000, "maxDataPoints": 100}


class Variables:
    """The variables of a dashboard with the values that its page would begin with."""

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


LAST_HOUR = Duration(3600)
A_MOMENT = Duration(0)


class Health(Result, frozen=True, kw_only=True):
    """A Grafana whose database works."""

    database: str
    version: str
    elapsed_ms: float


class Dashboard(Struct, frozen=True, kw_only=True):
    """One dashboard."""

    uid: str
    title: str
    folder: str


class Dashboards(Result, frozen=True, kw_only=True):
    """The dashboards that this user sees."""

    uids: list[str]
    count: int
    dashboards: list[Dashboard]

    def headline(self) -> str:
        """Their titles."""
        return ", ".join(each.title for each in self.dashboards[:3])


class Tested(Result, frozen=True, kw_only=True):
    """A datasource that Grafana reaches."""

    uid: str
    name: str
    type: str
    message: str


class Panel(Struct, frozen=True, kw_only=True):
    """One panel: how many values its queries bring, and what went wrong when something did."""

    title: str
    samples: int
    error: str = ""


class Panels(Result, frozen=True, kw_only=True):
    """The panels of a dashboard that ask for data.

    Attributes:
        with_samples: How many of them show anything.
        empty: Titles of those whose queries bring nothing.
        failed: Titles of those whose queries fail.
    """

    dashboard: str
    title: str
    count: int
    with_samples: int
    empty: list[str]
    failed: list[str]
    panels: list[Panel]

    def headline(self) -> str:
        """Such as `13 of 15 panels show data, empty: Consumer lag`."""
        wrong = [
            f"{word}: {', '.join(names)}" for word, names in (("empty", self.empty), ("failed", self.failed)) if names
        ]
        return "; ".join([f"{self.with_samples} of {self.count} panels show data", *wrong])


class Annotation(Result, frozen=True, kw_only=True):
    """A mark on the dashboards."""

    id: int
    text: str
    tags: list[str]


@action("grafana.health")
def health(grafana: Grafana, deadline: Deadline) -> Health:
    """Grafana answers, and its database works."""
    started = time.perf_counter()
    found = call(grafana, deadline, "/api/health", State, "ask for its health")
    if found.database != "ok":
        raise Refused(f"Grafana at {grafana.url} says that its database is {found.database!r}")
    elapsed_ms = (time.perf_counter() - started) * 1000
    return Health(database="ok", version=found.version, elapsed_ms=elapsed_ms, source=grafana.source)


@action("grafana.dashboards")
def dashboards(
    grafana: Grafana, deadline: Deadline, search: str = "", conforms_to: JsonSchema | None = None
) -> Dashboards:
    """The dashboards that this user sees; none is unknown.

    Args:
        search: Only those with this in their title.
        conforms_to: JSON Schema that the result must conform to, or the path of a file with one, from the runbook's.
    """
    where = f"/api/search?type=dash-db&limit=5000&query={quote(search)}"
    found = call(grafana, deadline, where, list[Found], "list the dashboards")
    if not found:
        raise Unknown(
            f"{grafana.url} shows no dashboards{f' for {search!r}' * bool(search)}", hint="were they provisioned?"
        )
    shown = [Dashboard(uid=each.uid, title=each.title, folder=each.folderTitle) for each in found]
    result = Dashboards(uids=[each.uid for each in shown], count=len(shown), dashboards=shown, source=grafana.source)
    conforming(conforms_to, result.plain(), f"the list of dashboards of {grafana.url}", result)
    return result


@action("grafana.datasource")
def datasource(grafana: Grafana, deadline: Deadline, name: str) -> Tested:
    """Grafana reaches a datasource, by its own test of it.

    Args:
        name: Its name or its uid.
    """
    known = call(grafana, deadline, "/api/datasources", list[Source], "list the datasources")
    found = next((source for source in known if name in {source.name, source.uid}), None)
    if found is None:
        there = ", ".join(source.name for source in known) or "none"
        raise Unknown(f"{grafana.url} has no datasource {name!r}", hint=f"there are: {there}")
    asked = f"/api/datasources/uid/{quote(found.uid)}/health"
    checked = call(grafana, deadline, asked, Checked, f"test the datasource {name!r}")
    if checked.status.upper() != "OK":
        raise Refused(f"Grafana does not reach {name!r} at {found.url}: {checked.message or checked.status}")
    return Tested(uid=found.uid, name=found.name, type=found.type, message=checked.message, source=grafana.source)


@action("grafana.panels")
def panels(
    grafana: Grafana,
    deadline: Deadline,
    dashboard: str,
    window: Duration = LAST_HOUR,
    conforms_to: JsonSchema | None = None,
) -> Panels:
    """Whether the panels of a dashboard show anything: each one's queries are run, and the values counted.

    Args:
        dashboard: Its uid.
        window: How far back to look.
        conforms_to: JSON Schema that the result must conform to, or the path of a file with one, from the runbook's.
    """
    title, asked = asking_panels(grafana, deadline, quote(dashboard))
    if not asked:
        raise Unknown(f"the dashboard {dashboard!r} at {grafana.url} has no panel that asks for data")
    since = f"now-{max(int(window), 1)}s"
    found = []
    for panel in asked:
        count, error = samples(grafana, deadline, panel, since)
        found.append(Panel(title=panel.title, samples=count, error=error))
    result = Panels(
        dashboard=dashboard,
        title=title,
        count=len(found),
        with_samples=sum(panel.samples > 0 for panel in found),
        empty=[panel.title for panel in found if not panel.samples and not panel.error],
        failed=[panel.title for panel in found if panel.error],
        panels=found,
        source=grafana.source,
    )
    conforming(conforms_to, result.plain(), f"the dashboard {dashboard!r} at {grafana.url}", result)
    return result


@action("grafana.annotate", effect=Effect.CHANGES)
def annotate(
    grafana: Grafana,
    deadline: Deadline,
    text: str,
    tags: list[str] = ["k2run"],
    dashboard: str = "",
    lasted: Duration = A_MOMENT,
) -> Annotation:
    """Mark this moment, or the time up to it, on the dashboards: a fault, a recovery.

    Args:
        text: What is told there.
        tags: By which dashboards find it.
        dashboard: The uid of the only dashboard to mark; without it all that ask for the tags.
        lasted: How long what is marked has lasted until now.
    """
    if not text.strip():
        raise AuthorError("grafana.annotate needs a text")
    now_ms = int(time.time() * 1000)
    sent = {"time": now_ms - int(lasted * 1000), "timeEnd": now_ms, "text": text, "tags": tags}
    if dashboard:
        sent["dashboardUID"] = dashboard
    made = call(grafana, deadline, "/api/annotations", Made, "annotate", method="POST", sent=sent)
    return Annotation(id=made.id, text=text, tags=tags, source=grafana.source)

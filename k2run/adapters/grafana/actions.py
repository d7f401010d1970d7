"""Grafana: whether it works, what dashboards it has, whether their panels show anything, and marks on them."""

from __future__ import annotations

import time
from urllib.parse import quote

from msgspec import Struct

from k2run.actions.action import Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters._documents import conforming
from k2run.adapters.grafana import client as api
from k2run.adapters.grafana.client import Grafana, Source
from k2run.errors import AuthorError, Refused, Unknown
from k2run.language.json_schema import JsonSchema
from k2run.language.quantities import Duration

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
    found = api.call(grafana, deadline, "/api/health", api.State, "ask for its health")
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
    found = api.call(grafana, deadline, where, list[api.Found], "list the dashboards")
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
    known = api.call(grafana, deadline, "/api/datasources", list[Source], "list the datasources")
    found = next((source for source in known if name in {source.name, source.uid}), None)
    if found is None:
        there = ", ".join(source.name for source in known) or "none"
        raise Unknown(f"{grafana.url} has no datasource {name!r}", hint=f"there are: {there}")
    asked = f"/api/datasources/uid/{quote(found.uid)}/health"
    checked = api.call(grafana, deadline, asked, api.Checked, f"test the datasource {name!r}")
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
    title, asked = api.panels(grafana, deadline, quote(dashboard))
    if not asked:
        raise Unknown(f"the dashboard {dashboard!r} at {grafana.url} has no panel that asks for data")
    since = f"now-{max(int(window), 1)}s"
    found = []
    for panel in asked:
        count, error = api.samples(grafana, deadline, panel, since)
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
    made = api.call(grafana, deadline, "/api/annotations", api.Made, "annotate", method="POST", sent=sent)
    return Annotation(id=made.id, text=text, tags=tags, source=grafana.source)

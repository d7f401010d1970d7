"""Draw a run's page in parts, and find those that an event has changed; the templates, their filters, static files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.responses import Response

from k2run.engine.events import Bound
from k2run.evidence.html import Form, marks_of, over_time
from k2run.evidence.measurements import LEAST_POINTS, titled, written
from k2run.evidence.overview import TONES
from k2run.evidence.step_view import MoreTurns, listed
from k2run.evidence.view import score_says, tally, tone_of, verdict
from k2run.evidence.wording import (
    MARKS,
    NOT_DONE,
    Standing,
    against,
    count,
    counted,
    moment,
    percent,
    points,
    span,
    standing,
)
from k2run.web.guard import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jinja2 import Template
    from starlette.requests import Request

    from k2run.evidence.html import Mark
    from k2run.evidence.measurements import Series
    from k2run.evidence.step_view import StepView
    from k2run.evidence.view import RunView
    from k2run.stack.model import Chart

HERE = Path(__file__).parent
_LONGEST = 1500
_CLOSE = 0.8
"""Share of a budget after which its clock is highlighted."""
TYPES = {"k2run.css": "text/css", "k2run.js": "text/javascript", "k2run.svg": "image/svg+xml"}
FILES = {name: (HERE / "static" / name).read_bytes() for name in TYPES}
VERSION = sha256(b"".join(FILES.values())).hexdigest()[:12]
RUN, PRESENTER, ON_CALL = "run", "presenter", "oncall"
PANELS = {
    RUN: ("state", "ask", "now", "score", "faults", "charts", "notes", "announce"),
    PRESENTER: ("presenter", "ask", "announce"),
    ON_CALL: ("oncall", "announce"),
}
"""What each layout is made of; the steps follow below in the layout of a run."""
WATCHED = ("lag", "level")
"""Words in the titles of the series that are drawn first, and also while they do not move."""
BESIDE_ACTS = 6
"""Charts have the height of as many on a screen where the sections of a run stand above them."""
MOST_CHARTS = 6
_NO_ID = re.compile(r"[^0-9A-Za-z]+")


@cache
def environment() -> Environment:
    """The templates; whatever a system, a runbook or a person wrote is escaped."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(span=span, moment=moment, points=points, percent=percent, pretty=pretty, tone=tone)
    made.globals.update(
        against=against,
        clock=clock,
        count=count,
        MARKS=MARKS,
        Bound=Bound,
        NOT_DONE=NOT_DONE,
        Standing=Standing,
        Role=Role,
        score_says=score_says,
        standing=standing,
    )
    return made


@cache
def template(name: str) -> Template:
    """A template by its file."""
    return environment().get_template(name)


def draw(name: str, **values: Any) -> str:
    """A template, filled in."""
    return template(name).render(values)


def tone(stands: Standing) -> str:
    """The class of a standing in the style sheet."""
    return "live" if stands is Standing.RUNNING else TONES.get(stands, "quiet")


def pretty(value: Any) -> str:
    """A result as indented JSON, cut where it gets long."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\n…"


def clock(since: float, now: float, budget: float | None, *, live: bool) -> Markup:
    """A clock that the page's script lets run: seconds since a moment of the run, against a budget.

    Args:
        since: When it was started, in seconds since the run started.
        now: The moment that it shows until the script takes over.
        budget: Seconds that it should not pass.
        live: Whether it runs.
    """
    spent = max(0.0, now - since)
    late = " late" if budget and spent > budget else " close" if budget and spent > _CLOSE * budget else ""
    runs = Markup(' data-since="{}" data-budget="{}"').format(round(since, 3), budget or "") if live else ""
    of = Markup(' <span class="of">of {}</span>').format(span(budget)) if budget else ""
    return Markup('<span class="clock{}"><span class="hand"{}>{}</span>{}</span>').format(late, runs, span(spent), of)


async def static(request: Request) -> Response:
    """One of the files."""
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404)
    return Response(
        FILES[name], media_type=TYPES[name], headers={"cache-control": "public, max-age=31536000, immutable"}
    )


async def icon(request: Request) -> Response:  # noqa: ARG001 - the form of an endpoint
    """What a browser asks for on a page that names no icon."""
    return Response(FILES["k2run.svg"], media_type=TYPES["k2run.svg"])


Rows = dict[str, tuple[tuple[int, ...], str]]
"""Steps by their path: which of their events were drawn, and the picture."""


class ShownRun(Protocol):
    """A run as its panels ask for it: as far as its journal has been read, or as it was at a moment."""

    @property
    def folder(self) -> Path:
        """Its folder."""

    @property
    def view(self) -> RunView:
        """What happened."""

    @property
    def now(self) -> float:
        """Seconds since it started."""

    @property
    def state(self) -> str:
        """`running`, `died` or `ended`."""

    @property
    def charts(self) -> Sequence[Chart]:
        """Those of its stack, which name what it measures."""


@dataclass(slots=True)
class DrawnSection:
    """A section as it was drawn last: its head, and its steps by their ids."""

    id: str
    head: str
    rows: dict[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> str:
        """All of it."""
        head, rows = drawn(self.head), drawn("".join(self.rows.values()))
        return draw("parts/section.html", id=self.id, head=head, rows=rows)


class Drawing:
    """The parts of one layout of one run's page, as they were drawn last.

    Args:
        layout: Which page.
        csrf: The reader's, for the forms; parts that are sent to everybody have none, the page's script puts it in.
        rows: The steps as they were drawn last, for whomever.
    """

    def __init__(self, layout: str, csrf: str, rows: Rows) -> None:
        self.drawn = False
        self._layout = layout
        self._csrf = csrf
        self._panels: dict[str, str] = {}
        self._sections: dict[str, DrawnSection] = {}
        self._rows = rows

    def whole(self) -> dict[str, str]:
        """Every part, by the id of its element."""
        parts = dict(self._panels)
        if self._layout == RUN:
            parts["sections"] = "".join(
                ['<div id="sections">', *(section.whole for section in self._sections.values()), "</div>"]
            )
        return parts

    def changes(self, followed: ShownRun) -> dict[str, str]:
        """Draw everything; returns the parts that differ from the last drawing."""
        first, self.drawn = not self.drawn, True
        panels = dict(self._draw_panels(followed))
        changed = {name: html for name, html in panels.items() if self._panels.get(name) != html}
        self._panels = panels
        if self._layout == RUN:
            changed |= self._changed_sections(followed)
        return self.whole() if first else changed

    def _draw_panels(self, followed: ShownRun) -> Iterator[tuple[str, str]]:
        values = panel_values(followed, far=self._layout == PRESENTER)
        for name in PANELS[self._layout]:
            yield f"p-{name}", draw(f"parts/{name}.html", csrf=self._csrf, layout=self._layout, **values)

    def _changed_sections(self, followed: ShownRun) -> dict[str, str]:
        """The steps and heads that differ; a whole section where steps came or went, all where sections did."""
        before, now = self._sections, {key: self._section(followed, key) for key in followed.view.sections}
        self._sections = now
        if list(before) != list(now):
            return {"sections": self.whole()["sections"]}
        changed: dict[str, str] = {}
        for key, section in now.items():
            earlier = before[key]
            if list(earlier.rows) != list(section.rows):
                changed[section.id] = section.whole
                continue
            if earlier.head != section.head:
                changed[f"{section.id}-head"] = section.head
            changed |= {name: html for name, html in section.rows.items() if earlier.rows[name] != html}
        return changed

    def _section(self, followed: ShownRun, key: str) -> DrawnSection:
        section = followed.view.sections[key]
        name = id_of(key)
        head = draw("parts/head.html", id=f"{name}-head", section=section, **moment_of(followed))
        return DrawnSection(name, head, dict(self._entry(followed, entry) for entry in listed(section.in_order())))

    def _entry(self, followed: ShownRun, entry: StepView | MoreTurns) -> tuple[str, str]:
        """The id and the picture of a step, or of the many turns of a loop that passed like those before them."""
        if isinstance(entry, MoreTurns):
            name = f"at-line-{entry.first}"
            return name, draw("parts/more.html", id=name, more=entry)
        return id_of(entry.path), self._row(followed, entry)

    def _row(self, followed: ShownRun, step: StepView) -> str:
        """A step; drawn again only after one of its events, or when the run ends."""
        live = step.standing is not Standing.RUNNING or followed.state == "running"
        state = (*(event.seq if event is not None else 0 for event in _events_of(step)), int(live))
        known = self._rows.get(step.path)
        if known is None or known[0] != state:
            html = draw("parts/row.html", id=id_of(step.path), step=step, **moment_of(followed))
            known = self._rows[step.path] = (state, html)
        return known[1]


def _events_of(step: StepView) -> tuple[Any, ...]:
    return (step.started, step.tried, step.asked, step.answered, step.fault, step.finished)


def drawn(html: str) -> Markup:
    """What our own templates have drawn, and escaped where it had to be."""
    return Markup(html)  # noqa: S704 - see above


def marked(parts: dict[str, str]) -> dict[str, Markup]:
    """The parts of a page for its template."""
    return {name: drawn(html) for name, html in parts.items()}


def id_of(path: str) -> str:
    """The id of an element, from the path of a step or section."""
    return "at-" + _NO_ID.sub("-", path).strip("-")


def moment_of(followed: ShownRun) -> dict[str, Any]:
    """What clocks need to know."""
    return {"live": followed.state == "running", "now": followed.now}


def panel_values(followed: ShownRun, *, far: bool = False) -> dict[str, Any]:
    """What the panels of any layout show.

    Args:
        followed: The run.
        far: Whether it is read from afar: charts have room for large letters.
    """
    view = followed.view
    running = view.running() if followed.state == "running" else []
    over = view.finished
    return {
        **moment_of(followed),
        "run": followed.folder.name,
        "view": view,
        "state": followed.state,
        "running": running,
        "asked": [step for step in running if is_asked(step)],
        "approved": {step.path for step in running if needs_approver(step)},
        "inbox": has_inbox(view),
        "section": view.current(),
        "following": view.following(),
        "verdict": verdict(view, over) if over else ("", ""),
        "since": recovering_since(view),
        "light": tone_of(over) if over else "",
        "tally": tally(view) if over else counted(step.standing for step in view.leaves()),
        "progress": view.progress(),
        "undos": list(view.undos.values())[::-1],
        "charts": run_charts(view, followed.charts, far=far),
    }


class DrawnSeries(NamedTuple):
    """A measured value over time.

    Attributes:
        latest: The newest value, with its unit or as the name of its level.
    """

    title: str
    latest: str
    svg: Markup


def run_charts(view: RunView, known: Sequence[Chart], *, far: bool = False) -> list[DrawnSeries]:
    """The series worth a chart; what a demo is about comes first."""
    series = [each for each in view.measured.all(2) if is_watched(each) or (each.moves and each.count >= LEAST_POINTS)]
    marks = marks_of(view)
    return [_drawn(each, marks, known, far=far) for each in sorted(series, key=is_watched, reverse=True)[:MOST_CHARTS]]


def _drawn(series: Series, marks: Sequence[Mark], known: Sequence[Chart], *, far: bool) -> DrawnSeries:
    title, levels = titled(series, known)
    svg = over_time(series, marks, form=Form(width=420, far=BESIDE_ACTS if far else 0, levels=levels))
    return DrawnSeries(title, written(series, levels, series.latest), drawn(svg))


def is_watched(series: Series) -> bool:
    """Whether a series is what people watch during a demo."""
    return any(word in series.title.lower() for word in WATCHED)


def is_asked(step: StepView) -> bool:
    """Whether a step waits for a person."""
    return step.asked is not None and (step.answered is None or step.answered.seq < step.asked.seq)


def needs_approver(step: StepView) -> bool:
    """Whether only an approver may answer: the answer vouches for something, or allows something destructive."""
    return step.action == "manual.confirm" or not step.action.startswith("manual.")


def has_inbox(view: RunView) -> bool:
    """Whether the questions of the current part of the run can be answered on the page."""
    begun = view.resumed[-1] if view.resumed else view.started
    return begun is not None and begun.inbox


def recovering_since(view: RunView) -> float | None:
    """When the recovery clock started, while a fault is active or an RTO is promised."""
    promised = view.started is not None and view.started.rto is not None
    return view.recovering_since() if promised or view.pending_undos() else None

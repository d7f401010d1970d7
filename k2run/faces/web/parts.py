"""Draws a run's page in parts, and tells which of them an event has changed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from k2run.evidence.verdict import tally, verdict
from k2run.evidence.wording import Standing, counted
from k2run.faces.web.course import latest
from k2run.faces.web.pictures import draw
from k2run.faces.web.runs import light_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.evidence.view import RunView, SectionView, StepView
    from k2run.faces.web.feed import Story

RUN, PRESENTER, ON_CALL = "run", "presenter", "oncall"
PANELS = {
    RUN: ("state", "ask", "now", "score", "faults", "charts", "notes", "announce"),
    PRESENTER: ("presenter", "ask", "announce"),
    ON_CALL: ("oncall", "announce"),
}
"""What each layout is made of; the steps follow below in the layout of a run."""
_NO_ID = re.compile(r"[^0-9A-Za-z]+")


@dataclass(slots=True)
class Drawn:
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
    """

    def __init__(self, layout: str, csrf: str = "") -> None:
        self.drawn = False
        self._layout = layout
        self._csrf = csrf
        self._panels: dict[str, str] = {}
        self._sections: dict[str, Drawn] = {}
        self._rows: dict[str, tuple[tuple[int, ...], str]] = {}

    def whole(self) -> dict[str, str]:
        """Every part, by the id of its element."""
        parts = dict(self._panels)
        if self._layout == RUN:
            parts["sections"] = "".join(
                ['<div id="sections">', *(section.whole for section in self._sections.values()), "</div>"]
            )
        return parts

    def changes(self, story: Story) -> dict[str, str]:
        """Draw everything anew; the parts that differ from what was drawn last."""
        first, self.drawn = not self.drawn, True
        panels = dict(self._draw_panels(story))
        changed = {name: html for name, html in panels.items() if self._panels.get(name) != html}
        self._panels = panels
        if self._layout == RUN:
            changed |= self._changed_sections(story)
        return self.whole() if first else changed

    def _draw_panels(self, story: Story) -> Iterator[tuple[str, str]]:
        values = panel_values(story)
        for name in PANELS[self._layout]:
            yield f"p-{name}", draw(f"parts/{name}.html", csrf=self._csrf, layout=self._layout, **values)

    def _changed_sections(self, story: Story) -> dict[str, str]:
        """The steps and heads that differ; a whole section where steps came or went, all where sections did."""
        before, now = self._sections, {key: self._section(story, key) for key in story.view.sections}
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

    def _section(self, story: Story, key: str) -> Drawn:
        section = story.view.sections[key]
        name = id_of(key)
        head = draw("parts/head.html", id=f"{name}-head", section=section, **moment_of(story))
        return Drawn(name, head, {id_of(step.path): self._row(story, step) for step in section.in_order()})

    def _row(self, story: Story, step: StepView) -> str:
        """A step; drawn again only after an event of its own, or when the run ended under it."""
        live = step.standing is not Standing.RUNNING or story.state == "running"
        state = (*(event.seq if event is not None else 0 for event in _events_of(step)), int(live))
        known = self._rows.get(step.path)
        if known is None or known[0] != state:
            html = draw("parts/row.html", id=id_of(step.path), step=step, **moment_of(story))
            known = self._rows[step.path] = (state, html)
        return known[1]


def _events_of(step: StepView) -> tuple[Any, ...]:
    return (step.started, step.tried, step.asked, step.answered, step.fault, step.finished)


def drawn(html: str) -> Markup:
    """What our own templates have drawn, and escaped where it had to be."""
    return Markup(html)  # noqa: S704 - see above


def id_of(path: str) -> str:
    """The id of an element, from the path of a step or section."""
    return "at-" + _NO_ID.sub("-", path).strip("-")


def moment_of(story: Story) -> dict[str, Any]:
    """What clocks need to know."""
    return {"live": story.state == "running", "now": story.now}


def panel_values(story: Story) -> dict[str, Any]:
    """What the panels of any layout show."""
    view = story.view
    running = view.running() if story.state == "running" else []
    over = view.finished
    return {
        **moment_of(story),
        "run": story.folder.name,
        "view": view,
        "state": story.state,
        "running": running,
        "asked": [step for step in running if is_asked(step)],
        "approved": {step.path for step in running if needs_approver(step)},
        "inbox": has_inbox(view),
        "section": current_section(view),
        "following": following(view),
        "verdict": verdict(view, over) if over else ("", ""),
        "since": recovering_since(view),
        "light": light_of(over) if over else "",
        "tally": tally(view) if over else counted(step.standing for step in view.leaves()),
        "progress": progress(view),
        "undos": list(view.undos.values())[::-1],
        "charts": [(series, drawn(svg), latest(series)) for series, svg in story.course.charts()],
    }


def is_asked(step: StepView) -> bool:
    """Whether a step waits for a person."""
    return step.asked is not None and (step.answered is None or step.answered.seq < step.asked.seq)


def needs_approver(step: StepView) -> bool:
    """Whether only an approver may answer: somebody vouches for something, or lets something be destroyed."""
    return step.action == "manual.confirm" or not step.action.startswith("manual.")


def has_inbox(view: RunView) -> bool:
    """Whether the part of the run that goes on now can be answered from here."""
    begun = view.resumed[-1] if view.resumed else view.started
    return begun is not None and begun.inbox


def current_section(view: RunView) -> SectionView | None:
    """The section that is being done."""
    return next((each for each in reversed(view.sections.values()) if each.started and not each.finished), None)


def following(view: RunView) -> StepView | None:
    """The step that comes next in the section that is being done."""
    section = current_section(view)
    steps = section.leaves() if section else []
    return next((step for step in steps if step.standing is Standing.WAITING), None)


def recovering_since(view: RunView) -> float | None:
    """When the clock started that somebody waits for: while a fault is in place, or an RTO is promised."""
    promised = view.started is not None and view.started.rto is not None
    return view.recovering_since() if promised or view.pending_undos() else None


def progress(view: RunView) -> tuple[int, int]:
    """How many steps are done, of how many."""
    standings = view.standings()
    total = sum(standings.values())
    return total - standings[Standing.WAITING] - standings[Standing.RUNNING], total

"""The timeline: when each section and step ran, against its budget, with faults and recovery marked."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.evidence.html.charts import round_times
from k2run.evidence.html.element import NOTHING, Html, escape, tag
from k2run.evidence.html.summary import TONES
from k2run.evidence.verdict import TROUBLE
from k2run.evidence.wording import MARKS, against, span, standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.evidence.step_view import SectionView, StepView
    from k2run.evidence.view import RunView

DRAWN_IN_FULL = 60
"""Steps up to which every one gets its row."""
SHORT = 0.005
"""Share of the run below which a step of a long run gets no row."""
TICKS = 6
ROW = 18


class Scale(Struct, frozen=True, kw_only=True):
    """From seconds to per cent of the width.

    Attributes:
        whole: Seconds across the width.
        faults: When faults were injected, in seconds.
        recovered: When the recovery clock stopped, in seconds; None when it did not stop.
    """

    whole: float
    faults: tuple[float, ...] = ()
    recovered: float | None = None

    def at(self, seconds: float) -> str:
        """A place, as SVG wants it."""
        return f"{min(100.0, max(0.0, 100 * seconds / self.whole)):.3f}%"

    def wide(self, begin: float, seconds: float) -> str:
        """A width that stays inside the picture."""
        return f"{max(0.0, min(100.0 - 100 * begin / self.whole, 100 * seconds / self.whole)):.3f}%"


def timeline(view: RunView) -> Html:
    """The section of the page with the timeline."""
    whole = max(view.seconds, view.last.t if view.last is not None else 0.0)
    sections = [section for section in view.sections.values() if section.started is not None]
    if not sections or whole <= 0:
        return NOTHING
    scale = _scale(view, whole)
    shortest = 0.0 if sum(1 for _ in view.leaves()) <= DRAWN_IN_FULL else SHORT * whole
    begun = [(section, [step for step in section.leaves() if step.started is not None]) for section in sections]
    drawn = [(section, [step for step in steps if _is_drawn(step, shortest)]) for section, steps in begun]
    rows = [row for section, steps in drawn for row in _section_rows(section, steps, scale)]
    left_out = sum(len(steps) for _, steps in begun) - sum(len(steps) for _, steps in drawn)
    return tag(
        "section",
        tag("h2", "Timeline"),
        _key(scale),
        tag(
            "table",
            tag("caption", "When each section and step ran"),
            tag(
                "thead",
                tag(
                    "tr",
                    tag("th", "Section or step", scope="col"),
                    tag("th", _axis(scale), scope="col"),
                    tag("th", "Time", scope="col"),
                ),
            ),
            tag("tbody", *rows),
            class_="timeline",
        ),
        tag("p", f"Steps shorter than {span(SHORT * whole)} are not drawn: {left_out}.", class_="quiet")
        if left_out
        else None,
        id="timeline",
    )


def _scale(view: RunView, whole: float) -> Scale:
    faults = tuple(fault.began or fault.t for fault in view.faults)
    rto = next((clock for clock in view.clocks if clock.clock == "rto"), None)
    recovered = faults[0] + rto.seconds if faults and rto is not None and not rto.message else None
    return Scale(whole=whole, faults=faults, recovered=recovered)


def _is_drawn(step: StepView, shortest: float) -> bool:
    return step.finished is None or step.finished.seconds >= shortest or step.standing in TROUBLE


def _section_rows(section: SectionView, steps: Iterable[StepView], scale: Scale) -> Iterator[Html]:
    started, finished = section.started, section.finished
    if started is None:
        return
    tone = TONES.get(standing(finished.outcome), "quiet") if finished is not None else "warn"
    until = finished.t if finished is not None else scale.whole
    bars = _bars(scale, tone, started.t, until - started.t, section.within, inset=4)
    seconds = finished.seconds if finished is not None else scale.whole - started.t
    time = against(seconds, section.within, finished.objective if finished is not None else None)
    yield _row(section.name, bars, scale, time, "of-section")
    for step in steps:
        yield _step_row(step, scale)


def _step_row(step: StepView, scale: Scale) -> Html:
    began, finished = step.began or 0.0, step.finished
    seconds = finished.seconds if finished is not None else scale.whole - began
    bars = _bars(scale, TONES.get(step.standing, "quiet"), began, seconds, step.within, inset=6)
    time = against(seconds, step.within, finished.objective if finished is not None else None)
    return _row(f"{MARKS[step.standing]} {step.name}", bars, scale, time, "of-step")


def _row(name: str, bars: str, scale: Scale, time: str, kind: str) -> Html:
    """A row of the table; a page has hundreds of these, so they are not made tag by tag."""
    late = ' class="late"' if ">" in time else ""
    return Html(
        f'<tr class="{kind}"><th scope="row"><span>{escape(name)}</span></th>'
        f'<td><svg width="100%" height="{ROW}" aria-hidden="true">{_marks(scale)}{bars}</svg></td>'
        f"<td{late}>{escape(time)}</td></tr>"
    )


def _bars(scale: Scale, tone: str, begin: float, seconds: float, within: float | None, *, inset: int) -> str:  # noqa: PLR0913 - what a bar shows
    bar = _bar(f"bar {tone}", scale, begin, seconds, inset)
    return bar if within is None else _bar("budget", scale, begin, within, 2) + bar


def _bar(kind: str, scale: Scale, begin: float, seconds: float, inset: int) -> str:
    x, width = scale.at(begin), scale.wide(begin, seconds)
    return f'<rect class="{kind}" x="{x}" width="{width}" y="{inset}" height="{ROW - 2 * inset}"/>'


@lru_cache(1)
def _marks(scale: Scale) -> Html:
    """What is behind the bars, the same in every row."""

    def upright(kind: str, at: float) -> Html:
        return tag("line", class_=kind, x1=scale.at(at), x2=scale.at(at), y1=0, y2=ROW)

    marks = [upright("tick", at) for at in round_times(0, scale.whole, TICKS)]
    marks += [upright("fault", at) for at in scale.faults]
    marks += [upright("recovered", scale.recovered)] if scale.recovered is not None else []
    return Html("".join(marks))


def _axis(scale: Scale) -> Html:
    labels = [
        tag("text", span(at), x=scale.at(at), y=12, text_anchor="middle" if at else "start")
        for at in round_times(0, scale.whole, TICKS)
        if at <= scale.whole * 0.95
    ]
    return tag("svg", *labels, width="100%", height=ROW, role="img", aria_label=f"scale from 0 to {span(scale.whole)}")


def _key(scale: Scale) -> Html:
    """What the signs mean; only those that occur."""
    entries = ["outlined: budget"]
    if scale.faults:
        entries.append("dashed line: fault")
    if scale.recovered is not None:
        entries.append("solid line: recovered")
    return tag("p", "; ".join(entries), class_="quiet")

"""The timeline of a run's sections and steps; charts of what was sampled over time and of the latencies of loads."""

from __future__ import annotations

from functools import lru_cache
from math import log10
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.evidence.html import (
    MARGINS,
    NOTHING,
    Form,
    Frame,
    Html,
    Mark,
    axes,
    escape,
    line,
    marks_in,
    marks_of,
    over_time,
    picture,
    round_times,
    said_of,
    short,
    tag,
)
from k2run.evidence.overview import TONES, journal_link
from k2run.evidence.view import TROUBLE
from k2run.evidence.wording import MARKS, against, count, span, standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from k2run.evidence.measurements import Load, Series
    from k2run.evidence.step_view import SectionView, StepView
    from k2run.evidence.view import RunView

BINS = 36
LABEL_SHARE, FAR_SHARE = 0.14, 0.26
"""Share of a chart's width that a label needs."""
DRAWN_IN_FULL = 60
"""Steps up to which every one gets its row."""
SHORT = 0.005
"""Share of the run below which a step of a long run gets no row."""
TICKS = 6
ROW = 18


def measurements(view: RunView) -> Html:
    """The section of the report with all charts."""
    found = [each for each in view.measured.all() if each.moves]
    marks = marks_of(view)
    begin = min([each.points[0][0] for each in found] + [mark.at for mark in marks], default=0.0)
    end = max(
        [each.points[-1][0] for each in found] + [mark.at for mark in marks if mark.kind != "undone"], default=0.0
    )
    charts = [*(_figure(each, begin, end, marks) for each in found)]
    charts += [_load(each) for each in view.loads() if each.counts]
    if not charts:
        return NOTHING
    return tag("section", tag("h2", "Measurements"), tag("div", *charts, class_="charts"), id="measurements")


def _figure(series: Series, begin: float, end: float, marks: Sequence[Mark]) -> Html:
    first, last = series.lines
    words = tag(
        "figcaption",
        f"{said_of(series)}. Journal lines ",
        journal_link(first),
        " to ",
        journal_link(last),
        class_="quiet",
    )
    return tag("figure", tag("h3", series.title), over_time(series, marks, begin=begin, end=end), words)


def _load(load: Load) -> Html:
    missing = f" Not measured: {load.not_measured}." if load.not_measured else ""
    told = load.says()
    return tag(
        "figure",
        tag("h3", load.step),
        tag(
            "div",
            *load_pictures(load),
            class_="pair",
        ),
        tag(
            "figcaption",
            f"{count(load.answers, 'good answer')}: {told}.{missing} Errors and empty answers are not included. "
            "Journal line ",
            journal_link(load.line),
            class_="quiet",
        ),
        class_="load",
    )


def load_pictures(load: Load, *, far: int = 0) -> tuple[Html, Html]:
    """The pictures of a load: how many answers took how long, and the latency by percentile.

    Args:
        load: There are answers.
        far: How many such pictures share a screen that is read from afar, at most; 0 for a page.
    """
    told = load.says()
    return _histogram(load, f"Answers by latency: {told}", far=far), _curve(load, f"Latency by percentile: {told}")


def _histogram(load: Load, says: str, *, far: int = 0) -> Html:
    """Bars over a logarithmic scale of milliseconds."""
    low, high = log10(load.counts[0][0]), log10(load.counts[-1][0])
    wide = (high - low) / BINS or 0.1
    bins = [0] * BINS
    for value, number in load.counts:
        bins[min(BINS - 1, int((log10(value) - low) / wide))] += number
    width, height, margins = Form(far=far).frame if far else (420, 190, MARGINS)
    ends = (low, low + BINS * wide)
    frame = Frame(width=width, height=height, x_from=ends[0], x_to=ends[1], y_to=max(bins) * 1.1, margins=margins)
    bars = [
        tag(
            "rect",
            class_="count",
            x=frame.x(low + place * wide) + 0.5,
            width=max(0.5, frame.x(low + wide) - frame.x(low) - 1),
            y=frame.y(number),
            height=round(frame.y(0) - frame.y(number), 1),
        )
        for place, number in enumerate(bins)
        if number
    ]
    shown = {name: value for name, value in load.percentiles.items() if name in {"p50", "p99"}}
    marks = [Mark(at=log10(value), word="" if far else name, kind="percentile") for name, value in shown.items()]
    across = _milliseconds(*ends, FAR_SHARE if far else LABEL_SHARE)
    return picture(frame, says, axes(frame, across, short), *bars, *marks_in(frame, marks))


def _milliseconds(low: float, high: float, share: float) -> list[tuple[float, str]]:
    """Round latencies on a logarithmic scale; every 1, 2, 5 where there is room."""
    decades = range(int(low) - 1, int(high) + 2)
    fine = [(decade, digit) for decade in decades for digit in (1, 2, 5)]
    places = [(log10(digit) + decade, f"{digit * 10.0**decade:,g} ms") for decade, digit in fine]
    inside = [(at, label) for at, label in places if low <= at <= high]
    coarse = [(at, label) for at, label in inside if label.lstrip("0.").startswith("1")]
    chosen = coarse if len(inside) > 6 and len(coarse) > 1 else inside  # noqa: PLR2004 - labels that fit
    return _apart(chosen, (high - low) * share)


def _apart(labels: list[tuple[float, str]], least: float) -> list[tuple[float, str]]:
    """Labels that do not touch; of two that would, the first stays."""
    kept: list[tuple[float, str]] = []
    for at, label in labels:
        if not kept or at - kept[-1][0] >= least:
            kept.append((at, label))
    return kept


def _curve(load: Load, says: str) -> Html:
    """Latency against percentile, the tail stretched: each step across is a tenth of the answers left."""
    whole, seen = load.answers, 0
    points: list[tuple[float, float]] = []
    for value, number in load.counts:
        seen += number
        points.append((log10(whole / max(whole - seen, 0.5)), value))
    last = log10(whole)
    points = [point for point in points if point[0] <= last] or points
    frame = Frame(width=420, x_from=0, x_to=last or 1.0, y_to=load.counts[-1][0] * 1.08)
    nines = [(0.0, "0"), (log10(2), "p50"), (1.0, "p90"), (2.0, "p99"), (3.0, "p99.9"), (4.0, "p99.99")]
    across = [(at, label) for at, label in nines if at <= last]
    return picture(frame, says, axes(frame, across, lambda value: f"{short(value)} ms"), line(frame, points))


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

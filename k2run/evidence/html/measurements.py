"""The report's section of measurements: what was sampled over time, and the latencies of each load."""

from __future__ import annotations

from math import log10
from typing import TYPE_CHECKING

from k2run.evidence.html.charts import (
    MARGINS,
    Form,
    Frame,
    Mark,
    axes,
    line,
    marks_in,
    marks_of,
    over_time,
    picture,
    said_of,
    short,
)
from k2run.evidence.html.element import NOTHING, Html, journal_link, tag
from k2run.evidence.wording import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.evidence.measurements import Load, Series
    from k2run.evidence.view import RunView

BINS = 36
LABEL_SHARE, FAR_SHARE = 0.14, 0.26
"""Share of a chart's width that a label needs."""


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


def load_pictures(load: Load, *, far: bool = False) -> tuple[Html, Html]:
    """The pictures of a load: how many answers took how long, and the latency by percentile.

    Args:
        load: There are answers.
        far: Read from afar: the style sheet gives it large letters, and they need more room.
    """
    told = load.says()
    return _histogram(load, f"Answers by latency: {told}", far=far), _curve(load, f"Latency by percentile: {told}")


def _histogram(load: Load, says: str, *, far: bool = False) -> Html:
    """Bars over a logarithmic scale of milliseconds."""
    low, high = log10(load.counts[0][0]), log10(load.counts[-1][0])
    wide = (high - low) / BINS or 0.1
    bins = [0] * BINS
    for value, number in load.counts:
        bins[min(BINS - 1, int((log10(value) - low) / wide))] += number
    width, height, margins = Form(width=420, far=True).frame if far else (420, 190, MARGINS)
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

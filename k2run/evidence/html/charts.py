"""Charts of what was measured again and again: a lag, a level, the latencies of a load."""

from __future__ import annotations

import re
from math import log10
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from k2run.evidence.html.element import NOTHING, Html, journal_link, tag
from k2run.evidence.html.plot import Frame, axes, line, mark, picture, round_steps
from k2run.evidence.loads import Load, loads
from k2run.evidence.wording import clean, count, span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.evidence.view import RunView, StepView

LEAST_POINTS = 4
"""Measures below which a line would say no more than the table."""
MOST_POINTS = 400
LEVELS = 10
"""Different whole values up to which a series is drawn as stairs."""
BINS = 36
LABEL_SHARE = 0.14
"""Of the width of a chart of latencies, that a label needs."""
_FIELD = re.compile(r"\bresult\.([a-z_]\w*)")


class Series(Struct, kw_only=True):
    """One figure, measured again and again by one step or by several that ask the same.

    Attributes:
        points: Seconds into the run, and the value.
        lines: The journal lines of the first and the last of them.
    """

    title: str
    points: list[tuple[float, float]]
    lines: tuple[int, int]


def measurements(view: RunView) -> Html:
    """The section of the page with all charts."""
    charts = [*_over_time(view), *(_load(each) for each in loads(view) if each.counts)]
    if not charts:
        return NOTHING
    return tag("section", tag("h2", "Measurements"), tag("div", *charts, class_="charts"), id="measurements")


# --- series -----------------------------------------------------------------------------------------------------------


def _over_time(view: RunView) -> Iterator[Html]:
    found = list(series(view))
    if not found:
        return
    begins = min(each.points[0][0] for each in found)
    ends = max(each.points[-1][0] for each in found)
    marks = [(fault.began or fault.t, "fault", "fault") for fault in view.faults]
    rto = next((clock for clock in view.clocks if clock.clock == "rto" and not clock.message), None)
    if rto is not None and view.faults:
        marks.append((marks[0][0] + rto.seconds, "recovered", "recovered"))
    marks += [(undo.finished.t, undo.planned.says, "undone") for undo in view.undos.values() if undo.finished]
    begins = min([begins, *(at for at, _, _ in marks)])
    ends = max([ends, *(at for at, _, kind in marks if kind != "undone")])
    for each in found:
        yield _series_chart(each, begins, ends, marks)


def series(view: RunView) -> Iterator[Series]:
    """What was measured often enough to draw, in the order of the run."""
    grouped: dict[str, Series] = {}
    for step in view.leaves():
        field = _watched(step)
        if field is None or step.started is None:
            continue
        points = [(seq, t, value) for seq, t, result in _results(step) if (value := _number(result, field)) is not None]
        if not points:
            continue
        key = f"{step.action} {field} {msgspec.json.encode(step.started.args, enc_hook=str).decode()}"
        new = Series(
            title=_title(step, field), points=[(t, v) for _, t, v in points], lines=(points[0][0], points[-1][0])
        )
        known = grouped.setdefault(key, new)
        if known is not new:
            known.points += new.points
            known.lines = (known.lines[0], new.lines[1])
    for each in grouped.values():
        each.points.sort()
        if len(each.points) >= LEAST_POINTS and len({value for _, value in each.points}) > 1:
            yield each


def _watched(step: StepView) -> str | None:
    """The field of the result that the step's expectation looks at, where it is a number."""
    finished = step.finished
    if finished is None:
        return None
    fields: list[str] = _FIELD.findall(finished.expected)
    return next((field for field in fields if _number(finished.result, field) is not None), None)


def _results(step: StepView) -> Iterator[tuple[int, float, Any]]:
    for tried in step.tries:
        yield tried.seq, tried.t, tried.result
    if step.finished is not None:
        yield step.finished.seq, step.finished.t, step.finished.result


def _number(result: Any, field: str) -> float | None:
    value = result.get(field) if isinstance(result, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _title(step: StepView, field: str) -> str:
    args = step.started.args if step.started is not None else {}
    named = args.get("metric")
    about = [str(args[name]) for name in ("service", "topic", "table") if args.get(name)]
    return clean(f"{named or f'{step.action} {field}'}{', ' if about else ''}{', '.join(about)}")


def _series_chart(each: Series, begins: float, ends: float, marks: Sequence[tuple[float, str, str]]) -> Html:
    thinned = each.points[:: len(each.points) // MOST_POINTS + 1]
    points = thinned if thinned[-1] == each.points[-1] else [*thinned, each.points[-1]]
    values = [value for _, value in each.points]
    frame = Frame(width=720, height=190, x_from=begins, x_to=ends, y_to=max(values) * 1.08)
    stairs = len(set(values)) <= LEVELS and all(value == int(value) for value in values)
    drawn = [mark(frame, at, word, kind) for at, word, kind in marks if begins <= at <= ends]
    across = [(begins + at, f"+{span(at)}") for at in round_steps(ends - begins)]
    says = (
        f"{each.title}: {_short(values[0])} at first, {_short(max(values))} at most, {_short(values[-1])} at last; "
        f"{count(len(values), 'measure')}, the seconds count from {span(begins)} into the run"
    )
    chart = picture(frame, says, axes(frame, across, _short), *drawn, line(frame, points, stairs=stairs))
    first, last = each.lines
    words = tag(
        "figcaption", f"{says}. Journal lines ", journal_link(first), " to ", journal_link(last), class_="quiet"
    )
    return tag("figure", tag("h3", each.title), chart, words)


def _short(value: float) -> str:
    if abs(value) >= 10_000:  # noqa: PLR2004 - from here on thousands read better
        return f"{value / 1000:,.0f}k" if abs(value) < 1_000_000 else f"{value / 1_000_000:,.3g}M"  # noqa: PLR2004 - see above
    return f"{value:,.4g}"


# --- loads ------------------------------------------------------------------------------------------------------------


def _load(load: Load) -> Html:
    missing = f" Not measured: {load.not_measured}." if load.not_measured else ""
    told = load.says()
    return tag(
        "figure",
        tag("h3", load.step),
        tag(
            "div",
            _histogram(load, f"How many answers took how long: {told}"),
            _curve(load, f"Latency by percentile: {told}"),
            class_="pair",
        ),
        tag(
            "figcaption",
            f"{count(load.answers, 'good answer')}: {told}.{missing} Errors and empty answers are apart. Journal line ",
            journal_link(load.line),
            class_="quiet",
        ),
        class_="load",
    )


def _histogram(load: Load, says: str) -> Html:
    """Bars over a logarithmic scale of milliseconds."""
    low, high = log10(load.counts[0][0]), log10(load.counts[-1][0])
    wide = (high - low) / BINS or 0.1
    bins = [0] * BINS
    for value, number in load.counts:
        bins[min(BINS - 1, int((log10(value) - low) / wide))] += number
    frame = Frame(width=420, height=190, x_from=low, x_to=low + BINS * wide, y_to=max(bins) * 1.1)
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
    marks = [mark(frame, log10(value), name, "percentile") for name, value in shown.items()]
    return picture(frame, says, axes(frame, _milliseconds(low, low + BINS * wide), _short), *bars, *marks)


def _milliseconds(low: float, high: float) -> list[tuple[float, str]]:
    """Round latencies on a logarithmic scale; every 1, 2, 5 where there is room."""
    decades = range(int(low) - 1, int(high) + 2)
    fine = [(decade, digit) for decade in decades for digit in (1, 2, 5)]
    places = [(log10(digit) + decade, f"{digit * 10.0**decade:,g} ms") for decade, digit in fine]
    inside = [(at, label) for at, label in places if low <= at <= high]
    coarse = [(at, label) for at, label in inside if label.lstrip("0.").startswith("1")]
    chosen = coarse if len(inside) > 6 and len(coarse) > 1 else inside  # noqa: PLR2004 - labels that fit
    return _apart(chosen, (high - low) * LABEL_SHARE)


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
    frame = Frame(width=420, height=190, x_from=0, x_to=last or 1.0, y_to=load.counts[-1][0] * 1.08)
    nines = [(0.0, "0"), (log10(2), "p50"), (1.0, "p90"), (2.0, "p99"), (3.0, "p99.9"), (4.0, "p99.99")]
    across = [(at, label) for at, label in nines if at <= last]
    return picture(frame, says, axes(frame, across, lambda value: f"{_short(value)} ms"), line(frame, points))

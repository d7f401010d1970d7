"""HTML elements as text, escaped where they are none yet; charts as SVG: values over time, latencies, figures.

Long because reports and pages share all that they are drawn with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence  # noqa: TC003 - msgspec reads the types of fields
from functools import cache
from math import floor, inf, log10
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.evidence.wording import count, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.evidence.measurements import Series
    from k2run.evidence.view import RunView

_ENTITIES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))
# Control characters have no place in XML, and surrogates none in UTF-8.
_NO_TEXT = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff"
_UNWANTED = re.compile(f"[{_NO_TEXT}]")
_TO_ESCAPE = re.compile(f"[&<>{_NO_TEXT}]")
_TO_QUOTE = re.compile(f'[&<>"{_NO_TEXT}]')
_VOID = frozenset({"br", "col", "line", "meta", "path", "rect"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | None
NOTHING = Html()


def escape(text: str) -> Html:
    """The text as it may stand in an element of HTML or XML."""
    if isinstance(text, Html):
        return text
    if _TO_ESCAPE.search(text) is None:
        return Html(text)
    for char, entity in _ENTITIES:
        if char in text:
            text = text.replace(char, entity)
    return Html(text if text.isprintable() else _UNWANTED.sub("\N{REPLACEMENT CHARACTER}", text))


def quoted(text: str) -> str:
    """The text as the value of an attribute, with its quotes."""
    if _TO_QUOTE.search(text) is None:
        return f'"{text}"'
    return f'"{escape(text).replace(chr(34), "&quot;")}"'


def join(children: Iterable[Child]) -> Html:
    """Elements and texts, one after the other."""
    return Html("".join([child if type(child) is Html else escape(child) for child in children if child]))


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Html:
    """An element.

    Args:
        name: Its tag.
        children: Elements, and text that will be escaped; None is left out.
        attributes: `class_` for class, `data_label` for data-label; None is left out.
    """
    if not attributes and name not in _VOID:
        return Html(f"<{name}>{join(children)}</{name}>")
    written = "".join([f" {_key(key)}={quoted(str(value))}" for key, value in attributes.items() if value is not None])
    if name in _VOID:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


@cache
def _key(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Html], *, foot: Html = NOTHING, class_: str = "cards"
) -> Html:
    """A table that stays one for a screen reader, even where a narrow page shows its rows as cards.

    Args:
        caption: What it shows; read aloud, and not drawn where a heading says the same.
        heads: Column heads; an empty one has no text.
        rows: Made by `row`.
        foot: A last row, made by `row`.
        class_: For the style sheet.
    """
    head = tag("tr", *(_head(text) for text in heads), role="row")
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", head, role="rowgroup"),
        tag("tbody", *rows, role="rowgroup"),
        tag("tfoot", foot, role="rowgroup") if foot else None,
        role="table",
        class_=class_ or None,
    )


def _head(text: str) -> Html:
    return tag("th", text, scope="col", role="columnheader", class_=f"c-{text.lower()}" if text else "c-bar")


def row(heads: Sequence[str], cells: Sequence[Child], *, number_of_head: int = 0, **attributes: str | None) -> Html:
    """A row of a table.

    Args:
        heads: The column heads; each cell repeats its own on a narrow page.
        cells: One for each column.
        number_of_head: Which of them names the row.
        attributes: Of the row itself.
    """
    made = [
        frame % (cell if type(cell) is Html else escape(cell or ""))
        for frame, cell in zip(_frames(tuple(heads), number_of_head), cells, strict=True)
    ]
    return tag("tr", Html("".join(made)), role="row", **attributes)


@cache
def _frames(heads: tuple[str, ...], number_of_head: int) -> list[str]:
    """Begin and end of the cells of a row, with a place for what they hold; there are many rows of a kind."""
    return [_frame(label, is_head=number == number_of_head) for number, label in enumerate(heads)]


def _frame(label: str, *, is_head: bool) -> str:
    kind, end = ('th scope="row" role="rowheader"', "th") if is_head else ('td role="cell"', "td")
    named = f" data-label={quoted(label)}" if label else ""
    return f"<{kind}{named}>".replace("%", "%%") + f"%s</{end}>"


MOST_POINTS = 400
TICKS = 4
MARGINS = (62, 14, 18, 22)
LEVEL_MARGIN, FAR_LEVEL_MARGIN, FAR_MARGIN = 120, 176, 70
"""Left margin of a chart that has the names of levels beside it, or large letters."""
LETTER, FAR_LETTER = 6.5, 10.5  # widths of a letter, on average; and of a large one
FAR_SIZES = {1: (860, 350), 2: (860, 158), 4: (420, 158), 6: (420, 132)}
"""Width and height of a picture read from afar, where at most so many share the screen."""
_ROUND_SECONDS = tuple(
    size * unit
    for unit, sizes in ((0.01, (1, 2, 5, 10, 20, 50)), (1, (1, 2, 5, 10, 15, 30)), (60, (1, 2, 5, 10, 15, 30)))
    for size in sizes
) + tuple(3600 * hours for hours in (1, 2, 4, 12, 24))


class Frame(Struct, frozen=True, kw_only=True):
    """From values to places in a picture, in its own units.

    Attributes:
        margins: Left, right, top and bottom; `letter` is the width of one.
    """

    width: int = 720
    height: int = 190
    letter: float = LETTER
    x_from: float
    x_to: float
    y_from: float = 0.0
    y_to: float
    margins: tuple[int, int, int, int] = MARGINS

    @property
    def left(self) -> int:
        """Where the values begin."""
        return self.margins[0]

    @property
    def right(self) -> int:
        """Where the values end."""
        return self.width - self.margins[1]

    @property
    def bottom(self) -> int:
        """The lower edge."""
        return self.height - self.margins[3]

    def x(self, value: float) -> float:
        """The place of a value across."""
        return round(self.left + (self.right - self.left) * (value - self.x_from) / ((self.x_to - self.x_from) or 1), 1)

    def y(self, value: float) -> float:
        """The place of a value upwards."""
        high = self.bottom - self.margins[2]
        return round(self.bottom - high * (value - self.y_from) / ((self.y_to - self.y_from) or 1), 1)


class Form(Struct, frozen=True, kw_only=True):
    """How the chart of a series is drawn.

    Attributes:
        width: Of the picture; a narrow one is lower, too.
        labels: How a time is written below.
        levels: The names of the values 0, 1, 2, … of a level; all of them stand beside the chart.
        gap: Seconds without a measurement after which the line is interrupted.
        far: How many such pictures share a screen that is read from afar, at most, with large letters; 0 for a page.
    """

    width: int = 720
    far: int = 0
    labels: Callable[[float], str] = span
    levels: Sequence[str] = ()
    gap: float = inf

    @property
    def frame(self) -> tuple[int, int, tuple[int, int, int, int]]:
        """Width, height and margins."""
        if self.far:
            size = FAR_SIZES[next((most for most in FAR_SIZES if self.far <= most), max(FAR_SIZES))]
            return *size, (FAR_LEVEL_MARGIN if self.levels else FAR_MARGIN, 16, 22, 27)
        margins = (LEVEL_MARGIN, *MARGINS[1:]) if self.levels else MARGINS
        return self.width, 190 if self.width > 600 else 150, margins  # noqa: PLR2004 - of a whole page

    def value(self, value: float) -> str:
        """How a value is written beside the chart."""
        if not self.levels:
            return short(value)
        return self.levels[int(value)] if value in range(len(self.levels)) else ""


class Mark(Struct, frozen=True, kw_only=True):
    """Something that happened during a chart.

    Attributes:
        kind: `fault`, `undone` or `recovered`; its class in the style sheet.
    """

    at: float
    word: str
    kind: str


ON_A_PAGE = Form()
# --- a value over time ------------------------------------------------------------------------------------------------


def marks_of(view: RunView) -> list[Mark]:
    """The faults of a run, their undos, and the recovery."""
    marks = [Mark(at=fault.began or fault.t, word="fault", kind="fault") for fault in view.faults]
    rto = next((clock for clock in view.clocks if clock.clock == "rto" and not clock.message), None)
    if rto is not None and marks:
        marks.append(Mark(at=marks[0].at + rto.seconds, word="recovered", kind="recovered"))
    undone = (undo for undo in view.undos.values() if undo.finished)
    return marks + [Mark(at=undo.finished.t, word=undo.planned.says, kind="undone") for undo in undone if undo.finished]


def said_of(series: Series) -> str:
    """A series in a sentence: where it began, how high it went, where it ended."""
    first, most, last = (short(value) for value in (series.points[0][1], series.most, series.latest))
    return f"First {first}, highest {most}, last {last}; {count(series.count, 'measurement')}"


def over_time(
    series: Series,
    marks: Sequence[Mark],
    *,
    form: Form = ON_A_PAGE,
    begin: float | None = None,
    end: float | None = None,
) -> Html:
    """The chart of a series.

    Args:
        series: What to draw.
        marks: What happened meanwhile.
        form: How.
        begin: Seconds into the run at which it begins; None for the first measurement.
        end: Seconds into the run at which it ends; None for the last measurement.
    """
    thinned = series.points[:: len(series.points) // MOST_POINTS + 1]
    points = thinned if thinned[-1] == series.points[-1] else [*thinned, series.points[-1]]
    width, height, margins = form.frame
    frame = Frame(
        width=width,
        height=height,
        x_from=points[0][0] if begin is None else begin,
        x_to=points[-1][0] if end is None else end,
        y_from=1.08 * min(0.0, *(value for _, value in points)),
        y_to=1.08 * max(0.0, series.most, len(form.levels) - 1.0),
        margins=margins,
        letter=FAR_LETTER if form.far else LETTER,
    )
    across = [(at, form.labels(at)) for at in round_times(frame.x_from, frame.x_to, max(2, width // 140))]
    last_x, last_y = points[-1]
    return picture(
        frame,
        f"{series.title}: {said_of(series)}",
        axes(frame, across, form.value, range(len(form.levels))),
        *marks_in(frame, marks),
        line(frame, points, stairs=series.stairs or bool(form.levels), gap=form.gap),
        tag("circle", class_="latest", cx=frame.x(last_x), cy=frame.y(last_y), r=3.5),
    )


def from_run_to_run(metric: str, values: Sequence[float]) -> Html:
    """A small chart of one figure over runs, without axes."""
    frame = Frame(
        width=240,
        height=48,
        x_from=0,
        x_to=len(values) - 1,
        y_from=min(values),
        y_to=max(values),
        margins=(4, 4, 4, 4),
    )
    last = tag("circle", class_="latest", cx=frame.x(len(values) - 1), cy=frame.y(values[-1]), r=3.5)
    return picture(frame, f"{metric} over {count(len(values), 'run')}", line(frame, enumerate(values)), last)


def short(value: float) -> str:
    """A figure that fits beside an axis: `12.5`, `600k`, `1.5M`."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:,.4g}{letter}"
    return f"{value:,.4g}"


# --- what charts are made of ------------------------------------------------------------------------------------------


def picture(frame: Frame, says: str, *parts: Html) -> Html:
    """A whole chart; `says` describes it to those who do not see it."""
    return tag("svg", *parts, viewBox=f"0 0 {frame.width} {frame.height}", role="img", aria_label=says, class_="chart")


def axes(
    frame: Frame, across: Sequence[tuple[float, str]], written: Callable[[float], str], up: Sequence[float] = ()
) -> Html:
    """Lines and labels: those across as given, those upwards as given too, or at round figures."""
    zero = frame.y(0)
    axis = tag("line", class_="axis", x1=frame.left, x2=frame.right, y1=zero, y2=zero)
    return join((*_upwards(frame, written, up), *_below(frame, across), axis))


def _below(frame: Frame, across: Iterable[tuple[float, str]]) -> Iterator[Html]:
    """The labels of the axis across, inside the picture, without those that would touch the one before."""
    free = 0.0
    for at, label in across:
        half = frame.letter * len(label) / 2
        middle = min(frame.x(at), frame.width - half)
        if middle - half >= free:
            yield tag("text", label, x=round(middle, 1), y=frame.height - 6, text_anchor="middle")
            free = middle + half + frame.letter


def _upwards(frame: Frame, written: Callable[[float], str], up: Sequence[float]) -> Iterator[Html]:
    steps = up or round_steps(max(frame.y_to, -frame.y_from))
    for value in (*(-step for step in steps[:0:-1]), *steps):
        if frame.y_from <= value <= frame.y_to:
            at = frame.y(value)
            yield tag("line", class_="tick", x1=frame.left, x2=frame.right, y1=at, y2=at)
            yield tag("text", written(value), x=frame.left - 6, y=at + 4, text_anchor="end")


def marks_in(frame: Frame, marks: Iterable[Mark]) -> Iterator[Html]:
    """A line from top to bottom for each mark, with its word where that does not cover the one before it."""
    free = 0.0
    for mark in sorted(marks, key=lambda mark: mark.at):
        if not frame.x_from <= mark.at <= frame.x_to:
            continue
        x = frame.x(mark.at)
        yield tag("line", class_=mark.kind, x1=x, x2=x, y1=frame.margins[2] - 4, y2=frame.bottom)
        wide = frame.letter * len(mark.word)
        begin = x - 4 - wide if x + 4 + wide > frame.width else x + 4
        if mark.word and begin >= free:
            yield tag("text", mark.word, x=round(begin, 1), y=frame.margins[2] - 6)
            free = begin + wide


def line(frame: Frame, points: Iterable[tuple[float, float]], *, stairs: bool = False, gap: float = inf) -> Html:
    """A line through points; as stairs where a value holds until the next one, interrupted by a gap."""
    way: list[str] = []
    before = -inf
    for at, value in points:
        x, y = frame.x(at), frame.y(value)
        way.append(f"M{x} {y}" if not way or at - before > gap else f"H{x}V{y}" if stairs else f"L{x} {y}")
        before = at
    return tag("path", d="".join(way), class_="curve")


def round_steps(most: float) -> list[float]:
    """Round figures from 0 up to the most, a few of them."""
    if most <= 0:
        return [0.0]
    size = 10 ** floor(log10(most / TICKS))
    step = next(size * nice for nice in (1, 2, 5, 10) if most / (size * nice) <= TICKS)
    return [number * step for number in range(int(most / step + 1e-9) + 1)]


def round_times(begin: float, end: float, most: int) -> list[float]:
    """Round times from one second of a run to another, at most so many and one more."""
    step = next((step for step in _ROUND_SECONDS if (end - begin) / step <= most), (end - begin) / most or 1.0)
    first = -int(-begin // step)
    return [number * step for number in range(first, int(end / step + 1e-9) + 1)]

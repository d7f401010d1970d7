"""The frame of a chart: where values lie in a picture, axes with round figures, marks of faults and recovery."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.evidence.html.element import Html, join, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

LEFT, RIGHT, TOP, BOTTOM = 62, 14, 18, 22
TICKS = 4


class Frame(Struct, frozen=True, kw_only=True):
    """From values to places in a picture, in its own units."""

    width: int
    height: int
    x_from: float
    x_to: float
    y_to: float

    def x(self, value: float) -> float:
        """The place of a value across."""
        whole = (self.x_to - self.x_from) or 1.0
        return round(LEFT + (self.width - LEFT - RIGHT) * (value - self.x_from) / whole, 1)

    def y(self, value: float) -> float:
        """The place of a value upwards; the axis begins at 0."""
        high = self.height - TOP - BOTTOM
        return round(self.height - BOTTOM - high * value / (self.y_to or 1.0), 1)


def picture(frame: Frame, says: str, *parts: Html) -> Html:
    """The chart as a whole.

    Args:
        frame: Its measures.
        says: What it shows, for those who do not see it.
        parts: What is drawn, in order.
    """
    return tag("svg", *parts, viewBox=f"0 0 {frame.width} {frame.height}", role="img", aria_label=says, class_="chart")


def axes(frame: Frame, across: Sequence[tuple[float, str]], written: Callable[[float], str]) -> Html:
    """Lines and labels: `across` says which, upwards they are round figures."""
    floor_y = frame.y(0)
    return join(
        (
            *_upwards(frame, written),
            *(
                tag("text", label, x=frame.x(at), y=frame.height - 6, text_anchor=_anchor(frame, at))
                for at, label in across
            ),
            tag("line", class_="axis", x1=LEFT, x2=frame.width - RIGHT, y1=floor_y, y2=floor_y),
        )
    )


def _anchor(frame: Frame, at: float) -> str:
    """The label at the very end of the axis stays inside of the picture."""
    return "end" if frame.x(at) > frame.width - RIGHT - 16 else "middle"


def _upwards(frame: Frame, written: Callable[[float], str]) -> Iterator[Html]:
    for value in round_steps(frame.y_to):
        at = frame.y(value)
        yield tag("line", class_="tick", x1=LEFT, x2=frame.width - RIGHT, y1=at, y2=at)
        yield tag("text", written(value), x=LEFT - 6, y=at + 4, text_anchor="end")


def mark(frame: Frame, at: float, word: str, kind: str) -> Html:
    """A line from top to bottom with a word at its top."""
    place = frame.x(at)
    before = place > frame.width * 0.8
    return join(
        (
            tag("line", class_=kind, x1=place, x2=place, y1=TOP - 4, y2=frame.height - BOTTOM),
            tag(
                "text", word, x=place - 4 if before else place + 4, y=TOP - 6, text_anchor="end" if before else "start"
            ),
        )
    )


def line(frame: Frame, points: Iterable[tuple[float, float]], *, stairs: bool = False) -> Html:
    """A line through points; as stairs where a value holds until the next one."""
    way: list[str] = []
    for at, value in points:
        x, y = frame.x(at), frame.y(value)
        way.append(f"M{x} {y}" if not way else f"H{x}V{y}" if stairs else f"L{x} {y}")
    return tag("path", d="".join(way), class_="curve")


def round_steps(most: float) -> list[float]:
    """Round figures from 0 up to the most, a few of them."""
    if most <= 0:
        return [0.0]
    size = 10 ** floor(log10(most / TICKS))
    step = next(size * nice for nice in (1, 2, 5, 10) if most / (size * nice) <= TICKS)
    return [number * step for number in range(int(most / step + 1e-9) + 1)]

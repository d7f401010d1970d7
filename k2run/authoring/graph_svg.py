"""A flow as an SVG picture: lanes from top to bottom, their steps in rows, undos and clocks at the right."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from textwrap import shorten, wrap
from typing import TYPE_CHECKING

from k2run.authoring.graph_flow import Box, BoxKind, Flow, Lane

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 960
_MARGIN = 24
_BOX = (280, 66)
"""Width and height of a step, in pixels."""
_GAP = (22, 26)
_COLUMNS = 3
_HEAD = 34
"""Height of a lane's title."""
_LETTER = 6.6
"""Width of a letter of a title, on average."""
_COLOURS = {
    BoxKind.CHECK: ("#e6f4ea", "#1e6b34"),
    BoxKind.CHANGE: ("#fff1d6", "#9a6700"),
    BoxKind.FAULT: ("#fde2e1", "#b3261e"),
    BoxKind.PERSON: ("#e6e0f8", "#5b4a9e"),
    BoxKind.WAIT: ("#eeeeee", "#777777"),
    BoxKind.GROUP: ("#e3eefb", "#1d5a9c"),
}
_CSS = """
text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #222; }
.title { font-size: 20px; font-weight: 600; } .lane { font-size: 14px; font-weight: 600; }
.name { font-size: 12px; font-weight: 600; } .small { font-size: 10.5px; fill: #555; }
.clock { font-size: 12px; fill: #1d5a9c; font-weight: 600; } .undo { fill: #b3261e; font-size: 10.5px; }
""".strip()


def svg(flow: Flow) -> str:
    """The picture as a text."""
    top = _MARGIN + 58
    parts: list[str] = []
    bottoms: list[tuple[int, int]] = []
    for lane in flow.lanes:
        height = _lane_height(lane)
        parts += _lane(lane, top, height)
        bottoms.append((top, top + height))
        top += height + _GAP[1]
    arrows = [_arrow(WIDTH // 2, one[1], WIDTH // 2, other[0]) for one, other in pairwise(bottoms)]
    legend = _legend(top)
    height = top + 34
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    said = f'role="img" aria-label="{escape(flow.title)}">'
    marker = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    defs = f'<defs>{marker}<path d="M0 0 8 4 0 8z" fill="#666"/></marker></defs><style>{_CSS}</style>'
    background = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    return "\n".join([f"{head} {said}", defs, background, *_title(flow), *parts, *arrows, *legend, "</svg>\n"])


def _title(flow: Flow) -> Iterator[str]:
    yield _text(_MARGIN, _MARGIN + 16, flow.title, "title", 80)
    yield _text(_MARGIN, _MARGIN + 38, " · ".join([flow.kind, *flow.promises]), "small", 150)


def _lane_height(lane: Lane) -> int:
    rows = -(-len(lane.boxes) // _COLUMNS)
    return _HEAD + rows * (_BOX[1] + _GAP[1]) - _LESS_BELOW


_LESS_BELOW = 8
"""How much less than a gap stands below the last row."""


def _lane(lane: Lane, top: int, height: int) -> Iterator[str]:
    frame = f'x="{_MARGIN}" y="{top}" width="{WIDTH - 2 * _MARGIN}" height="{height}" rx="8"'
    edge = "#1d5a9c" if lane.clock else "#d0d0d0"
    yield f'<rect {frame} fill="#fafafa" stroke="{edge}"/>'
    yield _text(_MARGIN + 14, top + 22, lane.title, "lane", 60)
    marks = " · ".join(lane.marks)
    clock = f"clock {lane.clock}" if lane.clock else ""
    if marks:
        yield _text(WIDTH - _MARGIN - 14, top + 22, marks, "small", 70, anchor="end", lead=120 if clock else 0)
    if clock:
        yield _text(WIDTH - _MARGIN - 14, top + 22, clock, "clock", 24, anchor="end")
    corners = [_corner(index, top) for index in range(len(lane.boxes))]
    for box, (x, y) in zip(lane.boxes, corners, strict=True):
        yield from _box(box, x, y)
    if not lane.at_once:
        yield from (_between(one, other) for one, other in pairwise(corners))


def _corner(index: int, top: int) -> tuple[int, int]:
    row, column = divmod(index, _COLUMNS)
    return _MARGIN + 14 + column * (_BOX[0] + _GAP[0]), top + _HEAD + row * (_BOX[1] + _GAP[1])


def _between(one: tuple[int, int], other: tuple[int, int]) -> str:
    """An arrow to the next box: to the right, or round to the row below."""
    (x, y), (next_x, next_y) = one, other
    if y == next_y:
        return _arrow(x + _BOX[0], y + _BOX[1] // 2, next_x, y + _BOX[1] // 2)
    middle = y + _BOX[1] + 9
    start, end = x + _BOX[0] // 2, next_x + _BOX[0] // 2
    way = f"M{start} {y + _BOX[1]}V{middle}H{end}V{next_y}"
    return f'<path d="{way}" fill="none" stroke="#666" marker-end="url(#tip)"/>'


def _arrow(x: int, y: int, end_x: int, end_y: int) -> str:
    return f'<path d="M{x} {y}L{end_x} {end_y}" stroke="#666" fill="none" marker-end="url(#tip)"/>'


def _box(box: Box, x: int, y: int) -> Iterator[str]:
    fill, edge = _COLOURS[box.kind]
    dash = ' stroke-dasharray="5 3"' if box.kind is BoxKind.GROUP else ""
    weight = 2 if box.kind is BoxKind.FAULT else 1
    yield f"<g><title>{escape(' · '.join([box.title, box.action, *box.marks]))}</title>"
    frame = f'x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="6"'
    yield f'<rect {frame} fill="{fill}" stroke="{edge}" stroke-width="{weight}"{dash}/>'
    lines = wrap(box.title, 38, max_lines=2, placeholder=" …") or [box.action]
    yield from (_text(x + 10, y + 18 + 14 * row, line, "name", 40) for row, line in enumerate(lines))
    yield _text(x + 10, y + 46, " · ".join([box.action, *box.marks]), "small", 50)
    if box.undo:
        yield _text(x + 10, y + 60, f"↶ undone by {box.undo}", "undo", 46)
    yield "</g>"


def _legend(top: int) -> Iterator[str]:
    x = _MARGIN
    for kind, (fill, edge) in _COLOURS.items():
        yield f'<rect x="{x}" y="{top}" width="14" height="14" rx="3" fill="{fill}" stroke="{edge}"/>'
        yield _text(x + 20, top + 11, kind.value, "small", 20)
        x += int(40 + _LETTER * len(kind.value))


def _text(  # noqa: PLR0913 - where, what and how
    x: int, y: int, text: str, kind: str, most: int, *, anchor: str = "start", lead: int = 0
) -> str:
    """One line of text.

    Args:
        x: Where it begins; with the anchor `end`, where it ends.
        y: Its base line.
        text: What it says.
        kind: Its class in the style sheet.
        most: Characters that fit.
        anchor: `start` or `end`.
        lead: Pixels that stay free to the right of it.
    """
    shown = escape(shorten(text, most, placeholder=" …") or text[:most])
    at = f'x="{x - lead}" y="{y}" class="{kind}"' + (f' text-anchor="{anchor}"' if anchor != "start" else "")
    return f"<text {at}>{shown}</text>"

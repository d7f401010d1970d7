"""Draw a runbook, as Mermaid text or as SVG."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape
from itertools import pairwise
from pathlib import Path
from textwrap import shorten, wrap
from typing import TYPE_CHECKING

from k2run.actions.action import Effect
from k2run.actions.catalogue import Catalogue
from k2run.app.launch import find_runbook
from k2run.errors import UsageError
from k2run.language.loader import load_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.language.model import Runbook, Section, Step
    from k2run.language.quantities import Duration


PICTURE, TEXTS = ".svg", (".mmd", ".md", ".txt")
_ESCAPES = {"&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "`": "#96;", "\n": " "}
UNDOS = {"service.kill": "service.start", "service.stop": "service.start", "service.pause": "service.resume"}
"""What the undo of a fault is called, where its name says it; others undo themselves."""
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
_CSS = """
text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #222; }
.title { font-size: 20px; font-weight: 600; } .lane { font-size: 14px; font-weight: 600; }
.name { font-size: 12px; font-weight: 600; } .small { font-size: 10.5px; fill: #555; }
.clock { font-size: 12px; fill: #1d5a9c; font-weight: 600; } .undo { fill: #b3261e; font-size: 10.5px; }
""".strip()
_LESS_BELOW = 8
"""How much less than a gap stands below the last row."""


def draw(reference: str, *, as_svg: bool, output: str) -> None:
    """Draw a runbook, as Mermaid's text or as a picture; into a file where one is named.

    Raises:
        UsageError: There is no such runbook, or the name of the file asks for a kind that is not drawn.
    """
    ending = Path(output).suffix.lower()
    if ending not in ({"", PICTURE} if as_svg else {"", PICTURE, *TEXTS}):
        raise UsageError(
            f"--output {output}: cannot draw {ending}{' with --svg' * as_svg}",
            hint=f"end the name in {PICTURE} for a picture, {' or '.join(TEXTS)} for Mermaid's text",
        )
    catalogue = Catalogue()
    flow = flow_of(load_runbook(find_runbook(reference), catalogue))
    text = svg(flow) if as_svg or ending == PICTURE else mermaid(flow)
    if output:
        Path(output).write_text(text, encoding="utf-8")
        print(output)
    else:
        print(text, end="")


class BoxKind(StrEnum):
    """What a box is about."""

    CHECK = "check"
    CHANGE = "change"
    FAULT = "fault"
    PERSON = "person"
    WAIT = "wait"
    GROUP = "group"


_SHAPES = {
    BoxKind.FAULT: ("{{", "}}"),
    BoxKind.PERSON: ("([", "])"),
    BoxKind.WAIT: ("(", ")"),
    BoxKind.GROUP: ("[[", "]]"),
}
_STYLES = {
    BoxKind.FAULT: "fill:#fde2e1,stroke:#b3261e,color:#410e0b",
    BoxKind.CHANGE: "fill:#fff1d6,stroke:#9a6700,color:#3d2a00",
    BoxKind.PERSON: "fill:#e6e0f8,stroke:#5b4a9e,color:#21005d",
    BoxKind.WAIT: "fill:#eeeeee,stroke:#777777,color:#333333",
}
_COLOURS = {
    BoxKind.CHECK: ("#e6f4ea", "#1e6b34"),
    BoxKind.CHANGE: ("#fff1d6", "#9a6700"),
    BoxKind.FAULT: ("#fde2e1", "#b3261e"),
    BoxKind.PERSON: ("#e6e0f8", "#5b4a9e"),
    BoxKind.WAIT: ("#eeeeee", "#777777"),
    BoxKind.GROUP: ("#e3eefb", "#1d5a9c"),
}


@dataclass(frozen=True)
class Box:
    """One step.

    Attributes:
        key: Unique in the flow: letters, digits, `_`.
        marks: Loop, condition, limits, in a few words each.
        undo: The undo of a fault; "" where nothing is broken.
    """

    key: str
    title: str
    action: str
    kind: BoxKind
    marks: tuple[str, ...] = ()
    undo: str = ""


@dataclass(frozen=True)
class Lane:
    """A section.

    Attributes:
        at_once: Its steps run in parallel.
        clock: The clock that it stops, such as `rto 1m30s`; "" for none.
    """

    key: str
    title: str
    boxes: tuple[Box, ...]
    marks: tuple[str, ...] = ()
    at_once: bool = False
    clock: str = ""


@dataclass(frozen=True)
class Flow:
    """A whole runbook."""

    title: str
    kind: str
    promises: tuple[str, ...]
    lanes: tuple[Lane, ...] = field(default=())


def flow_of(runbook: Runbook) -> Flow:
    """A runbook as boxes in lanes."""
    promised = runbook.objective
    bounds = (("within", promised.within), ("rto", promised.rto), ("rpo", promised.rpo))
    promises = [f"{name} {_plain(value)}" for name, value in bounds if value is not None]
    promises += [str(figure) for figure in promised.figures]
    draw = _Drawing()
    lanes = [
        draw.lane("preconditions", "Preconditions", runbook.preconditions),
        draw.lane("symptoms", "Symptoms", runbook.symptoms),
        draw.lane("steady", "Steady state", runbook.steady_state),
    ]
    lanes += [draw.section(index, section, promised.rto) for index, section in enumerate(runbook.sections)]
    if runbook.steady_state and draw.broken:
        lanes.append(draw.lane("again", "Steady state again", runbook.steady_state))
    lanes.append(draw.lane("always", "Always", runbook.always))
    return Flow(runbook.title, runbook.kind.value, tuple(promises), tuple(lane for lane in lanes if lane.boxes))


class _Drawing:
    """Makes lanes of sections.

    Attributes:
        broken: Whether a fault was met.
    """

    def __init__(self) -> None:
        self.broken = False

    def lane(self, key: str, title: str, steps: tuple[Step, ...]) -> Lane:
        return Lane(key, title, self._boxes(key, steps))

    def section(self, index: int, section: Section, rto: Duration | None) -> Lane:
        at_once = section.parallel > 1
        marks = [f"within {section.within}"] if section.within is not None else []
        marks += [f"when {section.when}"] if section.when is not None else []
        marks += ["at once"] if at_once else []
        clock = f"{section.clock} {rto}" if section.clock and rto is not None else section.clock
        key = f"s{index}"
        return Lane(key, section.name, self._boxes(key, section.steps), tuple(marks), at_once, clock)

    def _boxes(self, key: str, steps: tuple[Step, ...]) -> tuple[Box, ...]:
        return tuple(box for index, step in enumerate(steps) for box in self._of_step(f"{key}_{index}", step))

    def _of_step(self, key: str, step: Step) -> list[Box]:
        """A step's box; a block's own, then those of the steps in it."""
        marks = tuple(_marks(step))
        if step.block:
            parts = [("block", step.block), ("rescue", step.rescue), ("always", step.always)]
            named = [f"{name} of {len(steps)}" for name, steps in parts if steps]
            inner = [box for name, steps in parts for box in self._boxes(f"{key}_{name}", steps)]
            return [Box(key, str(step.name), ", ".join(named), BoxKind.GROUP, marks), *inner]
        kind = _kind(step)
        self.broken = self.broken or kind is BoxKind.FAULT
        undo = UNDOS.get(step.action, "its own undo") if kind is BoxKind.FAULT else ""
        return [Box(key, str(step.name), step.action, kind, marks, undo)]


def _kind(step: Step) -> BoxKind:
    if step.action.startswith("manual."):
        return BoxKind.PERSON
    if step.action in ("wait", "set", "assert"):
        return BoxKind.WAIT if step.action == "wait" else BoxKind.CHECK
    if step.effect is None:
        return BoxKind.GROUP
    return {Effect.BREAKS: BoxKind.FAULT, Effect.OBSERVES: BoxKind.CHECK}.get(step.effect, BoxKind.CHANGE)


def _marks(step: Step) -> list[str]:
    marks = [f"when {step.when}"] if step.when is not None else []
    if isinstance(step.loop, tuple):
        marks.append(f"{len(step.loop)} times")
    elif step.loop is not None:
        marks.append("for each")
    marks += [f"within {step.within}"] if step.within is not None else []
    marks += [f"until {step.until}"] if step.until is not None else []
    return marks


def _plain(value: float) -> str:
    return f"{value:g}" if type(value) is float else str(value)


def mermaid(flow: Flow) -> str:
    """The text of a flow chart."""
    lines = ["---", f"title: {_yaml(flow)}", "---", "flowchart TB"]
    for lane in flow.lanes:
        lines += _lane(lane)
    lines += [f"  {one.key} --> {next_.key}" for one, next_ in zip(flow.lanes, flow.lanes[1:], strict=False)]
    faults = [box for lane in flow.lanes for box in lane.boxes if box.undo]
    lines += [f"  {box.key} -. undo: {_text(box.undo)} .-> {box.key}_undo([{_quoted(box.undo)}])" for box in faults]
    lines += [f"  classDef {look} {style}" for look, style in _STYLES.items()]
    return "\n".join(lines) + "\n"


def _lane(lane: Lane) -> Iterator[str]:
    marks = [*lane.marks, *([f"clock {lane.clock}"] if lane.clock else [])]
    title = " · ".join([lane.title, *marks])
    yield f"  subgraph {lane.key}[{_quoted(title)}]"
    yield f"    direction {'LR' if lane.at_once else 'TB'}"
    yield from (f"    {_box(box)}" for box in lane.boxes)
    if not lane.at_once:
        yield from (f"    {one.key} --> {other.key}" for one, other in zip(lane.boxes, lane.boxes[1:], strict=False))
    yield "  end"


def _box(box: Box) -> str:
    opening, closing = _SHAPES.get(box.kind, ("[", "]"))
    words = [_text(box.title), f"<small>{_text(' · '.join([box.action, *box.marks]))}</small>"]
    tail = f":::{box.kind}" if box.kind in _STYLES else ""
    return f'{box.key}{opening}"{"<br>".join(words)}"{closing}{tail}'


def _quoted(text: str) -> str:
    return f'"{_text(text)}"'


def _text(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def _yaml(flow: Flow) -> str:
    return json.dumps(" · ".join([flow.title, flow.kind, *flow.promises]), ensure_ascii=False)


def svg(flow: Flow) -> str:
    """The flow as an SVG picture: lanes from top to bottom, their steps in rows, undos and clocks at the right."""
    top = _MARGIN + 58
    parts: list[str] = []
    bottoms: list[tuple[int, int]] = []
    for lane in flow.lanes:
        height = _lane_height(lane)
        parts += _svg_lane(lane, top, height)
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
    yield _svg_text(_MARGIN, _MARGIN + 16, flow.title, "title", 80)
    yield _svg_text(_MARGIN, _MARGIN + 38, " · ".join([flow.kind, *flow.promises]), "small", 150)


def _lane_height(lane: Lane) -> int:
    rows = -(-len(lane.boxes) // _COLUMNS)
    return _HEAD + rows * (_BOX[1] + _GAP[1]) - _LESS_BELOW


def _svg_lane(lane: Lane, top: int, height: int) -> Iterator[str]:
    frame = f'x="{_MARGIN}" y="{top}" width="{WIDTH - 2 * _MARGIN}" height="{height}" rx="8"'
    edge = "#1d5a9c" if lane.clock else "#d0d0d0"
    yield f'<rect {frame} fill="#fafafa" stroke="{edge}"/>'
    yield _svg_text(_MARGIN + 14, top + 22, lane.title, "lane", 60)
    marks = " · ".join(lane.marks)
    clock = f"clock {lane.clock}" if lane.clock else ""
    if marks:
        yield _svg_text(WIDTH - _MARGIN - 14, top + 22, marks, "small", 70, anchor="end", lead=120 if clock else 0)
    if clock:
        yield _svg_text(WIDTH - _MARGIN - 14, top + 22, clock, "clock", 24, anchor="end")
    corners = [_corner(index, top) for index in range(len(lane.boxes))]
    for box, (x, y) in zip(lane.boxes, corners, strict=True):
        yield from _svg_box(box, x, y)
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


def _svg_box(box: Box, x: int, y: int) -> Iterator[str]:
    fill, edge = _COLOURS[box.kind]
    dash = ' stroke-dasharray="5 3"' if box.kind is BoxKind.GROUP else ""
    weight = 2 if box.kind is BoxKind.FAULT else 1
    yield f"<g><title>{escape(' · '.join([box.title, box.action, *box.marks]))}</title>"
    frame = f'x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="6"'
    yield f'<rect {frame} fill="{fill}" stroke="{edge}" stroke-width="{weight}"{dash}/>'
    lines = wrap(box.title, 38, max_lines=2, placeholder=" …") or [box.action]
    yield from (_svg_text(x + 10, y + 18 + 14 * row, line, "name", 40) for row, line in enumerate(lines))
    yield _svg_text(x + 10, y + 46, " · ".join([box.action, *box.marks]), "small", 50)
    if box.undo:
        yield _svg_text(x + 10, y + 60, f"↶ undone by {box.undo}", "undo", 46)
    yield "</g>"


def _legend(top: int) -> Iterator[str]:
    x = _MARGIN
    for kind, (fill, edge) in _COLOURS.items():
        yield f'<rect x="{x}" y="{top}" width="14" height="14" rx="3" fill="{fill}" stroke="{edge}"/>'
        yield _svg_text(x + 20, top + 11, kind.value, "small", 20)
        x += int(40 + _LETTER * len(kind.value))


def _svg_text(  # noqa: PLR0913 - where, what and how
    x: int, y: int, text: str, kind: str, most: int, *, anchor: str = "start", lead: int = 0
) -> str:
    """One line of text in a box: it begins at `x`, or ends there with the anchor `end`; `most` characters fit."""
    shown = escape(shorten(text, most, placeholder=" …") or text[:most])
    at = f'x="{x - lead}" y="{y}" class="{kind}"' + (f' text-anchor="{anchor}"' if anchor != "start" else "")
    return f"<text {at}>{shown}</text>"

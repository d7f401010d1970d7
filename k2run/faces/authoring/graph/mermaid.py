"""A flow as Mermaid text, for Markdown pages that draw it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.faces.authoring.graph.flow import Box, Flow, Lane, Look

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHAPES = {Look.FAULT: ("{{", "}}"), Look.PERSON: ("([", "])"), Look.WAIT: ("(", ")"), Look.GROUP: ("[[", "]]")}
_STYLES = {
    Look.FAULT: "fill:#fde2e1,stroke:#b3261e,color:#410e0b",
    Look.CHANGE: "fill:#fff1d6,stroke:#9a6700,color:#3d2a00",
    Look.PERSON: "fill:#e6e0f8,stroke:#5b4a9e,color:#21005d",
    Look.WAIT: "fill:#eeeeee,stroke:#777777,color:#333333",
}
_ESCAPES = {"&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "`": "#96;", "\n": " "}


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
    opening, closing = _SHAPES.get(box.look, ("[", "]"))
    words = [_text(box.title), f"<small>{_text(' · '.join([box.action, *box.marks]))}</small>"]
    tail = f":::{box.look}" if box.look in _STYLES else ""
    return f'{box.key}{opening}"{"<br>".join(words)}"{closing}{tail}'


def _quoted(text: str) -> str:
    return f'"{_text(text)}"'


def _text(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def _yaml(flow: Flow) -> str:
    import json

    return json.dumps(" · ".join([flow.title, flow.kind, *flow.promises]), ensure_ascii=False)

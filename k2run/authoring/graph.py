"""Draw a runbook, as Mermaid text or as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2run.actions.catalogue import Catalogue
from k2run.app.launch import find_runbook
from k2run.authoring.graph_flow import Box, BoxKind, Flow, Lane, flow_of
from k2run.errors import UsageError
from k2run.language.loader import load_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator


PICTURE, TEXTS = ".svg", (".mmd", ".md", ".txt")


def draw(reference: str, *, as_svg: bool, output: str) -> None:
    """Draw a runbook.

    Args:
        reference: Its path or name.
        as_svg: A picture instead of Mermaid's text.
        output: The file to write to; "" prints it.

    Raises:
        UsageError: There is no such runbook, or the name of the file asks for a kind that is not drawn.
    """
    ending = Path(output).suffix.lower()
    if ending not in ({"", PICTURE} if as_svg else {"", PICTURE, *TEXTS}):
        raise UsageError(
            f"--output {output}: no {ending} can be drawn{' with --svg' * as_svg}",
            hint=f"end the name in {PICTURE} for a picture, {' or '.join(TEXTS)} for Mermaid's text",
        )
    catalogue = Catalogue()
    flow = flow_of(load_runbook(find_runbook(reference), catalogue))
    if as_svg or ending == PICTURE:
        from k2run.authoring.graph_svg import svg

        text = svg(flow)
    else:
        text = mermaid(flow)
    if output:
        Path(output).write_text(text, encoding="utf-8")
        print(output)
    else:
        print(text, end="")


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
    opening, closing = _SHAPES.get(box.kind, ("[", "]"))
    words = [_text(box.title), f"<small>{_text(' · '.join([box.action, *box.marks]))}</small>"]
    tail = f":::{box.kind}" if box.kind in _STYLES else ""
    return f'{box.key}{opening}"{"<br>".join(words)}"{closing}{tail}'


def _quoted(text: str) -> str:
    return f'"{_text(text)}"'


def _text(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def _yaml(flow: Flow) -> str:
    import json

    return json.dumps(" · ".join([flow.title, flow.kind, *flow.promises]), ensure_ascii=False)

"""`k2run graph`: a runbook as a chart, in Mermaid's text or as a picture."""

from __future__ import annotations

from pathlib import Path

from k2run.actions.catalogue import Catalogue
from k2run.faces.authoring.graph.flow import flow_of
from k2run.faces.launch import find_runbook
from k2run.language.loader import load_runbook


def draw(reference: str, *, as_svg: bool, output: str) -> None:
    """Draw a runbook.

    Args:
        reference: Its path or name.
        as_svg: A picture instead of Mermaid's text.
        output: The file to write to; "" prints it.
    """
    catalogue = Catalogue()
    flow = flow_of(load_runbook(find_runbook(reference), catalogue))
    if as_svg or output.endswith(".svg"):
        from k2run.faces.authoring.graph.svg import svg

        text = svg(flow)
    else:
        from k2run.faces.authoring.graph.mermaid import mermaid

        text = mermaid(flow)
    if output:
        Path(output).write_text(text, encoding="utf-8")
        print(output)
    else:
        print(text, end="")

"""A runbook drawn: every section, step, fault, undo and clock is in the chart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from k2run.authoring.graph import WIDTH, BoxKind, Flow, draw, flow_of, mermaid, svg
from k2run.authoring.new import starting_text
from k2run.language.loader import parse_runbook

if TYPE_CHECKING:
    from k2run.actions.catalogue import Catalogue

ODD = """\
runbook: 1
kind: readiness
title: 'Odd "quotes" & <tags>'
sections:
  - name: 'One "two" <three>'
    parallel: true
    steps:
      - name: A & B
        block:
          - {name: in the block, wait: {for: 1s}}
        rescue:
          - {name: "to the rescue #1", manual.confirm: {that: all is well}}
      - name: A very long name of a step that does not fit into any box however wide it is drawn on the page, really not
        loop: [1, 2, 3]
        service.status: {service: api}
"""


def flow(text: str, catalogue: Catalogue) -> Flow:
    return flow_of(parse_runbook(text, "runbook.yaml", catalogue))


@pytest.fixture
def scenario(catalogue: Catalogue) -> Flow:
    return flow(starting_text("scenario", "lag", Path("runbooks/lag.yaml")), catalogue)


def test_faults_undos_and_clocks_are_in_the_flow(scenario: Flow) -> None:
    assert scenario.promises == ("within 3m", "rto 60s")
    assert [lane.title for lane in scenario.lanes][-2:] == ["Steady state again", "Always"]
    (fault,) = [box for lane in scenario.lanes for box in lane.boxes if box.kind is BoxKind.FAULT]
    assert (fault.action, fault.undo) == ("service.kill", "service.start")
    assert [lane.clock for lane in scenario.lanes if lane.clock] == ["rto 60s"]


def test_mermaid_names_every_step_and_draws_the_undo(scenario: Flow) -> None:
    text = mermaid(scenario)
    assert all(box.title in text for lane in scenario.lanes for box in lane.boxes)
    assert "clock rto 60s" in text
    assert re.search(r"s0_0 -\. undo: service\.start \.->", text)
    assert text.count("subgraph") == len(re.findall(r"^  end$", text, re.MULTILINE)) == len(scenario.lanes)


def test_mermaid_lets_no_text_out_of_its_quotes(catalogue: Catalogue) -> None:
    text = mermaid(flow(ODD, catalogue))
    chart = text.split("---\n")[2]
    assert all(line.count('"') in (0, 2) for line in chart.splitlines())
    assert "#quot;two#quot; #lt;three#gt;" in chart


def test_the_picture_is_well_formed_and_nothing_leaves_its_frame(catalogue: Catalogue, scenario: Flow) -> None:
    for made in (scenario, flow(ODD, catalogue)):
        root = ET.fromstring(svg(made))
        height = float(root.attrib["height"])
        boxes = [element.attrib for element in root.iter() if element.tag.endswith("rect") and "x" in element.attrib]
        assert all(float(box["x"]) + float(box["width"]) <= WIDTH for box in boxes)
        assert all(float(box["y"]) + float(box["height"]) <= height for box in boxes)
        words = " ".join("".join(element.itertext()) for element in root.iter() if element.tag.endswith("text"))
        assert all(lane.title in words for lane in made.lanes)


def test_boxes_of_a_lane_do_not_overlap(scenario: Flow) -> None:
    root = ET.fromstring(svg(scenario))
    boxes = [g.find("{*}rect").attrib for g in root.iter() if g.tag.endswith("}g")]
    corners = [(box["x"], box["y"]) for box in boxes]
    assert len(corners) == len(set(corners)) == sum(len(lane.boxes) for lane in scenario.lanes)


def test_a_runbook_is_drawn_into_a_file_by_its_ending(tmp_path: Path, capsys) -> None:
    book = tmp_path / "odd.yaml"
    book.write_text(ODD)
    draw(str(book), as_svg=False, output=str(tmp_path / "odd.svg"))
    draw(str(book), as_svg=False, output="")
    assert (tmp_path / "odd.svg").read_text().startswith("<svg")
    assert "flowchart TB" in capsys.readouterr().out

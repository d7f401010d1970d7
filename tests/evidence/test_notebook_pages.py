"""What the demo notebook draws with, and its pages for a projector."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from k2run.errors import Refused, Unknown
from k2run.evidence import notebook_pages
from k2run.evidence.notebook_pages import pages_of, plot, plots, slug, table
from k2run.stack.stack import load_stack

ROOT = Path(__file__).parents[2]


def cell(kind: str, source: str, *outputs: dict[str, object]) -> dict[str, object]:
    return {"cell_type": kind, "source": [source], "outputs": list(outputs), "metadata": {}}


NOTEBOOK = {
    "cells": [
        cell("markdown", "# All of it"),
        cell("markdown", "## 1. First & <b>\n\nWords."),
        cell("code", "secret code", {"output_type": "stream", "name": "stdout", "text": ["a < b\n"]}),
        cell("code", "x", {"output_type": "stream", "name": "stderr", "text": ["a warning"]}),
        cell(
            "code",
            "x",
            {"output_type": "display_data", "data": {"text/html": ["<table>", "</table>"], "text/plain": "t"}},
        ),
        cell("markdown", "## 2. Second"),
        cell("code", "x", {"output_type": "error", "ename": "LookupError", "evalue": "no <series>", "traceback": []}),
    ]
}


def test_a_page_for_each_heading_without_code_and_warnings() -> None:
    made = pages_of(NOTEBOOK)
    assert made.count("<section") == 2
    assert f'id="{slug("1. First & <b>")}"' in made
    assert "a &lt; b" in made
    assert "<table></table>" in made
    assert "no &lt;series&gt;" in made
    assert "secret code" not in made
    assert "a warning" not in made
    assert "<b>" not in made


def test_the_pages_are_written_with_their_address(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text(json.dumps(NOTEBOOK))
    made = notebook_pages.pages(str(tmp_path / "a.ipynb"), str(tmp_path / "out" / "a.html"))
    assert made.pages == ["1-first-b", "2-second"]
    assert made.url == (tmp_path / "out" / "a.html").as_uri()
    with pytest.raises(Unknown, match="there is no notebook"):
        notebook_pages.pages(str(tmp_path / "b.ipynb"), str(tmp_path / "b.html"))
    (tmp_path / "c.ipynb").write_text("{}")
    with pytest.raises(Refused, match="is not a notebook"):
        notebook_pages.pages(str(tmp_path / "c.ipynb"), str(tmp_path / "c.html"))


def test_nothing_measured_is_no_plot_and_no_rows_are_no_table() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        plot("Lag", [])
    with pytest.raises(ValueError, match="no rows"):
        table([])


def test_plots_have_their_style_and_say_what_they_show() -> None:
    made = plots(plot("Lag", [(0, 1), (1, 5)], unit="messages"), plot("Level", [(0, 1)], levels=["LOW", "HIGH"]))
    assert repr(made) == "Lag: 5 messages, 2 points; Level: HIGH, 1 points"
    assert made._repr_html_().count("<svg") == 2
    assert "<style>" in made._repr_html_()


def test_numbers_of_a_table_stand_at_the_right_and_texts_are_escaped() -> None:
    made = table([{"name": "<b>", "rows": 12_000, "ms": 0.12345}])._repr_html_()
    assert '<td class="number">12,000</td><td class="number">0.1235</td>' in made
    assert "<td>&lt;b&gt;</td>" in made


def test_the_demo_notebook_has_seven_sections_like_the_rehearsal_and_needs_no_plotting_library() -> None:
    text = (ROOT / "runbooks" / "notebooks" / "market-data-demo.ipynb").read_text()
    notebook = json.loads(text)
    titles = [line for each in notebook["cells"] for line in each["source"] if line.startswith("## ")]
    rehearsal = (ROOT / "runbooks" / "rehearsal.yaml").read_text()
    sections = [
        line.strip().removeprefix("- name: ") for line in rehearsal.splitlines() if line.startswith("  - name: ")
    ]
    assert [title.strip()[3:].replace(". ", " ", 1) for title in titles] == [
        each for each in sections if each[0].isdecimal()
    ]
    assert not any(each["outputs"] for each in notebook["cells"] if each["cell_type"] == "code")
    assert not any(library in text for library in ("matplotlib", "pandas", "plotly"))


def test_the_demo_notebook_is_handed_every_port_that_a_variable_of_its_stack_can_move(tmp_path: Path) -> None:
    moved = {"api_port": "28000", "consumer_metrics_port": "28001", "kafka_port": "28002", "topic": "trades"}
    stack = load_stack("sandbox", near=ROOT / "runbooks", home=tmp_path, overrides=moved)
    handed = (stack.settings("jupyter") or {})["env"]
    assert handed["K2RUN_API_PORT"] == "28000"
    assert handed["K2RUN_CONSUMER_METRICS_PORT"] == "28001"
    assert handed["K2RUN_BROKER"] == "127.0.0.1:28002"
    assert handed["K2RUN_TOPIC"] == "trades"
    text = (ROOT / "runbooks" / "notebooks" / "market-data-demo.ipynb").read_text()
    asked = set(re.findall(r"K2RUN_[A-Z_]+_PORT", text)) - {"K2RUN_KAFKA_PORT"}  # K2RUN_BROKER comes first
    assert asked <= handed.keys()
    for runbook in ("demo-day.yaml", "backup.yaml"):
        assert "stack.connections.jupyter.env" in (ROOT / "runbooks" / runbook).read_text()


def test_the_numbers_of_a_column_have_the_same_places() -> None:
    rows = [{"cores": 1.0, "cost": 4.269, "each": 0.06806}, {"cores": 65.5, "cost": 426.89, "each": 0.049}]
    assert repr(table(rows)) == "1.00  4.27  0.06806\n65.50  426.89  0.04900"
    assert repr(table([{"rows": 1234}, {"rows": 5}])) == "1,234\n5"

"""The generated pages are current, and every example in them is valid."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import pytest

from k2run.faces.authoring.example import example_of
from k2run.faces.authoring.pages import pages
from k2run.faces.manual import page
from k2run.language.loader import parse_runbook

if TYPE_CHECKING:
    from k2run.actions.catalogue import Catalogue

DOCS = Path(__file__).parents[3] / "docs"
HAND_WRITTEN = ("language.md", "from-ansible-and-chaos-toolkit.md")


@pytest.fixture(scope="module")
def current() -> dict[str, str]:
    return pages(DOCS)


@pytest.mark.parametrize("name", ["actions.md", "errors.md", "language.md"])
def test_a_generated_page_is_current(name: str, current: dict[str, str]) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == current[name], "run `invoke pages`"


def test_the_example_of_every_action_is_valid(catalogue: Catalogue) -> None:
    steps = "".join(indent(example_of(action), "      ") + "\n" for action in catalogue.all())
    assert parse_runbook(f"runbook: 1\nkind: readiness\nsections:\n  - steps:\n{steps}", "all.yaml", catalogue).sections


def test_an_action_is_described_with_arguments_result_and_example(catalogue: Catalogue) -> None:
    said = page(catalogue.find("kafka.lag"))
    assert "topic: str  (required)" in said
    assert "result.total: int" in said
    assert said.index("Example") < said.index("kafka.lag: {topic: market")


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    assert all((DOCS / link).exists() for link in re.findall(r"\]\(([\w-]+\.md)\)", text))


def test_whole_runbooks_in_the_pages_are_valid(catalogue: Catalogue) -> None:
    texts = [
        text for name in HAND_WRITTEN for text in re.findall(r"```yaml\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    ]
    whole = [text for text in texts if "runbook: 1" in text]
    assert whole
    for text in whole:
        assert parse_runbook(text, "page.yaml", catalogue).sections

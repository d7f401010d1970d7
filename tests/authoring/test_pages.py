"""The generated pages are current, and every example in them is valid."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from k2run.authoring.action_manual import argument_rows, example_of, page, result_rows
from k2run.authoring.generated import pages
from k2run.language.loader import parse_runbook
from k2run.language.schema import runbook_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.actions.catalogue import Catalogue

DOCS = Path(__file__).parents[2] / "docs"
HAND_WRITTEN = ("language.md", "from-ansible-and-chaos-toolkit.md", "tutorial.md")


@pytest.fixture(scope="module")
def current() -> dict[str, str]:
    return pages(DOCS)


@pytest.mark.parametrize("name", ["actions.md", "errors.md", "language.md", "adapters.md", "stacks.md"])
def test_a_generated_page_is_current(name: str, current: dict[str, str]) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == current[name], "run `invoke pages`"


def test_the_example_of_every_action_is_valid(catalogue: Catalogue) -> None:
    steps = "".join(indent(example_of(action), "      ") + "\n" for action in catalogue.all())
    assert parse_runbook(f"runbook: 1\nkind: readiness\nsections:\n  - steps:\n{steps}", "all.yaml", catalogue).sections


def test_an_action_is_described_with_arguments_result_and_example(catalogue: Catalogue) -> None:
    said = page(catalogue.find("kafka.lag"))
    assert "  topic: text, required\n      Name of the topic." in said
    assert "  result.total: integer" in said
    assert said.count("Name of the topic") == 1
    assert said.index("Example") < said.index("kafka.lag: {topic: orders")


def test_types_defaults_and_units_are_in_the_words_of_a_runbook(catalogue: Catalogue) -> None:
    rows = {name: (kind, default) for name, kind, default, _ in argument_rows(catalogue.find("kafka.rate"))}
    assert rows["topic"] == ("text", "required")
    assert rows["window"] == ("duration (`30s`, `2m`)", "default `2s`")
    results = {name: kind for name, kind, _ in result_rows(catalogue.find("bench.http"))}
    assert results["p99_ms"] == "number, milliseconds"
    told = [kind for action in catalogue.all() for _, kind, *_ in argument_rows(action) + result_rows(action)]
    assert [kind for kind in told if "<class" in kind or "k2run." in kind or "typing" in kind] == []


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


def rows(page: str, block: str) -> dict[str, str]:
    """The keywords of a generated table, with what is said of each."""
    table = page.partition(f"<!-- generated: {block} -->")[2].partition("<!-- end -->")[0]
    cells = (re.split(r"(?<!\\\\) \| ", line.strip("| ")) for line in table.strip().split("\n")[2:])
    return {cell[0].strip("`"): cell[-1].strip() for cell in cells}


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping inside of a value, itself included."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(part)


@pytest.mark.parametrize(
    ("block", "definition"),
    [
        ("runbook keys", None),
        ("section keys", "section"),
        ("step keywords", "step"),
        ("input keys", "input"),
        ("objective keys", None),
        ("score keys", "score"),
        ("points keys", None),
        ("schedule keys", None),
        ("alerts keys", None),
    ],
)
def test_every_keyword_is_described(block: str, definition: str | None, catalogue: Catalogue) -> None:
    described = rows((DOCS / "language.md").read_text(encoding="utf-8"), block)
    schema = runbook_schema(catalogue)
    accepted = schema["$defs"][definition]["properties"] if definition else schema["properties"]
    if definition or block == "runbook keys":
        assert set(described) == {
            name for name in accepted if "." not in name and f"action:{name}" not in schema["$defs"]
        }
    assert len(described) > 2
    assert [name for name, meaning in described.items() if not meaning] == []


def test_every_keyword_stands_in_an_example_that_is_valid(catalogue: Catalogue) -> None:
    page = (DOCS / "language.md").read_text(encoding="utf-8")
    texts = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "runbook: 1" in text]
    assert all(parse_runbook(text, "page.yaml", catalogue) for text in texts)
    written = [yaml.safe_load(text) for text in texts]
    used = {
        "runbook keys": {key for runbook in written for key in runbook},
        "section keys": {key for runbook in written for section in runbook["sections"] for key in section},
        "input keys": {key for runbook in written for one in runbook.get("inputs", {}).values() for key in one},
        "step keywords": {key for runbook in written for mapping in mappings(runbook) for key in mapping},
    }
    assert {block: set(rows(page, block)) - keys for block, keys in used.items()} == {block: set() for block in used}

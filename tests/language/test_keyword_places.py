"""Each keyword, on each kind of step: it is accepted, or it is a problem; the page on the language shows the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.errors import RunbookInvalid
from k2run.language.keywords import KEYWORDS, PLACES, needed, refused, table
from k2run.language.loader import parse_runbook

if TYPE_CHECKING:
    from pathlib import Path

STEPS = {
    "an action": "shell.run: {command: 'true'}",
    "assert": "assert: {that: true}",
    "set": "set: {x: 1}",
    "wait": "wait: {for: 1ms}",
    "a block": "block: [{wait: {for: 1ms}}]",
    "run": "run: {runbook: inner.yaml}",
    "stop": "stop: {because: x}",
    "skip_section": "skip_section: {}",
}
VALUES = {
    "name": "n",
    "id": "i",
    "when": "true",
    "loop": "[1]",
    "loop_var": "each",
    "parallel": "2",
    "register": "found",
    "expect": "true",
    "until": "true",
    "every": "1s",
    "retries": "2",
    "timeout": "1s",
    "within": "1s",
    "failed_when": "false",
    "ignore_failure": "true",
    "severity": "info",
    "points": "1",
    "figures": "{f: 1 + 1}",
    "tags": "t",
    "vars": "{v: 1}",
    "requires": "api",
    "on_failure": "look",
    "no_log": "true",
    "approve": "false",
    "delegate": "sandbox",
}
CATALOGUE = Catalogue()
AROUND = {"": "", "in a loop": "loop: [1, 2], ", "in a parallel section": ""}


def codes(folder: Path, keyword: str, place: str, around: str) -> set[str]:
    """The problems of a step with that keyword there."""
    more = AROUND[around] if keyword != "loop" else ""
    beside = "".join(f"{other}: {VALUES[other]}, " for other in needed(keyword)[:1] if other not in more)
    (folder / "inner.yaml").write_text(
        "runbook: 1\nkind: readiness\nname: inner\nsections: [{steps: [{wait: {for: 1ms}}]}]\n"
    )
    text = "runbook: 1\nkind: readiness\nname: t\nscore: {categories: {C: 1}}\nsections:\n  - category: C\n"
    text += "    parallel: true\n" if around == "in a parallel section" else ""
    text += f"    steps:\n      - {{{more}{beside}{keyword}: {VALUES[keyword]}, {STEPS[place]}}}\n"
    try:
        parse_runbook(text, "t.yaml", CATALOGUE, home=folder)
    except RunbookInvalid as error:
        return {problem.code for problem in error.problems}
    return set()


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_keyword_is_accepted_or_refused_as_the_table_says(tmp_path: Path, keyword: str) -> None:
    for around in AROUND:
        for place in PLACES if not around else ("an action", "a block"):
            expected = {"K209"} if any(refused(each, place) for each in (keyword, *needed(keyword)[:1])) else set()
            assert (place, around, codes(tmp_path, keyword, place, around)) == (place, around, expected)


def test_the_table_has_every_keyword_and_every_kind_of_step() -> None:
    rows = table()
    assert [row[0] for row in rows] == [f"`{keyword}`" for keyword in KEYWORDS]
    assert {len(row) for row in rows} == {1 + len(PLACES) + 2}
    assert VALUES.keys() == KEYWORDS.keys()
    assert STEPS.keys() == set(PLACES)

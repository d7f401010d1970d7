"""Every code of a problem is explained, and its examples are what they say."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import pytest

import k2run.language
from k2run.errors import RunbookInvalid
from k2run.language.problems import Explanation, explanations

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.language.model import Runbook

SECTIONS = "sections: [{steps: [{wait: {for: 1s}}]}]\n"


def whole(example: str) -> str:
    """A piece of a runbook with what it lacks."""
    head = "runbook: 1\nkind: readiness\n"
    if example.startswith("- "):
        return f"{head}sections:\n  - steps:\n{indent(example, '      ')}"
    return head + ("" if "sections:" in example else SECTIONS) + example


def test_every_code_is_explained_and_no_other() -> None:
    sources = Path(k2run.language.__path__[0]).glob("*.py")
    used = {code for source in sources for code in re.findall(r'"(K[1-5]\d\d)"', source.read_text(encoding="utf-8"))}
    assert set(explanations()) == used


@pytest.mark.parametrize(
    "entry", [entry for entry in explanations().values() if entry.wrong], ids=lambda entry: entry.code
)
def test_a_wrong_example_has_its_problem_and_no_other(entry: Explanation, read: Callable[[str], Runbook]) -> None:
    with pytest.raises(RunbookInvalid) as caught:
        read(whole(entry.wrong))
    assert [problem.code for problem in caught.value.problems] == [entry.code]


@pytest.mark.parametrize(
    "entry", [entry for entry in explanations().values() if entry.right], ids=lambda entry: entry.code
)
def test_a_right_example_has_no_problem(entry: Explanation, read: Callable[[str], Runbook]) -> None:
    assert read(whole(entry.right)).sections


def test_every_code_says_why_or_shows_it() -> None:
    assert all(entry.title and (entry.why or (entry.wrong and entry.right)) for entry in explanations().values())

"""A corpus of wrong runbooks, each with the code and the exact place of every problem."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from k2run.errors import RunbookInvalid
from k2run.language.problems import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.language.model import Runbook

CORPUS = Path(__file__).parent / "wrong"
MARK = "▸"
HEAD = "runbook: 1\nkind: readiness\nsections:\n  - name: Only\n    steps:\n"


class Case(NamedTuple):
    """A wrong runbook; every `▸` stands before the first character of a wrong token."""

    name: str
    codes: tuple[str, ...]
    text: str


def blocks(file: str) -> list[Case]:
    found = re.split(r"^=== ", (CORPUS / file).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    cases = []
    for block in found:
        title, _, text = block.partition("\n")
        name, _, codes = title.rpartition(" | ")
        cases.append(Case(name, tuple(codes.split()), text))
    return cases


def in_a_step(case: Case) -> Case:
    return case._replace(text=HEAD + re.sub(r"^(?=.)", "      ", case.text, flags=re.MULTILINE))


def in_an_expectation(line: str) -> Case:
    code, expression = line.split(" ", 1)
    step = "- http.get: {path: /}\n  expect:\n    - >-\n      " + expression + "\n"
    count = expression.count(MARK)
    return in_a_step(Case(f"expression {expression.replace(MARK, '')}", (code,) * count, step))


def corpus() -> list[Case]:
    lines = (CORPUS / "expressions.txt").read_text(encoding="utf-8").splitlines()
    return [
        *blocks("yaml.txt"),
        *blocks("structure.txt"),
        *(in_a_step(case) for case in blocks("steps.txt")),
        *(in_an_expectation(line) for line in lines if line),
    ]


def places(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without its marks, and line and column of each."""
    found, clean = [], ""
    for part in re.split(f"({MARK})", text):
        if part == MARK:
            line = clean.count("\n") + 1
            found.append((line, len(clean) - clean.rfind("\n")))
        else:
            clean += part
    return clean, found


@pytest.mark.parametrize("case", corpus(), ids=lambda case: case.name)
def test_every_problem_is_reported_with_its_code_and_place(case: Case, read: Callable[[str], Runbook]) -> None:
    text, expected = places(case.text)
    with pytest.raises(RunbookInvalid) as caught:
        read(text)
    problems = caught.value.problems
    found = [(problem.code, problem.place.line, problem.place.column) for problem in problems]
    wanted = [(code, line, column) for code, (line, column) in zip(case.codes, expected, strict=True)]
    assert sorted(found) == sorted(wanted), render(problems)


def test_the_corpus_has_at_least_150_runbooks() -> None:
    assert len(corpus()) >= 150

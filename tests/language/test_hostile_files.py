"""Files that were not written by hand are checked in a time that grows with their size, or refused in a sentence."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.authoring.chaos.experiment import read_experiment
from k2run.errors import RunbookInvalid, UsageError
from k2run.language.loader import load_runbook

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "runbook: 1\nkind: readiness\nname: x\n"
STEPS = "sections:\n  - name: s\n    steps:\n"
LIMIT_S = 4.0
"""Seconds of a processor; each of these took from half a minute to for ever."""


def lines(form: str, count: int) -> str:
    return "".join(form.format(n=number) for number in range(count))


MANY = {
    "actions": HEAD + STEPS + lines("      - {{name: a, kafkaa.lagg{n}: {{x: 1}}}}\n", 3000),
    "names": HEAD + STEPS + lines("      - {{name: a, assert: {{that: nme{n} > 1}}}}\n", 3000),
    "results": HEAD
    + STEPS
    + lines("      - {{set: {{q: 1}}, register: r{n}}}\n", 1500)
    + lines("      - {{assert: {{that: rr{n} > 1}}}}\n", 1500),
    "duplicates": "runbook: 1\n" * 10_000 + HEAD + STEPS,
}


@pytest.mark.parametrize("name", MANY)
def test_thousands_of_problems_are_all_told_in_a_time_that_grows_with_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(MANY[name])
    began = time.process_time()
    with pytest.raises(RunbookInvalid) as caught:
        load_runbook(path, Catalogue())
    assert time.process_time() - began < LIMIT_S
    assert len(caught.value.problems) >= 1500


def test_thousands_of_variables_that_use_each_other_are_read_in_a_time_that_grows_with_them(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    chain = "  v0: 1\n" + "".join(f"  v{n}: '{{{{ v{n - 1} }}}}'\n" for n in range(1, 10_000))
    path.write_text(f"{HEAD}vars:\n{chain}{STEPS}      - assert: {{that: v1 == 1}}\n")
    began = time.process_time()
    assert len(load_runbook(path, Catalogue()).vars) == 10_000
    assert time.process_time() - began < LIMIT_S


@pytest.mark.parametrize(
    ("form", "count"), [("tttttttttt", 5_000_000), ("\n  v{n}: {n}", 200_000)], ids=["title", "vars"]
)
def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path, form: str, count: int) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"{HEAD}vars: {lines(form, count)}")
    began = time.process_time()
    with pytest.raises(UsageError, match="has more than 2 MiB"):
        load_runbook(path, Catalogue())
    assert time.process_time() - began < LIMIT_S / 4


@pytest.mark.parametrize(("count", "code"), [(10, ""), (200, "K502")])
def test_runbooks_that_run_runbooks_are_nested_only_so_deeply(tmp_path: Path, count: int, code: str) -> None:
    for number in range(count):
        inner = f"run: {{runbook: c{number + 1}.yaml}}" if number < count - 1 else "assert: {that: 1 < 2}"
        (tmp_path / f"c{number}.yaml").write_text(f"{HEAD}{STEPS}      - {inner}\n")
    began = time.process_time()
    if code:
        with pytest.raises(RunbookInvalid) as caught:
            load_runbook(tmp_path / "c0.yaml", Catalogue())
        [problem] = caught.value.problems
        assert (problem.code, "nested more than 16 deep" in problem.message) == (code, True)
    else:
        load_runbook(tmp_path / "c0.yaml", Catalogue())
    assert time.process_time() - began < LIMIT_S


@pytest.mark.parametrize(
    "text",
    ['{"a":' * 100_000, "[" * 100_000, '{"method": ' + "[" * 90 + "]" * 90 + "}"],
    ids=["keys", "lists", "closed"],
)
def test_an_experiment_that_is_nested_without_end_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="nested too deeply"):
        read_experiment(path)

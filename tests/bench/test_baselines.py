from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from k2run.bench.baseline import Baselines, NoBaseline, Pins, fingerprint
from k2run.engine.events import Objected
from k2run.engine.journal import read_journal
from k2run.engine.store import Store
from k2run.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

RUNBOOK = """
runbook: 1
kind: benchmark
title: A load with a baseline
stack: {stack}
sections:
  - name: Load
    steps:
      - name: Load
        bench.http:
          url: "{url}"
          workers: 2
          iterations: 60
          thresholds: ["p50 < {bound}", "regression < 400% vs {baseline}"]
"""


class Home:
    """A home of its own, a stack without services, and the runs of one runbook."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        (folder / "bare.yaml").write_text("stack: 1\nname: bare\n")

    def run(self, *, bound: str = "10s", baseline: str = "last green") -> tuple[int, str]:
        file = self.folder / "load.yaml"
        file.write_text(RUNBOOK.format(stack=self.folder / "bare.yaml", url=self.url, bound=bound, baseline=baseline))
        return self.command("run", str(file), "--plain")

    def command(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "k2run", *words],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "K2RUN_HOME": str(self.folder / "home"), "COLUMNS": "300"},
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def judged(self) -> dict[str, tuple[str, str]]:
        """The thresholds of the last run: whether each was met, and what was measured."""
        events = read_journal(self.store.runs()[-1])
        return {each.objective: (each.bound.value, each.value) for each in events if isinstance(each, Objected)}

    @property
    def store(self) -> Store:
        return Store(self.folder / "home")


@pytest.fixture
def home(tmp_path, serve):
    with serve("--delay", "5") as server:
        yield Home(tmp_path, server.url)


def test_a_regression_is_measured_from_the_last_green_run_of_the_same_load(home):
    code, said = home.run()
    assert code == 0, said
    assert "has passed with this load yet" in said, "the first run has nothing behind it, which is no failure"
    first = home.store.runs()[0].name

    code, said = home.run(bound="1ms")
    assert code == 1
    assert "missed: p50 < 1ms" in said

    code, said = home.run()
    assert code == 0, said
    bound, value = home.judged()["Load: regression < 400% vs last green"]
    assert bound == "met"
    assert re.search(rf"against {first} #\d+", value), "the run in between was not green"


def test_a_run_that_is_pinned_by_name_is_what_a_regression_is_measured_from(home):
    code, said = home.run(baseline="nightly")
    assert code == 1
    assert "no run is pinned as 'nightly'" in said, "a baseline that was named has to be there"
    pinned = home.store.runs()[0].name

    assert home.command("baseline", "set", "nightly", "last") == (0, f"nightly on the stack bare is {pinned}\n")
    assert pinned in home.command("baseline")[1]
    code, said = home.run(baseline="nightly")
    assert code == 0, said
    assert f"against {pinned} #" in home.judged()["Load: regression < 400% vs nightly"][1]

    assert home.command("baseline", "drop", "nightly")[0] == 0
    code, said = home.command("baseline", "drop", "nightly")
    assert (code, "there is no baseline" in said) == (2, True)
    assert home.command("baseline", "set", "last green", "last")[0] == 2


def test_several_runs_are_pinned_as_one_baseline(home):
    for _ in range(2):
        assert home.run()[0] == 0
    one, other = (run.name for run in home.store.runs())
    assert home.command("baseline", "set", "nightly", other, one) == (
        0,
        f"nightly on the stack bare is {one}, {other}\n",
    )
    assert f"{one}, {other}" in home.command("baseline")[1]
    code, said = home.run(baseline="nightly")
    assert code == 0, said
    assert f"against 2 runs up to {other} #" in home.judged()["Load: regression < 400% vs nightly"][1]


def test_every_judged_threshold_stands_in_the_journal_and_in_the_report(home):
    home.run()
    assert {name: bound for name, (bound, _) in home.judged().items()} == {
        "Load: p50 < 10s": "met",
        "Load: regression < 400% vs last green": "not_measured",
    }
    report = (home.store.runs()[-1] / "report.html").read_text()
    assert "Load: p50 &lt; 10s" in report
    assert "to spare" in report


def test_loads_are_the_same_when_the_same_is_asked_as_hard_for_however_long():
    assert fingerprint("bench.http", asked=["/a"], paced=[1]) == fingerprint("bench.http", asked=["/a"], paced=[1])
    assert fingerprint("bench.http", asked=["/a"], paced=[1]) != fingerprint("bench.http", asked=["/a"], paced=[2])


def test_a_home_without_runs_has_no_baseline(tmp_path):
    baselines = Baselines(home=str(tmp_path), stack="bare")
    with pytest.raises(NoBaseline) as caught:
        baselines.find("last green", "0")
    assert caught.value.excused
    with pytest.raises(NoBaseline) as caught:
        baselines.find("nightly", "0")
    assert not caught.value.excused


def test_a_broken_file_of_baselines_is_told(tmp_path):
    (tmp_path / "baselines.json").write_text("[")
    with pytest.raises(UsageError, match="cannot be read"):
        Pins(tmp_path).all()

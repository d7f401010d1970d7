"""k6.run with a stand-in for k6: no package of the tests' brings the real one.

The stand-in takes k6's options, writes the summary that `--summary-export` writes (true for a threshold that was
missed), and exits 99 where one was, as k6's documentation says.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from stand_ins import stand_in

from k2run.actions.deadline import Deadline
from k2run.adapters import k6
from k2run.errors import Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from pathlib import Path

TESTED_ON = {"k6": "a program that stands in for k6: see below"}

K6 = """
import json, os, sys, time

words = sys.argv[1:]
assert words[0] == "run"
options = dict(word.removeprefix("--").partition("=")[::2] for word in words[1:-1])
what = open(words[-1]).read().strip()
if what == "broken":
    print("ERRO[0000] SyntaxError: broken.js: Unexpected token", file=sys.stderr)
    sys.exit(107)
if what == "slow":
    time.sleep(60)
p95 = float(os.environ.get("P95", 412.5))
missed = p95 >= 500
summary = {
    "metrics": {
        "http_req_duration": {
            "avg": 201.2, "min": 90.1, "med": 180.0, "max": 612.0, "p(90)": 390.0, "p(95)": p95,
            "thresholds": {"p(95)<500": missed},
        },
        "http_req_failed": {"passes": 6, "fails": 1198, "value": 0.004983, "thresholds": {"rate<0.01": False}},
        "http_reqs": {"count": 1204, "rate": 40.1},
        "checks": {"passes": 2400, "fails": 8, "value": 0.996},
        "iterations": {"count": 0 if what == "idle" else 602, "rate": 20.0},
        "vus": {"value": int(options.get("vus", 5)), "min": 1, "max": 5},
    },
    "root_group": {"name": "", "path": "", "groups": {}, "checks": {}},
}
if what == "newer":
    for metric in summary["metrics"].values():
        metric["thresholds"] = {name: {"ok": not bad} for name, bad in metric.get("thresholds", {}).items()}
if what != "silent":
    json.dump(summary, open(options["summary-export"], "w"))
json.dump(options, open(words[-1] + ".options", "w"))
sys.exit(99 if missed and what != "lying" else 0)
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "load.js"
    path.write_text("normal")
    return path


@pytest.fixture
def program(tmp_path) -> str:
    return str(stand_in(tmp_path / "bin", "k6", K6))


def soon(seconds: float = 20) -> Deadline:
    return Deadline(seconds)


def test_the_thresholds_become_objectives_and_the_figures_a_result(script, program):
    found = k6.run(soon(), str(script), program=program)
    assert [(one.objective, one.met, one.says) for one in found.judged()] == [
        ("http_req_duration: p(95)<500", True, "p(95) = 412.5"),
        ("http_req_failed: rate<0.01", True, "rate = 0.004983"),
    ]
    assert found.metrics["http_req_duration"]["p(95)"] == 412.5
    assert (found.requests, found.failed_percent, found.iterations) == (1204, 0.4983, 602)
    assert (found.checks_passed, found.checks_failed, found.thresholds_missed) == (2400, 8, 0)
    assert found.headline() == "1,204 requests, 0.4983 % failed, 2 of 2 thresholds met"
    assert found.plain()["metrics"]["http_reqs"] == {"count": 1204, "rate": 40.1}


@pytest.mark.parametrize("form", ["normal", "newer"])
def test_a_missed_threshold_is_a_verdict_and_no_error(script, program, form):
    script.write_text(form)
    found = k6.run(soon(), str(script), env={"P95": "612"}, program=program)
    assert [one.met for one in found.judged()] == [False, True]
    assert (found.thresholds, found.thresholds_missed) == (2, 1)


def test_it_is_told_how_long_and_how_many_and_no_value_stands_on_the_command_line(script, program):
    k6.run(soon(), str(script), env={"P95": "1"}, vus=7, duration=Duration(1.5), options=["--tag=a"], program=program)
    told = script.with_name("load.js.options").read_text()
    assert '"vus": "7"' in told
    assert '"duration": "1500ms"' in told
    assert '"tag": "a"' in told
    assert "P95" not in told


@pytest.mark.parametrize(
    ("what", "says"), [("silent", "left no readable summary"), ("idle", "no iteration"), ("lying", "exited 0")]
)
def test_what_cannot_be_known_is_unknown(script, program, what, says):
    script.write_text(what)
    with pytest.raises(Unknown, match=says):
        k6.run(soon(), str(script), env={"P95": "612" if what == "lying" else "1"}, program=program)


def test_a_broken_script_a_missing_one_and_a_missing_program_say_what_to_do(script, program, tmp_path):
    script.write_text("broken")
    with pytest.raises(Refused, match=r"k6 exited 107 on .*load\.js: .*SyntaxError"):
        k6.run(soon(), str(script), program=program)
    with pytest.raises(Refused, match=r"gone\.js is not a file"):
        k6.run(soon(), str(tmp_path / "gone.js"), program=program)
    with pytest.raises(Unreachable, match="is not installed on this machine"):
        k6.run(soon(), str(script), program=str(tmp_path / "no-k6"))


def test_it_ends_with_the_step(script, program):
    script.write_text("slow")
    started = time.monotonic()
    with pytest.raises(TimedOut, match=r"did not finish within 1s.*shorter duration"):
        k6.run(soon(1), str(script), program=program)
    assert time.monotonic() - started < 3
    assert str(script) not in os.popen("ps -eo args").read()

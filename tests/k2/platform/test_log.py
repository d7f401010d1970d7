"""A program's log stays within a bound while it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
PROGRAM = """
from k2run.k2.platform.program import log, shorten_log
for number in range(1000):
    log("counted", number=number)
shorten_log(limit=10_000, kept=1_000)
log("counted", number=1000)
"""


def run(stdout, log_file):
    with stdout.open("ab") as file:
        environment = {**os.environ, "K2RUN_LOG": str(log_file)}
        subprocess.run([sys.executable, "-c", PROGRAM], stdout=file, env=environment, cwd=REPOSITORY, check=True)


def numbers(path):
    return [int(line.rpartition("=")[2]) for line in path.read_text().splitlines()]


def test_a_log_that_has_grown_too_long_keeps_its_end_and_is_written_on(tmp_path):
    log = tmp_path / "it.log"
    run(log, log)
    kept = numbers(log)
    assert 5 < len(kept) < 30
    assert kept == list(range(1001))[-len(kept) :]
    assert numbers(tmp_path / "it.log.1") == list(range(1000))


def test_an_output_that_is_not_the_log_is_left_alone(tmp_path):
    (tmp_path / "it.log").write_text("another")
    run(tmp_path / "output", tmp_path / "it.log")
    assert numbers(tmp_path / "output") == list(range(1001))
    assert (tmp_path / "it.log").read_text() == "another"

"""Two services of the sandbox are killed at once; `recover --auto` repairs both, each within what it promises."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from moved_ports import moved_ports, variables

from k2run.engine.events import Bound, ClockStopped
from k2run.engine.journal import read_journal
from k2run.engine.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator


WELL_S = 60.0
K2RUN = Path(sys.executable).parent / "k2run"

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("two-at-once")]


class Sandbox:
    """A sandbox of its own, and k2run commands on it."""

    def __init__(self, folder: Path) -> None:
        ports = variables(moved_ports())
        self._folder = folder
        self._environment = {**os.environ, **ports, "K2RUN_HOME": str(folder / "home")}
        self.store = Store(folder / "home")

    def k2run(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(K2RUN), *words, "--stack", "sandbox"],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout

    def await_health(self) -> None:
        ends = time.monotonic() + WELL_S
        while (told := self.k2run("diagnose"))[0]:
            assert time.monotonic() < ends, told[1]

    def kill(self, service: str) -> None:
        rows = json.loads(self.k2run("status", "--json")[1])["services"]
        [pid] = [row["pid"] for row in rows if row["service"] == service]
        if pid is None:
            pytest.skip(f"there is no {service} on this machine")
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("two"))
    try:
        assert sandbox.k2run("up")[0] == 0
        yield sandbox
    finally:
        sandbox.k2run("down")


@pytest.mark.parametrize(
    ("one", "other"), [("stream", "api"), ("broker", "consumer"), ("consumer", "prometheus"), ("api", "broker")]
)
def test_both_are_repaired_in_time_and_the_whole_is_proven(sandbox: Sandbox, one: str, other: str) -> None:
    sandbox.await_health()
    before = len(sandbox.store.runs())
    sandbox.kill(one)
    sandbox.kill(other)
    code, said = sandbox.k2run("recover", "--auto")
    assert code == 0, said
    runs = [read_journal(folder) for folder in sandbox.store.runs()[before:]]
    clocks = [event for events in runs for event in events if isinstance(event, ClockStopped)]
    assert [(clock.clock, clock.seconds) for clock in clocks if clock.objective is not Bound.MET] == []
    assert clocks[-1].clock == "rto"
    assert sandbox.k2run("diagnose")[0] == 0

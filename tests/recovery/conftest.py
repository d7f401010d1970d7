from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.engine.execution import Options
from k2run.engine.request import Request
from k2run.engine.store import Store
from k2run.language.loader import parse_runbook
from k2run.recovery.looks import diagnose
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.engine.events import AnyEvent
    from k2run.language.model import Runbook
    from k2run.recovery.diagnosis import Diagnosis

STACK = """\
stack: 1
name: sleepers
services:
  store: {run: process, command: [sleep, "600"]}
  worker: {run: process, command: [sleep, "600"], needs: [store]}
"""
REPAIR = """\
runbook: 1
kind: recovery
name: SERVICE-down
title: The SERVICE does not run
requires: [SERVICE]
objective: {rto: 20s}
symptoms:
  - name: Its process has ended
    service.status: {service: SERVICE}
    expect: result.state == 'stopped'
steady_state:
  - name: It runs
    service.status: {service: SERVICE}
    expect: result.running
sections:
  - name: Repair
    clock: rto
    steps:
      - name: Start it
        service.start: {service: SERVICE}
"""


@dataclass
class Site:
    """A small stack of real processes, with recovery runbooks of its own."""

    folder: Path
    seen: list[AnyEvent] = field(default_factory=list)
    catalogue: Catalogue = field(default_factory=Catalogue)

    def see(self, event: AnyEvent) -> None:
        self.seen.append(event)

    @property
    def store(self) -> Store:
        return Store(self.folder / "home")

    def stack(self) -> Any:
        return load_stack(str(self.folder / "stack.yaml"), near=None, home=self.store.home, overrides={})

    def runbook(self, text: str) -> Runbook:
        return parse_runbook(textwrap.dedent(text), "recovery.yaml", self.catalogue)

    def repair(self, service: str) -> Runbook:
        """The runbook that recovers a service that has ended."""
        return self.runbook(REPAIR.replace("SERVICE", service))

    def symptoms(self, name: str, symptoms: str, top: str = "") -> Runbook:
        """A recovery runbook that is only there to recognise something."""
        return self.runbook(
            f"runbook: 1\nkind: recovery\nname: {name}\n{top}symptoms:\n"
            + textwrap.indent(textwrap.dedent(symptoms), "  ")
            + "sections: [{name: Repair, steps: [{assert: {that: true}}]}]\n"
        )

    def diagnose(self, *runbooks: Runbook) -> Diagnosis:
        return diagnose(runbooks, self.stack(), self.catalogue)

    def request(self, runbook: Runbook, **more: Any) -> Request:
        options = more.pop("options", Options())
        return Request(
            runbook=runbook,
            stack=self.stack(),
            store=self.store,
            catalogue=self.catalogue,
            options=options,
            observers=(self,),
            **more,
        )

    def pid(self, service: str) -> int | None:
        return next(look.status.pid for look in lifecycle.status(self.stack()) if look.service.name == service)

    def kill(self, service: str) -> None:
        process = psutil.Process(self.pid(service))
        process.kill()
        process.wait(5)

    def command(self, *words: str) -> tuple[int, str]:
        """A k2run command in a process of its own; what it prints, and its exit code."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / "k2run"), *words],
            cwd=self.folder,
            env={**os.environ, "K2RUN_HOME": str(self.store.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "stack.yaml").write_text(STACK)
    recoveries = tmp_path / "runbooks" / "recovery"
    recoveries.mkdir(parents=True)
    for service in ("store", "worker"):
        (recoveries / f"{service}-down.yaml").write_text(REPAIR.replace("SERVICE", service))
    site = Site(tmp_path)
    lifecycle.start(site.stack(), None, Deadline(10))
    yield site
    lifecycle.stop(site.stack(), ["store", "worker"])

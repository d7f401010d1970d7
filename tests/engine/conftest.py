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
from k2run.engine.events import AnyEvent, RunFinished, StepFinished
from k2run.engine.execution import Options
from k2run.engine.journal import read_journal
from k2run.engine.request import Request
from k2run.engine.run import run
from k2run.engine.store import Store
from k2run.language.loader import parse_runbook
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

EMPTY_STACK = "stack: 1\nname: none\n"
SLEEPERS = """\
stack: 1
name: sleepers
services:
  one: {run: process, command: [sleep, "600"]}
  two: {run: process, command: [sleep, "600"]}
"""


@dataclass
class Bench:
    """A k2run home in a folder of its own, on which tests run runbooks."""

    folder: Path
    stack_text: str = EMPTY_STACK
    seen: list[AnyEvent] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.folder / "home")

    @property
    def stack_file(self) -> Path:
        path = self.folder / "stack.yaml"
        if not path.exists() or path.read_text() != self.stack_text:  # a run may be reading it at this moment
            path.write_text(self.stack_text)
        return path

    def stack(self) -> Any:
        return load_stack(str(self.stack_file), near=None, home=self.store.home, overrides={})

    def write(self, text: str, name: str = "runbook") -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    def request(self, text: str, **options: Any) -> Request:
        catalogue = Catalogue()
        person = options.pop("person", None)
        loaded = parse_runbook(textwrap.dedent(text), "runbook.yaml", catalogue, home=self.folder)
        given = {} if person is None else {"person": person}
        return Request(
            runbook=loaded,
            stack=self.stack(),
            store=self.store,
            catalogue=catalogue,
            options=Options(**options),
            observers=(self,),
            **given,
        )

    def see(self, event: AnyEvent) -> None:
        self.seen.append(event)

    def run(self, text: str, **options: Any) -> RunFinished:
        self.seen.clear()
        return run(self.request(text, **options))

    def steps(self) -> dict[str, StepFinished]:
        """How each step ended, by name."""
        return {event.name: event for event in self.seen if isinstance(event, StepFinished)}

    def outcomes(self) -> dict[str, str]:
        return {name: step.outcome.value for name, step in self.steps().items()}

    def journal(self) -> list[AnyEvent]:
        return read_journal(self.store.find_run("last"))

    def command(self, *words: str, before: Sequence[str] = (), **more: Any) -> subprocess.Popen[str]:
        """A k2run command as a process of its own; `before` stands before it on the line, such as `nohup`."""
        return subprocess.Popen(
            [*before, str(Path(sys.executable).parent / "k2run"), *words],
            cwd=self.folder,
            env={**os.environ, "K2RUN_HOME": str(self.store.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **more,
        )

    def output(self, *words: str) -> tuple[int, str]:
        process = self.command(*words)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out

    def processes(self) -> dict[str, psutil.Process]:
        """The live processes of the stack's services, by service."""
        return {
            look.service.name: psutil.Process(look.status.pid)
            for look in lifecycle.status(self.stack())
            if look.status.pid and psutil.pid_exists(look.status.pid)
        }


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[Bench]:
    """A bench whose stack has two real processes, running."""
    bench = Bench(tmp_path, SLEEPERS)
    from k2run.actions.deadline import Deadline

    lifecycle.start(bench.stack(), None, Deadline(10), lambda _text: None)
    yield bench
    lifecycle.stop(bench.stack(), ["one", "two"])


@pytest.fixture
def readiness() -> Callable[[str], str]:
    """A readiness runbook around some steps."""

    def wrap(steps: str, top: str = "") -> str:
        return (
            "runbook: 1\nkind: readiness\nname: test\ntitle: Test\n"
            + textwrap.dedent(top)
            + "sections:\n  - name: Only\n    steps:\n"
            + textwrap.indent(textwrap.dedent(steps), "      ")
        )

    return wrap

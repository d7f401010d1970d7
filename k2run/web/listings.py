"""What the page lists: runs, from both ends of their journals; runbooks and stacks, read again when they change."""

from __future__ import annotations

import threading
import time
from itertools import takewhile
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from k2run.actions.catalogue import Catalogue
from k2run.app.launch import objective_of, open_stack, runbook_files
from k2run.app.run_processes import process_of
from k2run.engine.events import RunFinished, RunStarted, Scored, SectionFinished, StepFinished
from k2run.engine.journal import JOURNAL, ends_of, newest_first, read_journal
from k2run.errors import K2runError, UsageError
from k2run.evidence.view import tone_of, word_of
from k2run.evidence.wording import span
from k2run.files import LONGEST_RUN, name_objection
from k2run.language.loader import load_runbook
from k2run.language.model import Kind
from k2run.stack import lifecycle
from k2run.stack.backend import State
from k2run.stack.redactor import unsecret
from k2run.stack.stack import stack_files

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.engine.store import Store
    from k2run.language.model import Runbook
    from k2run.stack.lifecycle import Look
    from k2run.stack.stack import Stack

BROKEN = "with problems"
KINDS = (BROKEN, *(kind.value for kind in Kind))
FRESH_S = 4.0
"""Seconds for which the health of a stack is cached."""


class NotFound(UsageError):
    """No such run, runbook, stack or incident."""


class RunSummary(Struct, frozen=True, kw_only=True):
    """One run in a line.

    Attributes:
        state: `running`, `died`, or the outcome with which it ended.
        word: GO, NO-GO, PASSED, FAILED …, in capitals; empty while it runs.
        light: `good`, `warn`, `bad` or `quiet`.
    """

    id: str
    name: str
    title: str
    kind: str
    stack: str
    at: str
    by: str = ""
    state: str = ""
    word: str = ""
    verdict: str = ""
    light: str = "quiet"
    score: float | None = None
    seconds: float = 0.0


class Runs:
    """The runs of a k2run home; what has ended is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[int, RunSummary]] = {}

    def folder(self, run: str) -> Path:
        """The folder of a run, by its whole id; nothing else is looked up by what a browser sends.

        Raises:
            NotFound: There is no such run.
        """
        if not name_objection(run, LONGEST_RUN):
            folder = self._store.home / "runs" / run
            if (folder / JOURNAL).is_file():
                return folder
        raise NotFound("run not found", hint="the Runs page lists all runs")

    def newest(self, count: int, before: int = 0) -> tuple[list[RunSummary], int]:
        """Some runs, newest first, and how many there are in all.

        Args:
            count: How many at most.
            before: How many of the newest to leave out.
        """
        folders = self._store.runs()[::-1]
        briefs = (self.brief(folder) for folder in folders[before : before + count])
        return [brief for brief in briefs if brief is not None], len(folders)

    def open(self) -> list[RunSummary]:
        """The runs that are running, or died and left faults."""
        folders = [self._store.open_run(stack) for stack in self._store.open_stacks()]
        briefs = [self.brief(folder) for folder in folders if folder is not None]
        return [brief for brief in briefs if brief is not None]

    def last_of(self, count: int = 400) -> dict[str, RunSummary]:
        """The newest run of each runbook, by the runbook's name."""
        found: dict[str, RunSummary] = {}
        for brief in self.newest(count)[0]:
            found.setdefault(brief.name, brief)
        return found

    def brief(self, folder: Path) -> RunSummary | None:
        """A run in a line; None when it has not started."""
        size = (folder / JOURNAL).stat().st_size
        known = self._known.get(folder.name)
        if known is not None and known[0] == size and known[1].state not in {"running", "died"}:
            return known[1]
        begun, over = ends_of(folder)
        if begun is None:
            return None
        brief = _brief(begun, over, folder, state="" if over else self._state(folder))
        self._known[folder.name] = (size, brief)
        return brief

    def _state(self, folder: Path) -> str:
        return "running" if process_of(self._store, folder.name, read_journal(folder)) else "died"


def _brief(begun: RunStarted, over: RunFinished | None, folder: Path, state: str) -> RunSummary:
    after_steps = takewhile(lambda event: not isinstance(event, StepFinished | SectionFinished), newest_first(folder))
    scored = next((event for event in after_steps if isinstance(event, Scored)), None) if over else None
    last = over or next(newest_first(folder), begun)
    return RunSummary(
        id=begun.run,
        name=begun.name,
        title=begun.title or begun.name,
        kind=begun.kind,
        stack=begun.stack,
        at=begun.at,
        by=begun.by,
        state=over.outcome.value if over else state,
        word=word_of(over, scored) if over else "",
        verdict=over.verdict if over else "",
        light=tone_of(over) if over else ("bad" if state == "died" else "live"),
        score=scored.score if scored and over else None,
        seconds=over.seconds if over else last.t,
    )


class CatalogueEntry(Struct, frozen=True, kw_only=True):
    """One runbook.

    Attributes:
        key: Its name in addresses.
        runbook: None when the file has problems.
    """

    key: str
    path: Path
    objective: str = ""
    runbook: Runbook | None = None
    problem: str = ""


class Health(Struct, frozen=True, kw_only=True):
    """The health of one service.

    Attributes:
        light: `good`, `warn`, `bad` or `quiet`.
        said: Its state in a few words.
    """

    name: str
    light: str
    said: str
    detail: str = ""
    title: str = ""


class StackHealth(Struct, frozen=True, kw_only=True):
    """The health of one stack.

    Attributes:
        problem: Why nothing could be seen at all.
    """

    name: str
    title: str
    services: tuple[Health, ...] = ()
    protected: bool = False
    problem: str = ""

    @property
    def light(self) -> str:
        """The worst of its services; what cannot be seen is neither good nor bad."""
        lights = {service.light for service in self.services}
        return "warn" if self.problem else next((each for each in ("bad", "warn", "good") if each in lights), "quiet")

    @property
    def said(self) -> str:
        """Its health in a few words."""
        if self.problem:
            return "cannot be seen"
        there = [service for service in self.services if service.light != "quiet"]
        works = sum(service.light == "good" for service in there)
        return f"{works} of {len(there)} services ready" if there else "down"


class SiteCatalogue:
    """The runbooks and stacks that can be found from here."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._catalogue = Catalogue()
        self._read: dict[Path, tuple[int, CatalogueEntry]] = {}
        self._looked: dict[str, tuple[float, StackHealth]] = {}
        self._lock = threading.Lock()

    def runbooks(self) -> list[CatalogueEntry]:
        """Every runbook, by name."""
        with self._lock:
            return sorted((self._entry(path) for path in runbook_files()), key=lambda entry: entry.key)

    def by_kind(self) -> list[tuple[str, list[CatalogueEntry]]]:
        """Every runbook, in the order in which the kinds are read; those with problems come first."""
        found: dict[str, list[CatalogueEntry]] = {}
        for entry in self.runbooks():
            found.setdefault(entry.runbook.kind.value if entry.runbook else BROKEN, []).append(entry)
        return [(kind, found[kind]) for kind in KINDS if kind in found]

    def runbook(self, key: str) -> CatalogueEntry:
        """One runbook.

        Raises:
            NotFound: There is none of that name.
        """
        for entry in self.runbooks():
            if entry.key == key:
                return entry
        raise NotFound("runbook not found", hint="the home page lists all runbooks")

    def health(self, name: str) -> StackHealth:
        """One stack and how it does.

        Raises:
            NotFound: There is none of that name.
        """
        if name not in self.stack_names():
            raise NotFound("stack not found", hint="the home page lists all stacks")
        return self._health(name)

    def stacks(self) -> list[StackHealth]:
        """Every stack and how it does."""
        return [self._health(name) for name in self.stack_names()]

    def stack_names(self) -> list[str]:
        """The stacks that can be named."""
        return list(stack_files(None))

    def _entry(self, path: Path) -> CatalogueEntry:
        changed = path.stat().st_mtime_ns
        known = self._read.get(path)
        if known is None or known[0] != changed:
            known = self._read[path] = (changed, self._load(path))
        return known[1]

    def _load(self, path: Path) -> CatalogueEntry:
        try:
            runbook = load_runbook(path, self._catalogue)
        except K2runError as error:
            return CatalogueEntry(key=path.stem, path=path, problem=error.message)
        return CatalogueEntry(key=path.stem, path=path, runbook=runbook, objective=objective_of(runbook))

    def _health(self, name: str) -> StackHealth:
        seen = self._looked.get(name)
        if seen is None or time.monotonic() - seen[0] > FRESH_S:
            seen = self._looked[name] = (time.monotonic(), self._look(name))
        return seen[1]

    def _look(self, name: str) -> StackHealth:
        try:
            stack = open_stack(name, store=self._store)
            services = tuple(
                msgspec.structs.replace(_health(stack, look), title=look.service.title)
                for look in lifecycle.status(stack)
            )
        except K2runError as error:
            return StackHealth(name=name, title=name, problem=unsecret(error.message))
        return StackHealth(name=name, title=stack.title, services=services, protected=stack.protected)


def _health(stack: Stack, look: Look) -> Health:
    name, status = look.service.name, look.status
    absent = stack.absent(name)
    if absent:
        return Health(name=name, light="quiet", said="not applicable", detail=absent)
    if look.unreached:
        return Health(name=name, light="warn", said="cannot be seen", detail=status.detail)
    if not look.is_known:
        return Health(name=name, light="quiet", said="unknown", detail="no probe: give it `ready:` in the stack file")
    if status.state not in {State.RUNNING, State.UNKNOWN}:
        never = status.state is State.STOPPED and status.started_at is None
        light = "quiet" if never or status.state is State.ABSENT else "bad"
        return Health(name=name, light=light, said="down" if never else status.state.value, detail=status.detail)
    if look.probe is not None and not look.probe.ready:
        return Health(name=name, light="bad", said="not ready", detail=look.probe.detail)
    up = f"up {span(round(status.uptime_s))}" if status.uptime_s else "up"
    restarts = f", {status.restarts} restarts" if status.restarts else ""
    return Health(name=name, light="warn" if status.restarts else "good", said=up + restarts)

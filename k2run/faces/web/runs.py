"""Past and present runs in a line each, read from the two ends of their journals."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from k2run.engine.events import AnyEvent, Outcome, RunFinished, RunStarted, Scored
from k2run.engine.journal import JOURNAL, read_journal
from k2run.errors import UsageError
from k2run.faces.abort import process_of

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.engine.store import Store

ID = re.compile(r"[0-9A-Za-z][\w.-]{0,199}")
_TAIL = 64 * 1024
"""Bytes at a journal's end that hold its verdict and its score."""
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


class Brief(Struct, frozen=True, kw_only=True):
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
    """The runs of a k2run home; what has ended is read once.

    Args:
        store: The k2run home.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[int, Brief]] = {}

    def folder(self, run: str) -> Path:
        """The folder of a run, by its whole id; nothing else is looked up by what a browser sends.

        Raises:
            UsageError: There is no such run.
        """
        if ID.fullmatch(run):
            folder = self._store.home / "runs" / run
            if (folder / JOURNAL).is_file():
                return folder
        raise UsageError("there is no such run", hint="the page of all runs lists them")

    def newest(self, count: int, before: int = 0) -> tuple[list[Brief], int]:
        """Some runs, newest first, and how many there are in all.

        Args:
            count: How many at most.
            before: How many of the newest to leave out.
        """
        folders = self._store.runs()[::-1]
        briefs = (self.brief(folder) for folder in folders[before : before + count])
        return [brief for brief in briefs if brief is not None], len(folders)

    def open(self) -> list[Brief]:
        """The runs that go on now, or died and left something to settle."""
        folders = [self._store.open_run(stack) for stack in self._store.open_stacks()]
        briefs = [self.brief(folder) for folder in folders if folder is not None]
        return [brief for brief in briefs if brief is not None]

    def last_of(self, count: int = 400) -> dict[str, Brief]:
        """The newest run of each runbook, by the runbook's name."""
        found: dict[str, Brief] = {}
        for brief in self.newest(count)[0]:
            found.setdefault(brief.name, brief)
        return found

    def brief(self, folder: Path) -> Brief | None:
        """A run in a line; None when it had not begun."""
        size = (folder / JOURNAL).stat().st_size
        known = self._known.get(folder.name)
        if known is not None and known[0] == size and known[1].state not in {"running", "died"}:
            return known[1]
        begun, tail = _ends(folder / JOURNAL)
        if begun is None:
            return None
        brief = _brief(begun, tail, state="" if _finished(tail) else self._state(folder))
        self._known[folder.name] = (size, brief)
        return brief

    def _state(self, folder: Path) -> str:
        return "running" if process_of(self._store, folder.name, read_journal(folder)) else "died"


def _ends(path: Path) -> tuple[RunStarted | None, list[AnyEvent]]:
    """The first event of a journal, and those of its last few kilobytes."""
    with path.open("rb") as file:
        first = _decode(file.readline())
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().split(b"\n")
    decoded = [event for event in map(_decode, lines) if event is not None]
    return (first if isinstance(first, RunStarted) else None), decoded


def _decode(line: bytes) -> AnyEvent | None:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return None


def _finished(tail: list[AnyEvent]) -> RunFinished | None:
    return tail[-1] if tail and isinstance(tail[-1], RunFinished) else None


def _brief(begun: RunStarted, tail: list[AnyEvent], state: str) -> Brief:
    over = _finished(tail)
    scored = next((event for event in reversed(tail) if isinstance(event, Scored)), None)
    return Brief(
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
        light=light_of(over) if over else ("bad" if state == "died" else "live"),
        score=scored.score if scored and over else None,
        seconds=over.seconds if over else (tail[-1].t if tail else 0.0),
    )


def word_of(over: RunFinished, scored: Scored | None) -> str:
    """The verdict in a word."""
    judged = scored is not None and scored.go is not None and over.outcome is not Outcome.INTERRUPTED
    return ("GO" if over.outcome is Outcome.PASSED else "NO-GO") if judged else over.outcome.value.upper()


def light_of(over: RunFinished) -> str:
    """The tone of a verdict."""
    if over.outcome is Outcome.PASSED:
        return "good"
    return "warn" if over.outcome is Outcome.INTERRUPTED else "bad"

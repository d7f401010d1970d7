"""What a load is held against: the same load in an earlier run, pinned by a name, or of the last run that passed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import msgspec
from msgspec import Struct

from k2run.actions.connection import Connection, Site
from k2run.bench.thresholds import LAST_GREEN
from k2run.engine.events import Outcome, RunFinished, RunStarted, StepFinished
from k2run.engine.journal import JOURNAL, read_journal
from k2run.errors import UsageError
from k2run.language.problems import did_you_mean
from k2run.language.quantities import encode_quantity
from k2run.whole_file import drafted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.engine.events import AnyEvent
    from k2run.stack.stack import Stack

PINS = "baselines.json"
FARTHEST = 1000
"""Runs to look back for the last green one that put on the same load."""
GREEN = frozenset({Outcome.PASSED})
PINNED = frozenset({Outcome.PASSED, Outcome.FAILED})
"""What a person pins was measured, whether or not it kept to its thresholds."""
_HOW = "pin one with `invoke baseline set NAME RUN`"


class Earlier(Struct, frozen=True, kw_only=True):
    """The same load, earlier.

    Attributes:
        run: The run that put it on.
        seq: The line of its journal.
        histogram: Its latencies, encoded.
    """

    run: str
    seq: int
    histogram: str


class NoBaseline(Exception):
    """There is nothing to hold a load against.

    Attributes:
        excused: Nobody promised that there is: no run has passed yet.
    """

    def __init__(self, message: str, *, excused: bool = False) -> None:
        super().__init__(message)
        self.excused = excused


class Baselines(Connection, frozen=True, kw_only=True):
    """Earlier runs on the same stack; no setting of the stack file, hence without a key.

    Attributes:
        home: The `.k2run` folder.
        stack: The stack's name.
    """

    needs_argument: ClassVar[str] = "baselines"
    """No action has such an argument: earlier runs ask nothing of the stack itself."""

    home: str
    stack: str

    @classmethod
    def of(cls, site: Site) -> Self:
        """The runs of the home that the stack's state is kept in; no setting says where they are."""
        return cls(home=str(cast("Stack", site).state.parent.parent), stack=site.name)

    def find(self, name: str, load: str) -> Earlier:
        """The same load in an earlier run.

        Args:
            name: Name of a baseline, or `last green`.
            load: The load's fingerprint.

        Raises:
            NoBaseline: There is none; the error says why.
        """
        if name == LAST_GREEN:
            return self._last_green(load)
        pinned = Pins(Path(self.home)).runs(name)
        run = pinned.get(self.stack)
        if run is None:
            elsewhere = f"; it is only pinned for {', '.join(pinned)}" if pinned else ""
            raise NoBaseline(f"no run is pinned as {name!r} for the stack {self.stack}{elsewhere}: {_HOW}")
        folder = Path(self.home) / "runs" / run
        if not (folder / JOURNAL).is_file():
            raise NoBaseline(f"the run {run}, which is pinned as {name!r}, is gone: {_HOW}")
        found = _load_of(folder, read_journal(folder), load, PINNED)
        if found is None:
            raise NoBaseline(f"the run {run}, which is pinned as {name!r}, did not put on this load")
        return found

    def _last_green(self, load: str) -> Earlier:
        for folder in _newest(Path(self.home) / "runs"):
            events = self._green(folder, load)
            found = _load_of(folder, events, load, GREEN)
            if found is not None:
                return found
        raise NoBaseline(f"no run on the stack {self.stack} has passed with this load yet", excused=True)

    def _green(self, folder: Path, load: str) -> list[AnyEvent]:
        """The events of a run that passed on this stack with this load; none otherwise."""
        try:
            if f'"load":"{load}"'.encode() not in (folder / JOURNAL).read_bytes():
                return []
            events = read_journal(folder)
        except (OSError, UsageError):
            return []
        here = isinstance(events[0], RunStarted) and events[0].stack == self.stack
        green = isinstance(events[-1], RunFinished) and events[-1].outcome is Outcome.PASSED
        return events if here and green else []


NO_RUNS = Baselines(home="", stack="")
"""For whoever calls a load as a function, outside of any run."""


class Pins:
    """The runs that were given a name, of each stack one: `baselines.json` in the home.

    Args:
        home: The `.k2run` folder.
    """

    def __init__(self, home: Path) -> None:
        self._file = home / PINS

    def all(self) -> dict[str, dict[str, str]]:
        """By name, and by stack, the run.

        Raises:
            UsageError: The file cannot be read.
        """
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, dict[str, str]])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            raise UsageError(f"{self._file} cannot be read: {error}", hint="mend it, or throw it away") from error

    def runs(self, name: str) -> dict[str, str]:
        """The runs of that name, by stack."""
        return self.all().get(name, {})

    def pin(self, name: str, run: Path) -> str:
        """Give a run a name; the stack that it ran on is returned.

        Raises:
            UsageError: It put on no load.
        """
        events = read_journal(run)
        if not any(_fingerprint_in(event, PINNED) for event in events) or not isinstance(events[0], RunStarted):
            raise UsageError(f"the run {run.name} put on no load", hint="`k2run history` lists the runs")
        stack = events[0].stack
        self._keep({**self.all(), name: {**self.runs(name), stack: run.name}})
        return stack

    def drop(self, name: str) -> None:
        """Forget a name.

        Raises:
            UsageError: There is no such name.
        """
        known = self.all()
        if name not in known:
            raise UsageError(f"there is no baseline {name!r}", hint=did_you_mean(name, known) or "there is none yet")
        self._keep({other: runs for other, runs in known.items() if other != name})

    def _keep(self, pins: dict[str, dict[str, str]]) -> None:
        try:
            with drafted(self._file) as draft:
                draft.write_bytes(msgspec.json.format(msgspec.json.encode(pins)) + b"\n")
        except OSError as error:
            raise UsageError(f"{self._file} cannot be written: {error.strerror}") from error


def fingerprint(action: str, **what: Any) -> str:
    """What tells one load from another: what is asked and how hard, but not for how long.

    Args:
        action: Its name.
        what: The arguments that make a difference.
    """
    text = msgspec.json.encode([action, what], enc_hook=encode_quantity, order="sorted")
    return hashlib.sha256(text).hexdigest()[:12]


def _newest(folder: Path) -> Iterator[Path]:
    try:
        found = sorted(folder.iterdir(), reverse=True)
    except OSError:
        return
    yield from found[:FARTHEST]


def _load_of(folder: Path, events: list[AnyEvent], load: str, outcomes: frozenset[Outcome]) -> Earlier | None:
    """The last time that a run put on a load; in a run of several steps alike, the last one counts."""
    for event in reversed(events):
        if _fingerprint_in(event, outcomes) == load:
            result = cast("StepFinished", event).result
            return Earlier(run=folder.name, seq=event.seq, histogram=result["histogram"])
    return None


def _fingerprint_in(event: AnyEvent, outcomes: frozenset[Outcome]) -> str:
    result = event.result if isinstance(event, StepFinished) and event.outcome in outcomes else None
    return str(result.get("load", "")) if isinstance(result, dict) and result.get("histogram") else ""

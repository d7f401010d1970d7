"""What a load is compared with: the same load in earlier runs, pinned by a name, or of the last runs that passed."""

from __future__ import annotations

import hashlib
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import msgspec
from msgspec import Struct, structs

from k2run.actions.connection import Connection, Site
from k2run.bench.latency import Percentile
from k2run.bench.regression import MOST, RATE, Sample, sample_of, sample_of_rate
from k2run.bench.thresholds import LAST_GREEN
from k2run.engine.events import Outcome, RunFinished, RunStarted, StepFinished
from k2run.engine.journal import JOURNAL, read_journal
from k2run.engine.store import began
from k2run.errors import UsageError
from k2run.files import RUN, checked_name, drafted
from k2run.language.problems import did_you_mean
from k2run.language.quantities import encode_quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.events import AnyEvent
    from k2run.stack.stack import Stack

PINS = "baselines.json"
FARTHEST = 1000
"""Runs to look back for those that put on the same load."""
GREEN = frozenset({Outcome.PASSED})
PINNED = frozenset({Outcome.PASSED, Outcome.FAILED})
"""What a person pins was measured, whether or not it kept to its thresholds."""
_HOW = "pin one with `k2run baseline set NAME RUN`"


class Earlier(Struct, frozen=True, kw_only=True):
    """The same load, earlier.

    Attributes:
        run: The run that put it on.
        seq: The line of its journal.
        percentiles: What it measured of latencies.
        rate: Good answers a second; None where that was not measured.
        samples: Good answers.
    """

    run: str
    seq: int
    percentiles: dict[str, Percentile]
    rate: float | None
    samples: int

    def sample(self, name: str) -> Sample | None:
        """A percentile or the rate; None where this run did not measure it."""
        return sample_of_rate(self.rate, self.samples) if name == RATE else sample_of(self.percentiles.get(name))


class Baseline(Struct, frozen=True, kw_only=True):
    """What a load is compared with; each oldest first.

    Attributes:
        runs: The runs that it is compared with; there is at least one.
        spread: Runs of the same load that tell how far runs differ by themselves; those above are among them.
        can_drift: Whether it moves on with each run that passes.
    """

    runs: list[Earlier]
    spread: list[Earlier]
    can_drift: bool = False

    def says(self) -> str:
        """Such as `against 8 runs up to 20261121-164302-api-0b3bf #31`."""
        last = f"{self.runs[-1].run} #{self.runs[-1].seq}"
        return f"against {last}" if len(self.runs) == 1 else f"against {len(self.runs)} runs up to {last}"


class NoBaseline(Exception):
    """There is nothing to hold a load against.

    Attributes:
        excused: None is expected: no run has passed yet.
    """

    def __init__(self, message: str, *, excused: bool = False) -> None:
        super().__init__(message)
        self.excused = excused


class Baselines(Connection, frozen=True, kw_only=True):
    """Earlier runs on the same stack; no setting of the stack file, hence without a key.

    Attributes:
        home: The `.k2run` folder.
        stack: The stack's name.
        step: Path of the step whose load is compared; "" where none is known.
    """

    needs_argument: ClassVar[str] = "baselines"
    """No action has such an argument: earlier runs ask nothing of the stack itself."""

    home: str
    stack: str
    step: str = ""

    @classmethod
    def of(cls, site: Site) -> Self:
        """The runs of the home that the stack's state is kept in; no setting says where they are."""
        return cls(home=str(cast("Stack", site).state.parent.parent), stack=site.name)

    def at(self, step: str) -> Self:
        """The same, for the load of that step: of several alike in a run, the one of the same step counts."""
        return structs.replace(self, step=step)

    def find(self, name: str, load: str) -> Baseline:
        """The same load in earlier runs.

        `load` is the load's fingerprint, `name` that of a baseline, or `last green`.

        Raises:
            NoBaseline: There is none; the error says why.
        """
        if name == LAST_GREEN:
            return self._last_green(load)
        pinned = Pins(Path(self.home)).runs(name)
        runs = pinned.get(self.stack)
        if runs is None:
            elsewhere = f"; it is only pinned for {', '.join(pinned)}" if pinned else ""
            raise NoBaseline(f"no run is pinned as {name!r} for the stack {self.stack}{elsewhere}: {_HOW}")
        found = [self._pinned(name, run, load) for run in sorted(runs, key=began)]
        return Baseline(runs=found, spread=self.beside(found, load))

    def beside(self, runs: list[Earlier], load: str, before: str = "") -> list[Earlier]:
        """These runs and others of the same load, to know how far runs differ by themselves; oldest first.

        They are those up to the last of these; where there are too few, those after it.

        Args:
            runs: Oldest first.
            load: The load's fingerprint.
            before: Only runs before this one; "" for all.
        """
        known = {one.run: one for one in runs}
        last = began(runs[-1].run)
        names = [name for name in self._newest() if name not in known and not (before and began(name) >= began(before))]
        older = (name for name in names if began(name) < last)
        later = (name for name in reversed(names) if began(name) > last)
        for name in chain(older, later):
            if len(known) >= MOST:
                break
            found = self._load_of(name, load)
            if found is not None:
                known[name] = found
        return [known[name] for name in sorted(known, key=began)]

    @property
    def _folder(self) -> Path:
        return Path(self.home) / "runs"

    def _newest(self) -> list[str]:
        """Names of runs."""
        try:
            names = [found.name for found in self._folder.iterdir()] if self.home else []
        except OSError:
            return []
        return sorted(names, key=began, reverse=True)[:FARTHEST]

    def _pinned(self, name: str, run: str, load: str) -> Earlier:
        if not (self._folder / checked_name(run, RUN) / JOURNAL).is_file():
            raise NoBaseline(f"the run {run}, which is pinned as {name!r}, is gone: {_HOW}")
        found = _latest(run, read_journal(self._folder / run), load, PINNED, self.step)
        if found is None:
            raise NoBaseline(f"the run {run}, which is pinned as {name!r}, did not put on this load")
        return found

    def _last_green(self, load: str) -> Baseline:
        green = (self._load_of(name, load, green=True) for name in self._newest())
        found = list(islice((one for one in green if one is not None), MOST))[::-1]
        if not found:
            raise NoBaseline(f"no run on the stack {self.stack} has passed with this load yet", excused=True)
        return Baseline(runs=found, spread=found, can_drift=True)

    def _load_of(self, name: str, load: str, *, green: bool = False) -> Earlier | None:
        """The load in one run on this stack, whose step passed; None where it did not put it on, or has not ended."""
        folder = self._folder / name
        try:
            if f'"load":"{load}"'.encode() not in (folder / JOURNAL).read_bytes():
                return None
            events = read_journal(folder)
        except (OSError, UsageError):
            return None
        here = isinstance(events[0], RunStarted) and events[0].stack == self.stack
        last = events[-1]
        fits = isinstance(last, RunFinished) and (not green or last.outcome is Outcome.PASSED)
        return _latest(name, events, load, GREEN, self.step) if here and fits else None


NO_RUNS = Baselines(home="", stack="")
"""For whoever calls a load as a function, outside of any run."""


class Pins:
    """The runs that were given a name, of each stack one: `baselines.json` in the home."""

    def __init__(self, home: Path) -> None:
        self._file = home / PINS

    def all(self) -> dict[str, dict[str, list[str]]]:
        """By name, and by stack, the runs.

        Raises:
            UsageError: The file cannot be read.
        """
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=dict[str, dict[str, str | list[str]]])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            raise UsageError(f"{self._file} cannot be read: {error}", hint="mend it, or throw it away") from error
        # One run alone is written as a text.
        return {
            name: {stack: [runs] if isinstance(runs, str) else runs for stack, runs in stacks.items()}
            for name, stacks in found.items()
        }

    def runs(self, name: str) -> dict[str, list[str]]:
        """The runs of that name, by stack."""
        return self.all().get(name, {})

    def pin(self, name: str, runs: Sequence[Path]) -> str:
        """Give runs a name; the stack that they ran on is returned.

        Raises:
            UsageError: One put on no load, or they ran on several stacks.
        """
        stacks = {_stack_of(run) for run in runs}
        if len(stacks) > 1:
            raise UsageError(f"these runs are of several stacks: {', '.join(sorted(stacks))}", hint="pin those of one")
        (stack,) = stacks
        self._keep({**self.all(), name: {**self.runs(name), stack: sorted({run.name for run in runs}, key=began)}})
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

    def _keep(self, pins: dict[str, dict[str, list[str]]]) -> None:
        written = {
            name: {stack: runs[0] if len(runs) == 1 else runs for stack, runs in stacks.items()}
            for name, stacks in pins.items()
        }
        try:
            with drafted(self._file) as draft:
                draft.write_bytes(msgspec.json.format(msgspec.json.encode(written)) + b"\n")
        except OSError as error:
            raise UsageError(f"{self._file} cannot be written: {error.strerror}") from error


def fingerprint(action: str, **what: Any) -> str:
    """What tells one load from another: what is asked and how hard, but not for how long."""
    text = msgspec.json.encode([action, what], enc_hook=encode_quantity, order="sorted")
    return hashlib.sha256(text).hexdigest()[:12]


def _stack_of(run: Path) -> str:
    """The stack of a run that put on a load.

    Raises:
        UsageError: It put on none.
    """
    events = read_journal(run)
    if not any(_fingerprint_in(event, PINNED) for event in events) or not isinstance(events[0], RunStarted):
        raise UsageError(f"the run {run.name} put on no load", hint="`k2run history` lists the runs")
    return events[0].stack


def _latest(run: str, events: list[AnyEvent], load: str, outcomes: frozenset[Outcome], step: str) -> Earlier | None:
    """The last time that a run put on a load; of several steps alike, the one with that path counts."""
    alike = [cast("StepFinished", event) for event in events if _fingerprint_in(event, outcomes) == load]
    same = [event for event in alike if event.step == step]
    return earlier(run, (same or alike)[-1]) if alike else None


def earlier(run: str, event: StepFinished) -> Earlier | None:
    """What a step of an earlier run measured; None where it put on no load that can be read."""
    kept = ("percentiles", "rate", "samples")
    result = event.result if isinstance(event.result, dict) else {}
    try:
        return msgspec.convert({name: result.get(name) for name in kept} | {"run": run, "seq": event.seq}, Earlier)
    except msgspec.ValidationError:
        return None


def _fingerprint_in(event: AnyEvent, outcomes: frozenset[Outcome]) -> str:
    result = event.result if isinstance(event, StepFinished) and event.outcome in outcomes else None
    return str(result.get("load", "")) if isinstance(result, dict) and result.get("percentiles") else ""

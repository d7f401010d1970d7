"""What a document's template may ask; whatever it prints is a quote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from k2run.engine.journal import read_journal
from k2run.errors import K2runError
from k2run.evidence.document import FORMS, Footnotes, Quote
from k2run.evidence.view import view_of
from k2run.evidence.wording import MARKS, Standing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.engine.events import AnyEvent
    from k2run.evidence.history import History, Point
    from k2run.evidence.step_view import StepView
    from k2run.evidence.view import RunView
    from k2run.language.model import Runbook

_FIELDS = {"run": "seconds", "clock": "seconds", "section": "seconds", "step": "seconds"}


class Value:
    """A value of a template: printing it cites it.

    Args:
        quote: The value; None when no run has it.
        what: What it is, for the message when there is none.
        notes: The document's footnotes.
    """

    def __init__(self, quote: Quote | None, what: str, notes: Footnotes) -> None:
        self._quote, self._what, self._notes = quote, what, notes

    def __str__(self) -> str:
        return self._notes.cite(self._quote) if self._quote is not None else self._notes.missing(self._what)

    def __bool__(self) -> bool:
        return self._quote is not None


class KnownRunbook(Struct, frozen=True):
    """A runbook that can be found, and its last run.

    Attributes:
        last: None when it was never run to its end.
    """

    runbook: Runbook
    last: RunQuotes | None

    @property
    def name(self) -> str:
        """Its name, as code."""
        return f"`{self.runbook.name}`"

    @property
    def title(self) -> str:
        """What it is about."""
        return self.runbook.title or self.runbook.name


class RunQuotes:
    """A run that has ended, as a template sees it.

    Args:
        view: The run.
        notes: The document's footnotes.
    """

    def __init__(self, view: RunView, notes: Footnotes) -> None:
        self._view, self._notes = view, notes

    def _value(self, event: AnyEvent | None, field: str, form: str = "text") -> Value:
        run = self._view.started.run if self._view.started is not None else ""
        return Value(quoted(run, event, field, form), field, self._notes)

    @property
    def verdict(self) -> Value:
        """The sentence at its end."""
        return self._value(self._view.finished, "verdict")

    @property
    def seconds(self) -> Value:
        """How long it took."""
        return self._value(self._view.finished, "seconds", "time")

    @property
    def when(self) -> Value:
        """When it began."""
        return self._value(self._view.started, "at", "moment")

    @property
    def score(self) -> Value:
        """Of a hundred."""
        return self._value(self._view.scored, "score", "points")

    @property
    def coverage(self) -> Value:
        """The share of the points that could be judged."""
        return self._value(self._view.scored, "coverage", "percent")

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The lines of the score: title, earned, judged, points."""
        scored = self._view.scored
        lines = scored.lines if scored is not None else []
        return [
            {
                "title": line.title,
                "judged_at_all": bool(line.judged),
                **{
                    name: self._value(scored, f"lines.{number}.{name}", "points")
                    for name in ("earned", "judged", "points")
                },
            }
            for number, line in enumerate(lines)
        ]

    @property
    def missing(self) -> list[Value]:
        """What a better score needs."""
        return self._listed("missing")

    @property
    def for_a_person(self) -> list[Value]:
        """What only a person can see."""
        return self._listed("for_a_person")

    @property
    def not_applicable(self) -> list[Value]:
        """What the stack has no way to show."""
        return self._listed("not_applicable")

    def _listed(self, field: str) -> list[Value]:
        scored = self._view.scored
        entries = getattr(scored, field) if scored is not None else []
        return [self._value(scored, f"{field}.{number}") for number in range(len(entries))]

    @property
    def objectives(self) -> list[dict[str, Any]]:
        """Objectives of the whole run: objective, value, met."""
        return [
            {"objective": self._value(each, "objective"), "value": self._value(each, "value"), "met": each.bound.value}
            for each in self._view.objectives
        ]

    def clock(self, name: str) -> Value:
        """A clock that was stopped, such as `rto`."""
        stopped = next((each for each in self._view.clocks if each.clock == name and not each.message), None)
        return self._value(stopped, "seconds", "time")

    def promised(self, name: str) -> Value:
        """What the runbook promised at its start: `within`, `rto` (times) or `rpo` (messages)."""
        declared = self._view.started is not None and getattr(self._view.started, name, None) is not None
        return self._value(self._view.started if declared else None, name, "count" if name == "rpo" else "time")

    def figure(self, name: str, form: str = "number") -> Value:
        """A figure that a step recorded."""
        steps = [step.finished for step in self._view.leaves() if step.finished is not None]
        return self._value(
            next((step for step in reversed(steps) if name in step.figures), None), f"figures.{name}", form
        )

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Every step that was reached: section, name, mark, word, headline, expected, seconds, action."""
        return [self._step(step) for step in self._view.leaves() if step.finished is not None]

    def _step(self, step: StepView) -> dict[str, Any]:
        finished = step.finished
        assert finished is not None  # noqa: S101 - the caller has looked
        return {
            "section": self._view.sections[step.section].name,
            "action": step.action,
            "mark": MARKS[step.standing],
            "word": "failed" if step.standing is Standing.FAILED else step.standing.value,
            "name": self._value(finished, "name"),
            "headline": self._value(finished, "headline") if finished.headline else "",
            "message": self._value(finished, "message") if finished.message else "",
            "expected": self._value(finished, "expected") if finished.expected else "",
            "seconds": self._value(finished, "seconds", "time"),
            "loads": _loads(finished.result),
            "value": lambda field, form="number": self._value(finished, f"result.{field}", form),
        }


class Sources:
    """What templates ask: figures, runs, runbooks.

    Args:
        history: All past runs.
        runs: The folder of their journals.
        runbooks: Those that can be found.
        notes: Collects what is quoted.
        stack: Only runs on this stack; "" for all.
    """

    def __init__(self, history: History, runs: Path, runbooks: Sequence[Runbook], notes: Footnotes, stack: str) -> None:
        self._history, self._runs, self._runbooks = history, runs, runbooks
        self._notes, self._stack = notes, stack
        self._views: dict[str, RunView] = {}
        self._events: dict[str, dict[int, AnyEvent]] = {}

    def figure(self, metric: str, form: str = "number", runbook: str = "") -> Value:
        """The newest measure of a metric, as `k2run trend` names it."""
        found = self._history.points(metric, name=runbook, stack=self._stack, last=1)
        quote = self._of_point(metric, found[0], form) if found else None
        return Value(quote, metric, self._notes)

    def _of_point(self, metric: str, point: Point, form: str) -> Quote | None:
        key = metric.rpartition("/")[2]
        fields = {**_FIELDS, "score": metric, "figure": f"figures.{metric}", "result": f"result.{key}"}
        return quoted(point.run, self._read(point.run).get(point.seq), fields[point.kind], form)

    def last(self, runbook: str) -> RunQuotes | None:
        """The newest run of a runbook that has ended; None when there is none."""
        ended = [run for run in self._history.runs(name=runbook, stack=self._stack, last=50) if run.outcome]
        whole = [run for run in ended if run.outcome != "interrupted"]
        return RunQuotes(self._view(whole[-1].run), self._notes) if whole else None

    def known(self, *kinds: str) -> list[KnownRunbook]:
        """The runbooks of these kinds that can be found."""
        return [KnownRunbook(each, self.last(each.name)) for each in self._runbooks if each.kind.value in kinds]

    def ask(self, what: str) -> str:
        """A remark that something is not measured, and a problem of the document."""
        return self._notes.missing(what)

    def _view(self, run: str) -> RunView:
        if run not in self._views:
            events = self._read(run)
            self._views[run] = view_of(events[seq] for seq in sorted(events))
        return self._views[run]

    def _read(self, run: str) -> dict[int, AnyEvent]:
        if run not in self._events:
            try:
                self._events[run] = {event.seq: event for event in read_journal(self._runs / run)}
            except K2runError:
                self._events[run] = {}
        return self._events[run]


def quoted(run: str, event: AnyEvent | None, field: str, form: str) -> Quote | None:
    """The value at a place of an event; None where there is none."""
    raw = at_place(msgspec.to_builtins(event, enc_hook=str), field) if event is not None else None
    if event is None or raw is None or (form not in {"text", "moment"} and not isinstance(raw, int | float)):
        return None
    return Quote(shown=FORMS[form](raw), raw=raw, run=run, seq=event.seq, field=field, at=event.at, form=form)


def at_place(value: Any, field: str) -> Any:
    """The value at a place such as `result.percentiles.p99`; names with dots in them are tried whole first."""
    if not field:
        return value
    if isinstance(value, dict) and field in value:
        return value[field]
    head, _, rest = field.partition(".")
    if isinstance(value, list):
        return at_place(value[int(head)], rest) if head.isdigit() and int(head) < len(value) else None
    return at_place(value[head], rest) if isinstance(value, dict) and head in value else None


def _loads(result: Any) -> bool:
    """Whether a result is that of a load: it has percentiles."""
    return isinstance(result, dict) and "percentiles" in result

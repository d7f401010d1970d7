"""Values of a run for a document: each with the line of the journal that has it, or the reason why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from k2run.engine.events import Outcome, StepFinished
from k2run.errors import UsageError
from k2run.evidence.measurements import at_place
from k2run.evidence.quoted_document import FORMS, OF_TEXTS, Declared, Footnotes, Quote, has_number
from k2run.evidence.report_markdown import text
from k2run.evidence.view import RunView  # noqa: TC001 - msgspec resolves the types of fields at run time
from k2run.evidence.wording import MARKS, Standing, standing_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.events import AnyEvent
    from k2run.evidence.step_view import StepView

_FAILED = frozenset({Standing.FAILED, Standing.WARNING, Standing.IGNORED})
_OF_A_LINE = ("earned", "judged", "points")


class Value:
    """A value of a template: printing it cites it, or says why there is none.

    Args:
        quote: The value; None when there is no evidence.
        notes: The document's footnotes.
        what: What it is, for the message when there is none.
        command: What measures it.
        standing: How the step that measures it ended.
    """

    def __init__(
        self, quote: Quote | Declared | None, notes: Footnotes, what: str, command: str = "", standing: str = ""
    ) -> None:
        self._quote, self._notes, self._missing = quote, notes, (what, command, standing)

    def __str__(self) -> str:
        return self._notes.cite(self._quote) if self._quote is not None else self._notes.missing(*self._missing)

    def __bool__(self) -> bool:
        return self._quote is not None

    @property
    def brief(self) -> str:
        """The same without the command that measures it, for a table that names it once."""
        return str(self).partition(" (`")[0] if self._quote is None else str(self)


class Source(Struct, frozen=True, kw_only=True):
    """The run that quotes are taken from.

    Attributes:
        view: None when the runbook has no such run.
        command: What runs it.
    """

    view: RunView | None
    name: str
    command: str
    notes: Footnotes

    @property
    def here(self) -> bool:
        """Whether it is of the stack that the document is about."""
        started = self.view.started if self.view is not None else None
        return started is not None and self.notes.stack in {"", started.stack}

    def value(self, event: AnyEvent | None, field: str, form: str = "text", standing: str = "") -> Value:
        """The value at a place of one of the run's events."""
        quote = quoted(self.view, event, field, form) if self.view is not None else None
        # what another stack does not have says nothing of this one
        return Value(quote, self.notes, f"{self.name}: {field}", self.command, standing if self.here else "")


def quoted(view: RunView, event: AnyEvent | None, field: str, form: str) -> Quote | None:
    """The value at a place of an event of a run; None where there is none."""
    raw = at_place(msgspec.to_builtins(event, enc_hook=str), field) if event is not None else None
    if event is None or raw is None or view.started is None:
        return None
    if form not in OF_TEXTS and (isinstance(raw, bool) or not isinstance(raw, int | float)):
        return None
    return Quote(
        shown=FORMS[form](raw),
        raw=raw,
        run=view.started.run,
        stack=view.started.stack,
        seq=event.seq,
        field=field,
        at=event.at,
        form=form,
        passed=view.finished is not None and view.finished.outcome is Outcome.PASSED,
        standing=standing_of(event).value if isinstance(event, StepFinished) else "",
    )


class StepQuotes:
    """A step of a run; one that was not reached has no values, and its messages call it as it was `named`."""

    def __init__(self, step: StepView | None, source: Source, named: str) -> None:
        self._finished = step.finished if step is not None else None
        self._standing = step.standing if step is not None else None
        self._source, self._named = source, named
        self.path = step.path if step is not None else ""
        self.action = step.action if step is not None else ""
        self.section = ""
        if step is not None and source.view is not None:
            self.section = source.view.sections[step.section].name

    @property
    def mark(self) -> str:
        """The sign of how it ended."""
        return MARKS[self._standing] if self._standing is not None else "?"

    @property
    def word(self) -> str:
        """How it ended: passed, failed, warning, n/a, …; `not run` when it was not reached."""
        if self._standing is None:
            return "not run"
        return "failed" if self._standing is Standing.FAILED else self._standing.value

    @property
    def passed(self) -> bool:
        """Whether it passed."""
        return self._standing is Standing.PASSED

    @property
    def checks(self) -> bool:
        """Whether it is a check: something is expected of it, or it earns points."""
        return self._finished is not None and bool(self._finished.expected or self._finished.maximum is not None)

    @property
    def name(self) -> Value | str:
        """Its name."""
        return self._called("text")

    @property
    def words(self) -> Value | str:
        """Its name without the number of the check."""
        return self._called("words")

    def _called(self, form: str) -> Value | str:
        """Its name, with a footnote only where it has a number in it."""
        said = FORMS[form](self._finished.name) if self._finished is not None else self._named
        return self.value_at("name", form) if has_number(said) else text(said)

    @property
    def headline(self) -> Value | str:
        """What it found."""
        return self.value_at("headline", "text") if self._finished and self._finished.headline else ""

    @property
    def message(self) -> Value | str:
        """Why it did not pass."""
        return self.value_at("message", "words") if self._finished and self._finished.message else ""

    @property
    def expected(self) -> Value | str:
        """What was expected of its result."""
        return self.value_at("expected", "bounds") if self._finished and self._finished.expected else ""

    @property
    def seconds(self) -> Value:
        """How long it took, when it passed: the time in which something did not happen is no time."""
        passed = self.passed or self._standing is None
        return self.value_at("seconds", "time") if passed else self._no("seconds")

    @property
    def loads(self) -> bool:
        """Whether it is a load: its result has percentiles."""
        result = self._finished.result if self._finished is not None else None
        return isinstance(result, dict) and "percentiles" in result

    @property
    def targets(self) -> list[dict[str, Any]]:
        """The thresholds of a load: target, met."""
        judged = self._source.view.objectives if self._source.view is not None and self.path else []
        return [
            {"target": self._source.value(each, "objective", "target"), "met": each.bound.value.replace("_", " ")}
            for each in judged
            if each.step == self.path
        ]

    def value(self, field: str, form: str = "number") -> Value:
        """A value of its result."""
        return self.value_at(f"result.{field}", form)

    def value_at(self, field: str, form: str) -> Value:
        """A value at a place of its end."""
        if self._finished is None:
            return self._no(field)
        return self._source.value(self._finished, field, form, "" if self._standing in _FAILED else self._ended)

    @property
    def _ended(self) -> str:
        """How it ended, as a reason why there is no value."""
        return "failed" if self._standing in _FAILED else self._standing.value if self._standing else ""

    def _no(self, field: str) -> Value:
        standing = self._ended if self._source.here else ""
        return Value(None, self._source.notes, f"{self._named}: {field}", self._source.command, standing)


class RunQuotes:
    """A run that has ended; one of a runbook that never ran has no values, and is false."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._view = source.view

    def __bool__(self) -> bool:
        return self._view is not None

    def _value(self, of: str, field: str, form: str = "text") -> Value:
        return self._source.value(getattr(self._view, of, None), field, form)

    @property
    def command(self) -> str:
        """What runs it again."""
        return f"`{self._source.command}`"

    @property
    def passed(self) -> bool:
        """Whether it passed."""
        finished = self._view.finished if self._view is not None else None
        return finished is not None and finished.outcome is Outcome.PASSED

    @property
    def here(self) -> bool:
        """Whether it is of the stack that the document is about."""
        return self._source.here

    @property
    def attended(self) -> bool:
        """Whether an operator was there."""
        return self._view is not None and self._view.started is not None and self._view.started.attended

    @property
    def verdict(self) -> Value:
        """The sentence at its end."""
        return self._value("finished", "verdict")

    @property
    def seconds(self) -> Value:
        """How long it took."""
        return self._value("finished", "seconds", "time")

    @property
    def when(self) -> Value:
        """When it began."""
        return self._value("started", "at", "moment")

    @property
    def score(self) -> Value:
        """Of a hundred."""
        return self._value("scored", "score", "points")

    @property
    def coverage(self) -> Value:
        """The share of the points that could be judged."""
        return self._value("scored", "coverage", "percent")

    @property
    def reasons(self) -> list[Value]:
        """Why it did not pass."""
        reasons = self._view.finished.reasons if self._view is not None and self._view.finished is not None else []
        return [self._value("finished", f"reasons.{number}") for number in range(len(reasons))]

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The lines of the score: title, judged_at_all, whole, all_judged, earned, judged, points."""
        scored = self._view.scored if self._view is not None else None
        return [
            {
                "category": line.category,
                "title": line.title,
                "judged_at_all": bool(line.judged),
                "whole": line.earned >= line.points,
                "all_judged": line.earned >= line.judged,
                **{name: self._value("scored", f"lines.{at}.{name}", "points") for name in _OF_A_LINE},
            }
            for at, line in enumerate(scored.lines if scored is not None else [])
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
        scored = self._view.scored if self._view is not None else None
        entries = getattr(scored, field) if scored is not None else []
        return [self._value("scored", f"{field}.{number}", "words") for number in range(len(entries))]

    @property
    def objectives(self) -> list[dict[str, Any]]:
        """Objectives of the whole run: objective, value, met."""
        return [
            {
                "objective": self._source.value(each, "objective"),
                "value": self._source.value(each, "value"),
                "met": each.bound.value.replace("_", " "),
            }
            for each in (self._view.objectives if self._view is not None else [])
        ]

    def clock(self, name: str) -> Value:
        """A clock of the run itself, such as `rto`, where its condition stopped it."""
        clocks = self._view.clocks if self._view is not None else []
        stopped = next((each for each in clocks if each.clock == name and not each.message and not each.step), None)
        return self._source.value(stopped, "seconds", "time") if stopped is not None else self._nothing(name)

    def section(self, name: str) -> Value:
        """How long a section took, when it passed and an operator confirmed all of it that is for one."""
        sections = self._view.sections.values() if self._view is not None else ()
        section = next((each for each in sections if each.name == name and each.finished is not None), None)
        if section is None or section.finished is None:
            return self._nothing(f"section {name}")
        if any(step.standing is Standing.NOT_CONFIRMED for step in section.leaves()):
            return self._nothing(f"section {name}", Standing.NOT_CONFIRMED.value)
        if section.finished.outcome is Outcome.PASSED:
            return self._source.value(section.finished, "seconds", "time")
        return self._nothing(f"section {name}", "failed" if section.finished.outcome is Outcome.FAILED else "")

    def _cut(self, section: str) -> str:
        """Why a step of a section did not record what it records: the section failed before it; empty otherwise."""
        sections = self._view.sections.values() if self._view is not None and self._source.here else ()
        ended = (each.finished.outcome for each in sections if each.name == section and each.finished is not None)
        return "skipped" if Outcome.FAILED in ended else ""

    def step(self, name: str, section: str = "") -> StepQuotes:
        """A step by its name, and by its section where several have one of that name.

        Raises:
            UsageError: Several sections have a step of that name, and none is named.
        """
        found = [step for step in self._ended(section) if step.name == name]
        self._of_one_section(f"the step {name!r}", found)
        return StepQuotes(found[-1] if found else None, self._source, f"{self._source.name}: {name}")

    def figure(self, name: str, form: str = "number", *, section: str = "") -> Value:
        """A figure that a step recorded; as a template cannot know its step, by the section.

        Raises:
            UsageError: Several sections recorded one of that name, and none is named.
        """
        found = [step for step in self._ended(section) if step.finished is not None and name in step.finished.figures]
        self._of_one_section(f"the figure {name!r}", found)
        if not found:
            return self._nothing(f"figure {name}", self._cut(section))
        return StepQuotes(found[-1], self._source, self._source.name).value_at(f"figures.{name}", form)

    @property
    def steps(self) -> list[StepQuotes]:
        """Every step that was reached."""
        return [StepQuotes(step, self._source, step.name) for step in self._ended("")]

    def _ended(self, section: str) -> list[StepView]:
        view = self._view
        if view is None:
            return []
        ended = [step for step in view.leaves() if step.finished is not None]
        return [step for step in ended if not section or view.sections[step.section].name == section]

    def _of_one_section(self, what: str, found: Sequence[StepView]) -> None:
        if self._view is None or len({step.section for step in found}) <= 1:
            return
        paths = dict.fromkeys(step.section for step in found)
        names = ", ".join(repr(self._view.sections[path].name) for path in paths)
        raise UsageError(f"{what} is in several sections of {self._source.name}", hint=f"add section=, one of: {names}")

    def _nothing(self, what: str, standing: str = "") -> Value:
        return Value(None, self._source.notes, f"{self._source.name}: {what}", self._source.command, standing)

"""What a document's template may ask: figures, runs, runbooks, the stack. Whatever it prints is a quote."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.engine.journal import read_journal
from k2run.errors import K2runError, UsageError
from k2run.evidence.quoted_document import FORMS, Declared, Footnotes, has_number
from k2run.evidence.quotes import RunQuotes, Source, Value
from k2run.evidence.report_markdown import text
from k2run.evidence.view import view_of
from k2run.stack.redactor import unsecret

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from k2run.evidence.history import History
    from k2run.evidence.view import RunView
    from k2run.language.model import Runbook, Section, Step
    from k2run.stack.model import Service
    from k2run.stack.stack import Stack

NEWEST = 50
"""So many runs of a runbook are searched for one that ended and was whole."""
COMMANDS = {"backup": "k2run backup", "rehearsal": "k2run rehearse"}
"""What runs a runbook, where that is a command of its own."""
RECOVERY = "recovery"
DRILL = "k2run drill --every"
"""What measures every recovery that the runbook `drill` has a fault for."""


class Sources:
    """What templates ask. A figure is that of a named runbook's last whole run, never one of any run.

    Args:
        history: All past runs.
        runs: The folder of their journals.
        runbooks: Those that can be found.
        notes: Collects what is quoted; its stack is the one that the document is about.
        stack: That stack, read; None when it cannot be.
    """

    def __init__(
        self, history: History, runs: Path, runbooks: Sequence[Runbook], notes: Footnotes, stack: Stack | None = None
    ) -> None:
        self._history, self._runs, self._runbooks, self._notes = history, runs, runbooks, notes
        self._views: dict[str, RunView | None] = {}
        steps = (
            step for each in runbooks if each.name == "drill" for section in each.sections for step in section.steps
        )
        self._drilled = {PurePath(step.recovery).stem for step in steps if step.recovery}
        self.stack = StackQuotes(stack, notes)

    def figure(self, metric: str, form: str = "number", *, runbook: str = "", section: str = "") -> Value:
        """A figure of a section of the last run of a runbook.

        Raises:
            UsageError: Runbook or section is not named.
        """
        if not (runbook and section):
            raise UsageError(
                f"figure({metric!r}) does not say whose", hint="name both: figure(METRIC, FORM, runbook=…, section=…)"
            )
        return self.last(runbook).figure(metric, form, section=section)

    def last(self, runbook: str, kind: str = "") -> RunQuotes:
        """The newest whole run of a runbook that has ended, on this stack or else on any; false when there is none.

        Args:
            runbook: Its name.
            kind: Its kind, where runbooks of two kinds have that name.
        """
        found = next(self._whole(runbook, kind, self._notes.stack), None)
        if found is None and self._notes.stack:
            found = next(self._whole(runbook, kind, ""), None)
        return self._quotes(found, runbook, kind)

    def runs(self, runbook: str, last: int = 8) -> list[RunQuotes]:
        """The newest whole runs of a runbook on this stack that have ended, newest first."""
        found = self._whole(runbook, "", self._notes.stack)
        return [self._quotes(view, runbook, "") for view, _ in zip(found, range(last), strict=False)]

    def known(self, *kinds: str) -> list[KnownRunbook]:
        """The runbooks of these kinds that can be found."""
        return [self._known(each) for each in self._runbooks if each.kind.value in kinds]

    def runbook(self, name: str) -> KnownRunbook | None:
        """A runbook by its name; None when there is none."""
        return next((self._known(each) for each in self._runbooks if each.name == name), None)

    def services(self) -> list[dict[str, object]]:
        """The services of this stack that have an address."""
        return self.stack.services

    def ask(self, what: str, command: str = "") -> str:
        """A remark that something is not measured, and a problem of the document."""
        return self._notes.missing(what, command)

    def _known(self, runbook: Runbook) -> KnownRunbook:
        last = self.last(runbook.name, runbook.kind.value)
        return KnownRunbook(runbook, last, self._notes, self.stack.absent(runbook))

    def _quotes(self, view: RunView | None, runbook: str, kind: str) -> RunQuotes:
        kinds = {each.kind.value for each in self._runbooks if each.name == runbook}
        recovery = (kind or next(iter(kinds), "")) == RECOVERY
        drill = DRILL if runbook in self._drilled else ""  # run where nothing is broken, it would measure nothing
        command = drill if recovery else COMMANDS.get(runbook, f"k2run run {runbook}")
        return RunQuotes(Source(view=view, name=runbook, command=command, notes=self._notes))

    def _whole(self, runbook: str, kind: str, stack: str) -> Iterator[RunView]:
        """The runs that ended and were not of a part of the runbook only, newest first."""
        for run in reversed(self._history.runs(name=runbook, stack=stack, last=NEWEST)):
            fits = run.outcome not in {"", "interrupted"} and kind in {"", run.kind}
            view = self._view(run.run) if fits else None
            if view is not None and view.finished is not None and not view.finished.partial:
                yield view

    def _view(self, run: str) -> RunView | None:
        if run not in self._views:
            try:
                self._views[run] = view_of(read_journal(self._runs / run))
            except K2runError:
                self._views[run] = None
        return self._views[run]


def declared(raw: Any, source: str, field: str, form: str, notes: Footnotes) -> Value:
    """A value that a file declares; None is none."""
    raw = float(raw) if isinstance(raw, float) else raw  # a duration is one
    quote = None if raw is None else Declared(shown=FORMS[form](raw), raw=raw, source=source, field=field, form=form)
    return Value(quote, notes, f"{source}: {field}")


def said(raw: str, source: str, field: str, notes: Footnotes, form: str = "text") -> Value | str:
    """A text that a file has, with a footnote only where it has a number in it."""
    shown = FORMS[form](raw)
    return declared(raw, source, field, form, notes) if has_number(shown) else text(shown)


class DeclaredStep(Struct, frozen=True, kw_only=True):
    """A step of a runbook.

    Attributes:
        name: Its name without the number of the check; empty when it is a template.
        quick: Whether it has the tag `quick`.
    """

    name: Value | str
    within: Value
    quick: bool


class DeclaredSection(Struct, frozen=True, kw_only=True):
    """A section of a runbook.

    Attributes:
        name: As it is called in the runbook.
        title: Its name without a number.
        talk: What to say in it: the texts of its `manual.note` steps.
    """

    name: str
    title: Value | str
    within: Value
    talk: list[Value | str]
    steps: list[DeclaredStep]


class KnownRunbook:
    """A runbook that can be found, and its last run.

    Args:
        runbook: The runbook.
        last: Its last run; false when it was never run to its end.
        notes: The document's footnotes.
        absent: What this stack lacks of what the runbook needs; empty when it applies.
    """

    def __init__(self, runbook: Runbook, last: RunQuotes, notes: Footnotes, absent: str = "") -> None:
        self.runbook, self.last, self.absent, self._notes = runbook, last, text(absent), notes

    @property
    def name(self) -> str:
        """Its name, as code."""
        return f"`{self.runbook.name}`"

    @property
    def _source(self) -> str:
        return f"{self.runbook.kind.value} runbook {self.runbook.name}"

    @property
    def kind(self) -> str:
        """Its kind."""
        return self.runbook.kind.value

    @property
    def title(self) -> Value | str:
        """What it is about."""
        return self._said(self.runbook.title or self.runbook.name, "title")

    @property
    def promised(self) -> Value:
        """The time that it promises: the recovery time objective, else that of the whole run."""
        objective = self.runbook.objective
        field = "rto" if objective.rto is not None else "within"
        raw = objective.rto if objective.rto is not None else objective.within
        return self._declared(raw, f"objective.{field}", "time")

    @property
    def measured(self) -> Value | str:
        """What its last run took of that, or that it failed, or that it does not apply to this stack."""
        if self.absent:
            return "not on this stack"
        if self.last and not self.last.passed:
            return f"*failed* on {self.last.when}"
        return self.last.clock("rto") if self.runbook.objective.rto is not None else self.last.seconds

    @property
    def measured_brief(self) -> str:
        """The same for a table, which says once what measures it."""
        measured = self.measured
        if isinstance(measured, Value) and not measured and self.last.command == "``":
            self._notes.missing(f"{self.runbook.name}: rto")
            return "*no drill*"
        return measured.brief if isinstance(measured, Value) else measured

    @property
    def repair(self) -> list[Value | str]:
        """What its sections do, by name; a section that only shows something else meanwhile is left out."""
        sections = enumerate(self.runbook.sections)
        return [self._said(each.name, f"sections.{number}.name") for number, each in sections if each.when is None]

    @property
    def sections(self) -> list[DeclaredSection]:
        """Its sections."""
        return [self._section(number, each) for number, each in enumerate(self.runbook.sections)]

    def section(self, name: str) -> DeclaredSection:
        """A section by its name.

        Raises:
            KeyError: There is none.
        """
        return {each.name: each for each in self.sections}[name]

    def _section(self, number: int, section: Section) -> DeclaredSection:
        at = f"sections.{number}"
        return DeclaredSection(
            name=section.name,
            title=self._said(section.name, f"{at}.name", "words"),
            within=self._declared(section.within, f"{at}.within", "time"),
            talk=[
                self._said(point, f"{at}.steps.{index}.{field}")
                for index, step in enumerate(section.steps)
                if step.action == "manual.note"
                for field, point in _points(step)
            ],
            steps=[self._step(f"{at}.steps.{index}", step) for index, step in enumerate(section.steps)],
        )

    def _step(self, at: str, step: Step) -> DeclaredStep:
        return DeclaredStep(
            name=self._said(step.name, f"{at}.name", "words") if isinstance(step.name, str) else "",
            within=self._declared(step.within, f"{at}.within", "time"),
            quick="quick" in step.tags,
        )

    def _said(self, raw: str, field: str, form: str = "text") -> Value | str:
        return said(raw, self._source, field, self._notes, form)

    def _declared(self, raw: Any, field: str, form: str) -> Value:
        return declared(raw, self._source, field, form, self._notes)


def _points(step: Step) -> list[tuple[str, str]]:
    """What a note says, by its place in the step: its text, or the texts that it loops over."""
    if isinstance(step.loop, tuple):
        return [(f"loop.{at}", each) for at, each in enumerate(step.loop) if isinstance(each, str)]
    point = step.args["text"]
    return [("args.text", point)] if isinstance(point, str) else []


class StackQuotes:
    """The stack that a document is about.

    Args:
        stack: None when its file cannot be read.
        notes: The document's footnotes.
    """

    def __init__(self, stack: Stack | None, notes: Footnotes) -> None:
        self._stack, self._notes = stack, notes

    @property
    def name(self) -> str:
        """Its name, as code; empty when the document is about any."""
        return f"`{self._notes.stack}`" if self._notes.stack else ""

    @property
    def title(self) -> str:
        """What people call it."""
        return text(self._stack.title or self._stack.name) if self._stack is not None else ""

    def absent(self, runbook: Runbook) -> str:
        """What the stack lacks of what a runbook needs; empty when it applies, or when that is not known."""
        if self._stack is None:
            return ""
        lacking: list[str] = []
        for needed in runbook.requires:
            try:
                lacking.append(self._stack.absent(needed))
            except K2runError as error:
                lacking.append(error.message)
        return next(filter(None, lacking), "")

    @property
    def services(self) -> list[dict[str, Any]]:
        """Its services that it has here: key (its name), title, address, page (what a browser opens; else false)."""
        return list(self._services())

    def _services(self) -> Iterator[dict[str, Any]]:
        if self._stack is None:
            return
        for name in self._stack.services:
            try:
                service = self._stack.services[name]
            except K2runError:  # a variable or a secret of it is not set here
                yield {"key": name, "title": text(name), "address": "*not readable here*", "page": False}
                continue
            field, raw = _address(service)
            if raw is None or self._stack.absent(name):
                continue
            yield {
                "key": name,
                "title": said(
                    service.title or name,
                    f"stack {self._stack.name}",
                    f"services.{name}.{'title' if service.title else 'name'}",
                    self._notes,
                ),
                "address": self._address(name, field, raw),
                "page": self._address(name, "page", service.page) if service.page else False,
            }

    def _address(self, name: str, field: str, raw: str) -> Value:
        assert self._stack is not None  # noqa: S101 - it is a service of it
        shown = unsecret(self._stack.redact(raw))
        return declared(shown, f"stack {self._stack.name}", f"services.{name}.{field}", "code", self._notes)


def _address(service: Service) -> tuple[str, str | None]:
    """Where a service answers, and the field that says so."""
    if service.url:
        return "url", service.url
    if service.metrics:
        return "metrics", service.metrics
    if service.elsewhere:
        return "elsewhere", service.elsewhere
    if service.ports:
        return "ports", f"127.0.0.1:{service.ports[0]}"
    ready = service.ready
    found = ((f"ready.{name}", getattr(ready, name)) for name in ("tcp", "postgres", "http") if ready is not None)
    return next(((field, raw) for field, raw in found if raw), ("", None))

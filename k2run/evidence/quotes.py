"""Values of a document: a place in a run's journal, quoted, or the reason why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from k2run.engine.events import Outcome, StepFinished
from k2run.evidence.footnotes import FORMS, OF_TEXTS, Declared, Footnotes, Quote
from k2run.evidence.view import RunView  # noqa: TC001 - msgspec resolves the types of fields at run time
from k2run.evidence.wording import standing_of

if TYPE_CHECKING:
    from k2run.engine.events import AnyEvent


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


class Source(Struct, frozen=True, kw_only=True):
    """The run that quotes are taken from.

    Attributes:
        view: None when the runbook has no such run.
        name: The runbook.
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

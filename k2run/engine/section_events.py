"""What the journal tells of a section: events of its own, or a group of steps where a step runs its runbook."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from k2run.engine.events import Outcome, SectionFinished, SectionStarted, StepFinished, StepStarted
from k2run.errors import Interrupted, JournalLost

if TYPE_CHECKING:
    from k2run.engine.execution import Execution
    from k2run.language.model import Section
from k2run.engine.outcomes import bound_of


class SectionAccount:
    """The account of one section.

    Args:
        execution: The run.
        section: The section.
    """

    def __init__(self, execution: Execution, section: Section) -> None:
        self._run = execution
        self._section = section
        self._began = execution.journal.elapsed()
        self._group = f"{execution.prefix}{section.path}" if execution.prefix and "[" in section.path else ""

    def ended(self) -> StepFinished | SectionFinished | None:
        """How an earlier part of this run ended it; None when it did not."""
        past = self._run.past
        return past.steps.get(self._group) if self._run.prefix else past.sections.get(self._section.path)

    def cut(self, error: BaseException) -> None:
        """It ends before its time: what began has an end in the record, whatever leaves it."""
        with suppress(JournalLost):
            self.end(Outcome.INTERRUPTED if isinstance(error, Interrupted) else Outcome.FAILED)

    def begin(self) -> None:
        """It begins."""
        section = self._section
        if not self._run.prefix:
            event = SectionStarted(section=section.path, name=section.name, within=section.within)
            self._run.journal.record(event)
        elif self._group:
            self._run.journal.record(
                StepStarted(
                    step=self._group,
                    section=self._run.section,
                    name=section.name,
                    action="block",
                    within=section.within,
                )
            )

    def end(self, outcome: Outcome, message: str = "") -> None:
        """Record the section's end; with why it failed, where that is not because of one of its steps."""
        section = self._section
        seconds = round(self._run.journal.elapsed() - self._began, 3)
        objective = bound_of(section.within, seconds, measured=outcome not in {Outcome.SKIPPED, Outcome.INTERRUPTED})
        if not self._run.prefix:
            self._run.journal.record(
                SectionFinished(
                    section=section.path,
                    name=section.name,
                    outcome=outcome,
                    seconds=seconds,
                    within=section.within,
                    objective=objective,
                    message=message,
                )
            )
        elif self._group:
            self._run.journal.record(
                StepFinished(
                    step=self._group,
                    section=self._run.section,
                    name=section.name,
                    action="block",
                    outcome=outcome,
                    seconds=seconds,
                    severity="info",  # its steps speak for themselves
                    within=section.within,
                    objective=objective,
                    message=message,
                )
            )

"""Runs the sections of a runbook in order, with the steady state before and after, and the recovery clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import Bound, ClockStopped, Noted, Outcome, SectionFinished, SectionStarted
from k2run.engine.outcomes import of_all, satisfied
from k2run.engine.steps import StepRunner
from k2run.errors import ExpressionFailed
from k2run.language.model import AfterFailure, Kind, Section, Severity, Step
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.execution import Execution

STEADY_BEFORE = "steady_state"
STEADY_AFTER = "steady_state_after"
ALWAYS = "always"
RECOVERY_LIMIT = Duration(120)
STEADY_PERIOD = 0.25
"""Seconds between two looks at the steady state while recovery is timed; half of it is the clock's error."""


class SectionRunner:
    """Runs sections and keeps account of what failed.

    Args:
        execution: The run that they belong to.
    """

    def __init__(self, execution: Execution) -> None:
        self._run = execution
        self._recovered = False

    def run_all(self) -> None:
        """Steady state, sections, steady state again; a recovery begins where nothing is steady.

        Raises:
            Interrupted: The run was asked to end.
        """
        runbook = self._run.runbook
        first = () if runbook.kind is Kind.RECOVERY else runbook.steady_state
        if first and not satisfied(self._plain_section(STEADY_BEFORE, "Steady state", first)):
            self._run.ended_early = "the stack was not in its steady state, so nothing was broken"
            self._run.journal.record(Noted(message=self._run.ended_early, level="error"))
            return
        for section in runbook.sections:
            self._run.check_stop()
            if not self._run.ended_early:
                self.run(section)
        if runbook.steady_state and self._run.first_fault is not None and not self._recovered:
            self._run.undos.play_all()
            self._recover(None)

    def run_always(self) -> None:
        """The steps that run whatever happened."""
        if self._run.runbook.always:
            self._plain_section(ALWAYS, "Always", self._run.runbook.always)

    def run(self, section: Section) -> Outcome:
        """Run one section and record how it ended, unless an earlier part of this run has done so."""
        run = self._run
        if section.path in run.past.sections:
            return self._walk(section)
        began = run.journal.elapsed()
        run.journal.record(SectionStarted(section=section.path, name=section.name, within=section.within))
        skip = self._not_needed(section)
        outcome = Outcome.SKIPPED
        if not skip:
            outcome = self._steps(section)
            if section.clock == "rto" and satisfied(outcome):
                outcome = of_all([outcome, self._recover(section)])
            elif section.clock == "detect" and satisfied(outcome):
                self._detected(section)
        seconds = round(run.journal.elapsed() - began, 3)
        run.journal.record(
            SectionFinished(
                section=section.path,
                name=section.name,
                outcome=outcome,
                seconds=seconds,
                within=section.within,
                objective=_bound(section.within, seconds, measured=outcome is not Outcome.SKIPPED),
            )
        )
        return outcome

    def _walk(self, section: Section) -> Outcome:
        """Bring back what an ended section handed on; its steps are all finished, so nothing is done."""
        run = self._run
        outcome = run.past.sections[section.path].outcome
        run.variables.enter(section.vars)
        self._recovered = self._recovered or section.clock == "rto"
        return outcome if outcome is Outcome.SKIPPED else self._steps(section)

    def _not_needed(self, section: Section) -> bool:
        """Whether the section's `when` is false; enters its variables when it is not."""
        try:
            self._run.variables.enter(section.vars)
            return section.when is not None and not section.when.evaluate(self._run.variables.names())
        except ExpressionFailed as error:
            self._run.journal.record(Noted(message=error.message, hint=error.hint, level="error"))
            self._run.ended_early = f"section {section.name!r}: {error.message}"
            return True

    def _steps(self, section: Section) -> Outcome:
        """Run the steps in order (or at once) until a critical failure ends the section."""
        runner = StepRunner(self._run, section)
        missing = self._run.missing(section.requires)
        if missing:
            return of_all([runner.leave_out(step, Outcome.NOT_APPLICABLE, missing) for step in section.steps])
        if section.parallel > 1:
            return of_all(self._run.each(section.steps, runner.run, at_once=section.parallel))
        outcomes: list[Outcome] = []
        broken: Step | None = None
        for step in section.steps:
            self._run.check_stop()
            if broken is not None:
                runner.leave_out(step, Outcome.SKIPPED, f"not reached: {broken.name} failed")
                continue
            outcomes.append(weigh(step, runner.run(step)))
            if outcomes[-1] is Outcome.FAILED and section.after_failure is not AfterFailure.CONTINUE:
                broken = step
        if broken is not None and section.after_failure is AfterFailure.END_RUN:
            self._run.ended_early = f"{broken.name} failed"
        return of_all(outcomes)

    def _plain_section(self, path: str, name: str, steps: Sequence[Step]) -> Outcome:
        """Run steps that belong to the runbook rather than to a section of it."""
        return self.run(Section(path=path, name=name, place=steps[0].place, steps=tuple(steps)))

    def _recover(self, section: Section | None) -> Outcome:
        """Look at the steady state until it holds again, and stop the recovery clock."""
        run = self._run
        self._recovered = True
        if run.first_fault is None:
            return Outcome.PASSED
        objective = run.runbook.objective.rto
        if not run.runbook.steady_state:
            self._stop_clock(run.journal.elapsed() - run.first_fault, objective, "")
            return Outcome.PASSED
        give_up = run.journal.elapsed() + max(RECOVERY_LIMIT, 2 * (objective or 0), (section and section.within) or 0)
        while True:
            at = run.journal.elapsed()
            if self._holds():
                break
            if at > give_up:
                self._stop_clock(at - run.first_fault, objective, "the steady state did not come back")
                return Outcome.FAILED
            run.stop.wait(STEADY_PERIOD)
            run.check_stop()
        self._stop_clock(run.journal.elapsed() - run.first_fault, objective, "")
        return self._plain_section(
            STEADY_AFTER, "Steady state again", [_again(step) for step in run.runbook.steady_state]
        )

    def _holds(self) -> bool:
        """Look at the steady state once, without a record of its own."""
        from k2run.engine.probe import holds

        return all(holds(self._run, step) for step in self._run.runbook.steady_state)

    def _detected(self, section: Section) -> None:
        """Stop the clock of detection: the section's steps have seen the fault."""
        run = self._run
        if run.first_fault is None:
            return
        seconds = Duration(round(run.journal.elapsed() - run.first_fault, 3))
        run.figures["detect"] = seconds
        period = max((float(step.every or 1) for step in section.steps if step.until is not None), default=0.0)
        run.journal.record(ClockStopped(clock="detect", seconds=float(seconds), error=period))

    def _stop_clock(self, seconds: float, objective: Duration | None, message: str) -> None:
        bound = Bound.MISSED if message else _bound(objective, seconds, measured=True)
        self._run.figures["rto"] = Duration(round(seconds, 3))
        self._run.journal.record(
            ClockStopped(
                clock="rto",
                seconds=round(seconds, 3),
                error=STEADY_PERIOD / 2 if self._run.runbook.steady_state else 0.0,
                within=objective,
                objective=bound,
                message=message,
            )
        )


def weigh(step: Step, outcome: Outcome) -> Outcome:
    """A step's outcome as its section counts it: only a critical one that is not ignored can fail it."""
    if not satisfied(outcome) and (step.ignore_failure or step.severity is not Severity.CRITICAL):
        return Outcome.PASSED
    return Outcome.FAILED if outcome is Outcome.UNKNOWN else outcome


def _again(step: Step) -> Step:
    """The same step under another path, so that the record keeps both."""
    from msgspec.structs import replace

    return replace(step, path=step.path.replace(STEADY_BEFORE, STEADY_AFTER, 1))


def _bound(within: float | None, seconds: float, *, measured: bool) -> Bound | None:
    if within is None:
        return None
    if not measured:
        return Bound.NOT_MEASURED
    return Bound.MET if seconds <= within else Bound.MISSED

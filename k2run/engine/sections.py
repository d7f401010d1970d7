"""Runs the sections of a runbook in order, with the steady state before and after, and the recovery clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import Bound, ClockStopped, Noted, Outcome
from k2run.engine.leaps import Leap, RunStopped
from k2run.engine.outcomes import of_all, satisfied
from k2run.engine.outline import ALWAYS, STEADY_AFTER, STEADY_BEFORE
from k2run.engine.section_account import SectionAccount, bound_of
from k2run.engine.steps import StepRunner
from k2run.errors import ExpressionFailed
from k2run.language.model import AfterFailure, Kind, Section, Severity, Step
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.execution import Execution

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
        self._unproven = False

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
            if not (self._run.ended_early or self._run.ended_well):
                self.run(section)
        if runbook.steady_state and self._run.first_fault is not None and not self._recovered:
            self._run.undos.play_all(by=self._run.runner, inside=self._run.prefix)
            self._recover(None)

    def run_always(self) -> None:
        """The steps that run whatever happened."""
        if self._run.runbook.always:
            self._plain_section(ALWAYS, "Always", self._run.runbook.always)

    def run(self, section: Section) -> Outcome:
        """Run one section and record how it ended, unless an earlier part of this run has done so."""
        account = SectionAccount(self._run, section)
        ended = account.ended()
        if ended is not None:
            return self._walk(section, ended)
        account.begin()
        outcome = Outcome.SKIPPED
        if not self._not_needed(section):
            outcome = self._steps(section)
            if section.clock == "rto" and satisfied(outcome):
                self._unproven = False
                outcome = of_all([outcome, self._recover(section)])
            elif not satisfied(outcome):
                self._unproven = True
            elif section.clock == "detect" and satisfied(outcome):
                self._detected(section)
        account.end(outcome)
        return outcome

    def _walk(self, section: Section, outcome: Outcome) -> Outcome:
        """Bring back what an ended section handed on; its steps are all finished, so nothing is done."""
        self._run.variables.enter(section.vars)
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
            return self._at_once(section, runner)
        outcomes: list[Outcome] = []
        left = ""
        for step in section.steps:
            self._run.check_stop()
            if left:
                runner.leave_out(step, Outcome.SKIPPED, left)
                continue
            try:
                outcomes.append(weigh(step, runner.run(step)))
            except Leap as leap:
                left = self._leapt(leap)
            else:
                left = self._after(section, step, outcomes[-1])
        return of_all(outcomes)

    def _after(self, section: Section, step: Step, outcome: Outcome) -> str:
        """Why the steps after this one are left out; empty when they are not."""
        if outcome is not Outcome.FAILED or section.after_failure is AfterFailure.CONTINUE:
            return ""
        if section.after_failure is AfterFailure.END_RUN:
            self._run.ended_early = f"{step.name} failed"
        return f"not reached: {step.name} failed"

    def _at_once(self, section: Section, runner: StepRunner) -> Outcome:
        """Run all steps of a section at once."""
        try:
            return of_all(self._run.each(section.steps, runner.run, at_once=section.parallel))
        except Leap as leap:
            self._leapt(leap)
            return Outcome.PASSED

    def _leapt(self, leap: Leap) -> str:
        """Why the steps that follow are left out."""
        if not isinstance(leap, RunStopped):
            return f"left out: {leap.because}" if leap.because else "left out by skip_section"
        if leap.passed:
            self._run.ended_well = f"stopped: {leap.because}"
        else:
            self._run.ended_early = f"stopped: {leap.because}"
        return f"not reached: the run was stopped: {leap.because}"

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
        patience = max(RECOVERY_LIMIT, 2 * (objective or 0), (section and section.within) or 0)
        if self._unproven and run.runbook.kind is Kind.RECOVERY:
            patience = 0.0  # its own steps or proof failed: something else has to be done, not waited for
        give_up = run.journal.elapsed() + patience
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
        bound = Bound.MISSED if message else bound_of(objective, seconds, measured=True)
        self._run.figures["rto"] = Duration(round(seconds, 3))
        self._run.journal.record(
            ClockStopped(
                clock="rto",
                step=self._run.prefix.removesuffix(".run."),
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

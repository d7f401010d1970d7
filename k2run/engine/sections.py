"""Runs the sections of a runbook in order, with the steady state before and after, and the clocks that it stops.

Long because the clocks run across the steps of all sections, and a look at the steady state ends them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from k2run.actions.deadline import Deadline
from k2run.engine.attempt import WORDS, judge, observed
from k2run.engine.events import (
    Bound,
    ClockStopped,
    Noted,
    Outcome,
    SectionFinished,
    SectionStarted,
    StepFinished,
    StepStarted,
    bound_of,
    of_all,
    satisfied,
    went_wrong,
)
from k2run.engine.execution import Limit, OutOfTime
from k2run.engine.outline import ALWAYS, STEADY_AFTER, STEADY_BEFORE
from k2run.engine.sequence import RunStopped, Several, weigh
from k2run.engine.step_record import title
from k2run.engine.steps import StepRunner
from k2run.engine.variables import loop_items
from k2run.errors import ExpressionFailed, Inapplicable, Interrupted, JournalLost, K2runError, NotApplicable
from k2run.language.expressions import render
from k2run.language.model import AfterFailure, Backoff, Kind, Section, Severity, Step
from k2run.language.quantities import Duration
from k2run.language.vocabulary import Effect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from k2run.engine.execution import Execution

PERIOD = 0.25
"""Seconds between two looks at the steady state while recovery is timed; half of it is the clock's error."""
LOOK = 10.0
"""Seconds that one look may take when the step sets no `timeout`."""
RECOVERY_LIMIT = Duration(120)


class SectionRunner:
    """Runs sections and keeps account of what failed."""

    def __init__(self, execution: Execution) -> None:
        self._run = execution
        self._recovered = False

    def run_all(self) -> None:
        """Steady state, sections, steady state again, all within the hard limit of the runbook.

        Raises:
            Interrupted: The run was asked to end.
            OutOfTime: A hard limit around the runbook has run out.
        """
        run = self._run
        if run.runbook.timeout is None:
            self._all()
            return
        around, run.limits = run.limits, (*run.limits, Limit(run.runbook.timeout, run.runbook.name))
        limit = run.limits[-1]
        try:
            self._all()
        except OutOfTime as over:
            if over.limit is not limit:
                raise
        finally:
            run.limits = around
        if limit.left() <= 0:
            run.ended_early = f"the run was {limit.says}"
            run.journal.record(Noted(message=run.ended_early, level="error"))

    def _all(self) -> None:
        """Steady state, sections, steady state again; a recovery begins where nothing is steady."""
        runbook = self._run.runbook
        first = () if runbook.kind is Kind.RECOVERY else runbook.steady_state
        if first and not self._is_steady(first):
            return
        for section in runbook.sections:
            self._run.check_stop()
            if not (self._run.ended_early or self._run.ended_well or self._is_pointless()):
                self.run(section)
        begun = self._run.first_fault is not None and not self._nothing_done()
        if runbook.steady_state and begun and not self._recovered:
            self._run.undos.play_all(by=self._run.runner, inside=self._run.prefix)
            self._recover(None)

    def _is_steady(self, steps: Sequence[Step]) -> bool:
        """Whether the steady state holds; a scenario whose steady state cannot be checked here breaks nothing."""
        outcome = self._plain_section(STEADY_BEFORE, "Steady state", steps)
        if not satisfied(outcome):
            self._run.ended_early = "the stack was not in its steady state, so nothing was broken"
            self._run.journal.record(Noted(message=self._run.ended_early, level="error"))
            return False
        if outcome is Outcome.NOT_APPLICABLE and self._run.runbook.kind is Kind.SCENARIO:
            self._run.lacking = "no step of the steady state applies to this stack, so nothing was broken"
            self._run.journal.record(Noted(message=self._run.lacking, level="warning"))
            return False
        return True

    def _is_pointless(self) -> bool:
        """Whether nothing can be shown any more: a scenario whose fault does not apply ends there."""
        return bool(self._run.lacking) and self._run.runbook.kind is Kind.SCENARIO

    def run_always(self) -> None:
        """The steps that run whatever happened."""
        if self._run.runbook.always:
            self._plain_section(ALWAYS, "Always", self._run.runbook.always)

    def run(self, section: Section) -> Outcome:
        """Run one section and record how it ended, unless an earlier part of this run has done so."""
        account = SectionAccount(self._run, section)
        ended = account.ended()
        if ended is not None:
            if ended.message:
                self._late(section, ended.message)
            return self._walk(section, ended.outcome)
        account.begin()
        late = len(self._run.late)
        try:
            left = self._left_out(section)
            outcome = self._needed(section) if left is None else left
        except BaseException as error:
            account.cut(error)
            raise
        account.end(outcome, "; ".join(self._run.late[late:]))
        return outcome

    def _late(self, section: Section, message: str) -> Outcome:
        """A section was not done within its hard limit, which is a failure of its own."""
        self._run.late.append(message)
        if section.after_failure is AfterFailure.END_RUN:
            self._run.ended_early = message
        return Outcome.FAILED

    def _needed(self, section: Section) -> Outcome:
        """Run a section's steps, and the clock that stops with them."""
        outcome = self._steps(section)
        if outcome is Outcome.NOT_APPLICABLE and self._run.lacking:
            return outcome
        if not satisfied(outcome):
            self._failed(section)
        elif section.clock == "rto":
            self._run.unproven = ""
            return of_all([outcome, self._recover(section)])
        elif section.clock == "detect":
            stop_detection(self._run, section)
        return outcome

    def _walk(self, section: Section, outcome: Outcome) -> Outcome:
        """Bring back what an ended section handed on; its steps are all finished, so nothing is done."""
        with suppress(Inapplicable):
            self._enter(section)
        proven = section.clock == "rto" and self._run.runbook.kind is not Kind.RECOVERY  # a recovery is checked again
        self._recovered = self._recovered or proven
        if not satisfied(outcome):
            self._failed(section)
        return outcome if outcome is Outcome.SKIPPED else self._steps(section)

    def _failed(self, section: Section) -> None:
        """A recovery is proven by all of its sections; elsewhere the one that stops the clock is the proof."""
        if section.clock == "rto" or self._run.runbook.kind is Kind.RECOVERY:
            self._run.unproven = self._run.unproven or f"the section {section.name!r} failed"

    def _enter(self, section: Section) -> None:
        run = self._run
        run.variables.enter(
            section.vars, lambda name, value: run.keep(f"{run.prefix}{section.path}.vars.{name}", value)
        )

    def _left_out(self, section: Section) -> Outcome | None:
        """How a section ends that is not run; None, with its variables entered, when it is to be run."""
        missing = self._absence(section)
        try:
            if not missing:
                self._enter(section)
                needed = section.when is None or section.when.evaluate(self._run.variables.names())
                return None if needed else Outcome.SKIPPED
        except Inapplicable as error:
            missing = error.message
        except ExpressionFailed as error:
            self._run.journal.record(Noted(message=error.message, hint=error.hint, level="error"))
            self._run.ended_early = f"section {section.name!r}: {error.message}"
            return Outcome.SKIPPED
        runner = StepRunner(self._run, section)
        return of_all([runner.leave_out(step, Outcome.NOT_APPLICABLE, missing) for step in section.steps])

    def _absence(self, section: Section) -> str:
        """Why a section does not apply: a service is absent, or the fault (or repair) whose clock it stops did not."""
        if section.clock and (self._nothing_done() or (self._run.lacking and self._run.first_fault is None)):
            return f"depends on what does not apply: {self._run.lacking}"
        return self._run.missing(section.requires)

    def _nothing_done(self) -> bool:
        """Whether this is a recovery whose repair does not apply: there is nothing that it could prove."""
        run = self._run
        return run.runbook.kind is Kind.RECOVERY and bool(run.lacking) and not run.changed

    def _steps(self, section: Section) -> Outcome:
        """Run the steps in order (or at once) until a critical failure ends the section."""
        runner = StepRunner(self._run, section)
        if section.timeout is None:
            return self._in_order(section, runner, self._run, lambda _step: None)
        run, began = self._run.limited(section.timeout, section.name), set[str]()
        limit = run.limits[-1]
        try:
            outcome = self._in_order(section, StepRunner(run, section), run, lambda step: began.add(step.path))
        except OutOfTime as over:
            if over.limit is not limit:
                raise
        else:
            if limit.left() > 0:
                return outcome
        for step in section.steps:
            if step.path not in began:
                runner.leave_out(step, Outcome.SKIPPED, f"not reached: the section {section.name!r} was {limit.says}")
        return self._late(section, f"the section {section.name!r} was {limit.says}")

    def _in_order(
        self, section: Section, runner: StepRunner, run: Execution, begins: Callable[[Step], object]
    ) -> Outcome:
        """Run the steps of a section in order, or at once."""

        def do(step: Step) -> Outcome:
            begins(step)
            return runner.run(step)

        def leave(step: Step, outcome: Outcome, why: str) -> None:
            begins(step)
            runner.leave_out(step, outcome, why)

        several = Several(
            run,
            do,
            weigh=weigh,
            after=lambda step, outcome, was: self._after(section, step, outcome, was),
            lacks=lambda step: runner.lacks(step, run.prefix + step.path, {}),
            leave=leave,
        )
        outcome = several.run(section.steps, at_once=section.parallel)
        self._run.lacking = self._run.lacking or several.lacking
        if isinstance(several.leap, RunStopped):
            self._stopped(several.leap)
        return outcome

    def _after(self, section: Section, step: Step, outcome: Outcome, was: Outcome) -> str:
        """Why the steps after this one are left out; empty when they are not."""
        if outcome is not Outcome.FAILED or section.after_failure is AfterFailure.CONTINUE:
            return ""
        why = went_wrong(title(self._run, step, {}), was)
        if section.after_failure is AfterFailure.END_RUN:
            self._run.ended_early = why
        return f"not reached: {why}"

    def _stopped(self, leap: RunStopped) -> None:
        """What is left of the runbook is left out."""
        if leap.passed:
            self._run.ended_well = f"stopped: {leap.because}"
        else:
            self._run.ended_early = f"stopped: {leap.because}"

    def _plain_section(self, path: str, name: str, steps: Sequence[Step]) -> Outcome:
        """Run steps that belong to the runbook rather than to a section of it."""
        return self.run(Section(path=path, name=name, place=steps[0].place, steps=tuple(steps)))

    def _recover(self, section: Section | None) -> Outcome:
        """Look at the steady state until it holds again, and stop the recovery clock."""
        run = self._run
        self._recovered = True
        if run.first_fault is None:
            return Outcome.PASSED
        if not (run.past.recovered or is_recovered(run, (section and section.within) or 0)):
            return Outcome.FAILED
        return self._steady_again()

    def _steady_again(self) -> Outcome:
        """Look at the steady state once more, for the record."""
        steps = [_again(step) for step in self._run.runbook.steady_state]
        return self._plain_section(STEADY_AFTER, "Steady state again", steps) if steps else Outcome.PASSED


def _again(step: Step) -> Step:
    """The same step under another path, so that the record keeps both."""
    from msgspec.structs import replace

    return replace(step, path=step.path.replace(STEADY_BEFORE, STEADY_AFTER, 1))


class SectionAccount:
    """The account of one section."""

    def __init__(self, execution: Execution, section: Section) -> None:
        self._run = execution
        self._section = section
        self._began = execution.journal.elapsed()
        self._untimed = {*execution.untimed}
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
        whole = {*self._run.untimed} <= self._untimed  # without its persons, or unseen, it has not taken its time
        measured = whole and outcome not in {Outcome.SKIPPED, Outcome.INTERRUPTED}
        objective = bound_of(section.within, seconds, measured=measured)
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


def is_recovered(run: Execution, within: float) -> bool:
    """Look at the steady state until it holds again, and stop the recovery clock.

    Args:
        run: The run, in which there was a fault.
        within: Seconds that the section promises whose end is to be the recovery; 0 when it promises nothing.

    Returns:
        Whether it holds, and what was to prove the recovery has.

    Raises:
        Interrupted: The run was asked to end.
        OutOfTime: A hard limit around the runbook has run out.
    """
    if not run.runbook.steady_state:
        _stop_recovery(run, run.journal.elapsed(), "")
        return True
    patience = max(RECOVERY_LIMIT, 2 * (run.runbook.objective.rto or 0), within)
    if run.unproven and run.runbook.kind is Kind.RECOVERY:
        patience = 0.0  # its own steps or proof failed: something else has to be done, not waited for
    give_up = run.journal.elapsed() + patience
    while True:
        at = run.journal.elapsed()
        steady, unmet = steadiness(run)
        if steady is Outcome.PASSED:
            break
        if steady is Outcome.NOT_APPLICABLE or at > give_up:
            nothing = "no step of the steady state applies to this stack, so nothing proves that it is back"
            _stop_recovery(run, at, f"the steady state did not come back: {unmet}" if unmet else nothing)
            return False
        run.stop.wait(PERIOD)
        run.check_stop()
    unproven = f"the steady state holds, but the recovery is not proven: {run.unproven}" if run.unproven else ""
    _stop_recovery(run, run.journal.elapsed(), unproven)
    return not unproven


def stop_detection(run: Execution, section: Section) -> None:
    """Stop the clock of detection: the section's steps have seen the fault."""
    if run.first_fault is None:
        return
    seconds = Duration(round(run.journal.elapsed() - run.first_fault, 3))
    run.figures["detect"] = seconds
    period = max((_period(step) for step in section.steps if step.until is not None), default=0.0)
    run.journal.record(ClockStopped(clock="detect", seconds=float(seconds), error=period))


def steadiness(run: Execution) -> tuple[Outcome, str]:
    """Whether the steady state holds right now, and if not, which step does not and why.

    Returns:
        Passed, failed, or not applicable where no step applies: nothing proves then that the stack is steady.

    Raises:
        Interrupted: The run was asked to end.
    """
    look = Look(run)
    if unmet := look.unmet(run.runbook.steady_state):
        return Outcome.FAILED, unmet
    return (Outcome.PASSED if look.judged else Outcome.NOT_APPLICABLE), ""


class Look:
    """One look: the steps in order, up to the first that does not hold.

    Attributes:
        judged: A step applied and was judged; where none does, nothing is known.
    """

    def __init__(self, run: Execution) -> None:
        self._run = run
        self.judged = False
        self._changed = False
        """A step of this look has changed something: what looks for its effect has to wait for it."""

    def unmet(self, steps: Sequence[Step], known: dict[str, Any] | None = None) -> str:
        """Which step does not hold and why; empty when all hold.

        Args:
            steps: The steps.
            known: What steps of this look have registered so far; added to.

        Raises:
            Interrupted: The run was asked to end.
        """
        known = {} if known is None else known
        for step in steps:
            counts = step.severity is Severity.CRITICAL and not step.ignore_failure
            try:
                why = self._each(step, known)
            except TypeError as error:  # a loop over what is no list
                why = f"{title(self._run, step, known)}: {error}"
            if why and counts:
                return why
        return ""

    def _each(self, step: Step, known: dict[str, Any]) -> str:
        """Which step does not hold and why: it, or one turn of its loop."""
        if step.requires and self._run.missing(step.requires):
            return ""
        if step.loop is None:
            return self._named(step, known, {})
        results: list[Any] = []
        for item in loop_items(step.loop, {**self._run.variables.names(), **known}):
            turn = dict(known)
            if why := self._named(step, turn, {step.loop_var: item}):
                return why
            results.append(turn.get(step.register or ""))
        if step.register:
            known[step.register] = results
        return ""

    def _named(self, step: Step, known: dict[str, Any], given: dict[str, Any]) -> str:
        try:
            why = self._once(step, known, given)
        except Interrupted:
            raise
        except (Inapplicable, NotApplicable):
            return ""
        except K2runError as error:
            why = str(error)
        return f"{title(self._run, step, {**known, **given})}: {why}" if why else ""

    def _once(self, step: Step, known: dict[str, Any], given: dict[str, Any]) -> str:
        variables = self._run.variables
        names = variables.names(variables.local(step.vars, **known, **given))
        if step.when is not None and not step.when.evaluate(names):
            return ""
        if step.block:
            inside = {**known, **given}
            why = self.unmet(step.block, inside)
            known.update((name, value) for name, value in inside.items() if name not in given)
            return why
        waits = step.until is not None and self._changed
        deadline = Deadline(step.timeout or (step.within if waits else None) or LOOK, self._run.stop)
        expectations = (*((step.until,) if step.until else ()), *step.expect)
        while True:
            attempt = self._attempt(step, names, deadline)
            attempt = judge(attempt, expectations, {**names, "result": attempt.result})
            holds = attempt.outcome is Outcome.PASSED
            if holds or not waits or deadline.has_passed(PERIOD):
                break
            deadline.sleep(PERIOD)
        self.judged = True
        self._changed = self._changed or step.effect not in {None, Effect.OBSERVES}
        if step.action == "set":
            known.update(attempt.result)
        if step.register:
            known[step.register] = attempt.result
        return "" if holds else attempt.message or attempt.outcome.value

    def _attempt(self, step: Step, names: dict[str, Any], deadline: Deadline) -> Any:
        if step.action in WORDS:
            return WORDS[step.action](step.args, names, deadline)
        return observed(self._run.caller.call(step.action, render(step.args, names), deadline, step=step.path))


def _stop_recovery(run: Execution, at: float, message: str) -> None:
    """Read the recovery clock; with a message it did not stop by its condition, so there is no figure of it."""
    seconds, within = at - (run.first_fault or 0.0), run.runbook.objective.rto
    if not message:
        run.figures["rto"] = Duration(round(seconds, 3))
    run.journal.record(
        ClockStopped(
            clock="rto",
            step=run.prefix.removesuffix(".run."),
            seconds=round(seconds, 3),
            error=PERIOD / 2 if run.runbook.steady_state else 0.0,
            within=within,
            objective=Bound.MISSED if message else bound_of(within, seconds, measured=True),
            message=message,
        )
    )


def _period(step: Step) -> float:
    """Seconds between two looks of a repeated step, at most."""
    return float(step.every.most if isinstance(step.every, Backoff) else step.every or 1)

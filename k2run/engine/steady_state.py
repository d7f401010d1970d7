"""The clocks of a run, and the steady state that stops them: once through its steps, without a record of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.actions.deadline import Deadline
from k2run.engine.attempt import WORDS, judge, observed
from k2run.engine.events import Bound, ClockStopped, Outcome, bound_of
from k2run.engine.step_record import title
from k2run.engine.variables import loop_items
from k2run.errors import Inapplicable, Interrupted, K2runError, NotApplicable
from k2run.language.expressions import render
from k2run.language.model import Backoff, Kind, Severity
from k2run.language.quantities import Duration
from k2run.language.vocabulary import Effect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.execution import Execution
    from k2run.language.model import Section, Step

PERIOD = 0.25
"""Seconds between two looks at the steady state while recovery is timed; half of it is the clock's error."""
LOOK = 10.0
"""Seconds that one look may take when the step sets no `timeout`."""
RECOVERY_LIMIT = Duration(120)


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

    Args:
        run: The run whose recovery is timed.

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

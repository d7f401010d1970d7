"""Runs one step: whether it applies, its turns, its attempts, its blocks, and the record of how it ended."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

from k2run.actions.action import Effect, Result
from k2run.actions.deadline import Deadline
from k2run.engine.attempt import Attempt, judge, observed, refused
from k2run.engine.caller import message_of
from k2run.engine.events import Bound, FaultStruck, Outcome, StepFinished, StepStarted, StepTried
from k2run.engine.outcomes import of_all, satisfied
from k2run.engine.variables import loop_items
from k2run.engine.words import WORDS
from k2run.errors import ExpressionFailed, Interrupted, TimedOut
from k2run.language.expressions import render
from k2run.language.model import Severity
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.engine.execution import Execution
    from k2run.language.model import Award, Section, Step

DEFAULT_TIMEOUT = Duration(60)
DEFAULT_EVERY = Duration(1)
ALWAYS_TAG = "always"


class StepRunner:
    """Runs the steps of one section.

    Args:
        execution: The run that they belong to.
        section: Path of the section, for the record.
        category: Score category of steps that name none.
        tags: Tags that all its steps have.
    """

    def __init__(self, execution: Execution, section: Section | None, path: str) -> None:
        self._run = execution
        self._section = path
        self._category = section.category if section else ""
        self._tags = section.tags if section else frozenset()

    def run(self, step: Step, local: dict[str, Any] | None = None) -> Outcome:
        """Run a step with all its turns and record how it ended.

        Raises:
            Interrupted: The run was asked to end.
            JournalLost: The journal cannot be written any more.
        """
        names = local or {}
        reason = self._left_out(step)
        if reason:
            return self.leave_out(step, Outcome.SKIPPED, reason)
        missing = self._run.missing(step.requires)
        if missing:
            return self.leave_out(step, Outcome.NOT_APPLICABLE, missing)
        if step.loop is None:
            return self._turn(step, step.path, names)
        try:
            items = loop_items(step.loop, self._run.variables.names(names))
        except (ExpressionFailed, TypeError) as error:
            return self.leave_out(step, Outcome.FAILED, message_of(error)[0])
        turns = [(f"{step.path}#{number}", {**names, step.loop_var: item}) for number, item in enumerate(items)]
        outcomes = self._run.each(turns, lambda turn: self._turn(step, *turn), at_once=step.parallel)
        return of_all(outcomes)

    def _left_out(self, step: Step) -> str:
        """Why `--tags` or `--skip-tags` leave a step out; empty when they do not."""
        tags = step.tags | self._tags
        options = self._run.options
        if options.skip_tags & tags:
            return f"left out by --skip-tags {','.join(sorted(options.skip_tags & tags))}"
        inside = any(options.tags & child.tags for child in (*step.block, *step.rescue, *step.always))
        if options.tags and not (options.tags & tags or ALWAYS_TAG in tags or inside):
            return f"left out by --tags {','.join(sorted(options.tags))}"
        return ""

    def _turn(self, step: Step, path: str, given: dict[str, Any]) -> Outcome:
        """Run a step once (or one turn of its loop), unless an earlier part of this run has done so."""
        done = self._run.finished.get(path)
        if done is not None:
            self._run.variables.register(done.variables)
            return done.outcome
        try:
            local = self._run.variables.local(step.vars, **given)
            if step.when is not None and not step.when.evaluate(self._run.variables.names(local)):
                return self.leave_out(
                    step, Outcome.SKIPPED, f"not needed: {step.when.text} is false", path=path, local=local
                )
        except ExpressionFailed as error:
            return self.leave_out(step, Outcome.FAILED, error.message, path=path)
        if step.block:
            return self._block(step, path, local)
        return self._act(step, path, local)

    # --- one action -------------------------------------------------------------------------------------------------

    def _act(self, step: Step, path: str, local: dict[str, Any]) -> Outcome:
        """Do the step's action until it is satisfied or its time is over."""
        run = self._run
        began = time.monotonic()
        limit = time_limit(step)
        name = self._title(step, local)
        try:
            args = render(step.args, run.variables.names(local)) if step.action not in WORDS else step.args
        except ExpressionFailed as error:
            return self._finish(
                step, path, Attempt(outcome=Outcome.FAILED, message=error.message, hint=error.hint), 0.0, 1, local
            )
        run.journal.record(
            StepStarted(
                step=path,
                section=self._section,
                name=name,
                action=step.action,
                args={} if step.no_log or step.action in WORDS else args,
                within=step.within,
                timeout=limit,
            )
        )
        deadline = Deadline(limit, run.stop)
        attempt, number = self._attempts(step, path, args, local, deadline)
        return self._finish(step, path, attempt, time.monotonic() - began, number, local, args)

    def _attempts(
        self, step: Step, path: str, args: dict[str, Any], local: dict[str, Any], deadline: Deadline
    ) -> tuple[Attempt, int]:
        """Try once, or again and again while `until` is not true; returns the last attempt and how many there were."""
        number = 0
        repeats = step.until is not None or bool(step.retries)
        while True:
            number += 1
            each = Deadline(min(step.timeout or deadline.seconds, _left(deadline)), self._run.stop)
            attempt = self._attempt(step, path, args, {**local, "attempt": number}, each)
            if attempt.outcome is Outcome.PASSED or not repeats or attempt.outcome is Outcome.NOT_APPLICABLE:
                return attempt, number
            if step.retries is not None and number > step.retries:
                return attempt, number
            self._run.journal.record(
                StepTried(step=path, attempt=number, headline=attempt.headline, message=attempt.message)
            )
            try:
                deadline.sleep(step.every or DEFAULT_EVERY)
            except TimedOut:
                return _late(attempt, deadline.seconds, number), number

    def _attempt(
        self, step: Step, path: str, args: dict[str, Any], local: dict[str, Any], deadline: Deadline
    ) -> Attempt:
        """Do the action once and hold the result against what is expected."""
        run = self._run
        try:
            if step.action in WORDS:
                attempt = WORDS[step.action](args, run.variables.names(local), deadline)
            else:
                attempt = observed(self._call(step, path, args, deadline))
        except Exception as error:  # noqa: BLE001 - the boundary of a step: whatever an action raises fails the step alone
            message, hint = message_of(error)
            if "debug.log" in hint:
                run.debug("".join(traceback.format_exception(error)))
            return refused(error, message, hint)
        if attempt.outcome is not Outcome.PASSED:
            return attempt
        expectations = (*((step.until,) if step.until else ()), *step.expect)
        names = run.variables.names({**local, "result": attempt.result})
        attempt = judge(attempt, expectations, names)
        if attempt.outcome is Outcome.PASSED and step.failed_when is not None:
            attempt = _judge_failed_when(step, attempt, names)
        return attempt

    def _call(self, step: Step, path: str, args: dict[str, Any], deadline: Deadline) -> Any:
        """Call the action; a fault's undo is planned, and the recovery clock started, before it strikes."""
        run = self._run
        struck: list[float] = []

        def plan(undo: Any) -> None:
            run.undos.plan(path, undo)
            struck.append(run.journal.elapsed())
            run.fault_began(struck[0])

        result = run.caller.call(step.action, args, deadline, step=path, plan=plan)
        effect = run.caller.action(step.action).effect
        if struck:
            run.journal.record(FaultStruck(step=path, action=step.action, name=step.name, began=round(struck[0], 6)))
        elif effect is Effect.CHANGES:
            run.undos.settle_by_step(path, step.action, args)
        return result

    # --- blocks -----------------------------------------------------------------------------------------------------

    def _block(self, step: Step, path: str, local: dict[str, Any]) -> Outcome:
        """Run a block: its steps until one fails, then `rescue`, and `always` whatever happened."""
        began = time.monotonic()
        self._run.journal.record(
            StepStarted(step=path, section=self._section, name=self._title(step, local), action="block", within=step.within)
        )
        attempt = Attempt()
        try:
            failed = self._until_failure(step.block, local)
            if failed is not None:
                attempt = Attempt(outcome=Outcome.FAILED, message=f"{failed.name or failed.action} failed")
                if step.rescue:
                    saved = self._until_failure(step.rescue, local)
                    attempt = (
                        Attempt(message=f"rescued: {failed.name} failed")
                        if saved is None
                        else Attempt(outcome=Outcome.FAILED, message=f"{failed.name} failed, and the rescue too: {saved.name}")
                    )
        finally:
            self._until_failure(step.always, local)
        return self._finish(step, path, attempt, time.monotonic() - began, 1, local)

    def _until_failure(self, steps: Iterable[Step], local: dict[str, Any]) -> Step | None:
        """Run steps in order; the first critical one that fails ends them and is returned."""
        for step in steps:
            outcome = self.run(step, local)
            if not satisfied(outcome) and step.severity is Severity.CRITICAL and not step.ignore_failure:
                return step
        return None

    # --- the record -------------------------------------------------------------------------------------------------

    def _finish(  # noqa: PLR0913 - all that an ended step is made of
        self,
        step: Step,
        path: str,
        attempt: Attempt,
        seconds: float,
        number: int,
        local: dict[str, Any],
        args: dict[str, Any] | None = None,
    ) -> Outcome:
        """Record the end of a step: what it earned, what it hands on, whether its objective was met."""
        names = self._run.variables.names({**local, "result": attempt.result})
        attempt, figures = self._figures(step, attempt, names)
        variables = self._hand_on(step, attempt, args)
        earned, maximum = earn(step, attempt, names)
        self._run.journal.record(
            StepFinished(
                step=path,
                section=self._section,
                name=self._title(step, local),
                action=step.action or "block",
                outcome=attempt.outcome,
                seconds=round(seconds, 6),
                severity=step.severity.value,
                attempts=number,
                headline="" if step.no_log else attempt.headline,
                expected=_expected(step),
                message=attempt.message,
                hint=step.on_failure or attempt.hint if not satisfied(attempt.outcome) else "",
                recovery=step.recovery if attempt.outcome is Outcome.FAILED else "",
                result=None if step.no_log else _plain(attempt.result),
                within=step.within,
                objective=_bound(step, attempt, seconds),
                points=earned,
                maximum=maximum,
                category=step.points.category or self._category if step.points else "",
                figures=figures,
                variables={} if step.no_log else {name: _plain(value) for name, value in variables.items()},
                changed=self._changed(step, attempt),
                ignored=step.ignore_failure,
            )
        )
        return attempt.outcome

    def leave_out(
        self, step: Step, outcome: Outcome, message: str, *, path: str = "", local: dict[str, Any] | None = None
    ) -> Outcome:
        """Record a step that is not run at all."""
        attempt = Attempt(outcome=outcome, message=message)
        return self._finish(step, path or step.path, attempt, 0.0, 0, local or {})

    def _figures(self, step: Step, attempt: Attempt, names: dict[str, Any]) -> tuple[Attempt, dict[str, Any]]:
        """Evaluate the step's named figures; one that cannot be read fails the step."""
        if not step.figures or not attempt.answered:
            return attempt, {}
        try:
            figures = {name: expression.evaluate(names) for name, expression in step.figures.items()}
        except ExpressionFailed as error:
            return Attempt(outcome=Outcome.FAILED, message=error.message, hint=error.hint), {}
        self._run.figures.update(figures)
        return attempt, figures

    def _hand_on(self, step: Step, attempt: Attempt, args: dict[str, Any] | None) -> dict[str, Any]:
        """What the steps after this one may use."""
        variables: dict[str, Any] = {}
        if step.action == "set" and args is not None and attempt.outcome is Outcome.PASSED:
            variables.update(attempt.result)
        if step.register:
            variables[step.register] = attempt.result
        self._run.variables.register(variables)
        return variables

    def _title(self, step: Step, local: dict[str, Any]) -> str:
        """The step's name, with its templates filled in as far as they can be."""
        try:
            return str(render(step.name, self._run.variables.names(local))) if not isinstance(step.name, str) else step.name
        except ExpressionFailed:
            return str(step.name)

    def _changed(self, step: Step, attempt: Attempt) -> bool:
        if not step.action or step.action in WORDS or attempt.outcome is not Outcome.PASSED:
            return False
        return self._run.caller.action(step.action).effect is not Effect.OBSERVES


def time_limit(step: Step) -> Duration:
    """How long a step may take in all.

    A repeated step ends at its objective (`within`), else at its `timeout`. Any other step ends at its `timeout`; its
    objective is only judged.
    """
    if step.action == "wait" and isinstance(step.args.get("for"), Duration):
        return Duration(step.args["for"] + 1)
    if step.until is not None:
        return step.within or step.timeout or DEFAULT_TIMEOUT
    return step.timeout or Duration(max(DEFAULT_TIMEOUT, step.within or 0))


def earn(step: Step, attempt: Attempt, names: dict[str, Any]) -> tuple[float | None, float | None]:
    """The points of a step: earned and maximum; None earned when it could not be judged."""
    if step.points is None:
        return None, None
    if attempt.outcome in {Outcome.SKIPPED, Outcome.NOT_APPLICABLE, Outcome.NOT_CONFIRMED, Outcome.INTERRUPTED}:
        return None, step.points.maximum
    if not step.points.awards:
        return (step.points.maximum if attempt.outcome is Outcome.PASSED else 0.0), step.points.maximum
    return (_award(step.points.awards, names) if attempt.answered else 0.0), step.points.maximum


def _award(awards: tuple[Award, ...], names: dict[str, Any]) -> float:
    """The first award whose condition holds; one that cannot be evaluated does not hold."""
    for award in awards:
        try:
            if award.when is None or award.when.evaluate(names):
                return award.points
        except ExpressionFailed:
            continue
    return 0.0


def _judge_failed_when(step: Step, attempt: Attempt, names: dict[str, Any]) -> Attempt:
    assert step.failed_when is not None  # noqa: S101 - the caller has looked
    try:
        failed = step.failed_when.evaluate(names)
        message, hint = f"failed_when is true: {step.failed_when.text}", ""
    except ExpressionFailed as error:
        failed, message, hint = True, error.message, error.hint
    if not failed:
        return attempt
    return Attempt(
        outcome=Outcome.FAILED,
        result=attempt.result,
        headline=attempt.headline,
        message=message,
        hint=hint,
        answered=attempt.answered,
    )


def _left(deadline: Deadline) -> float:
    try:
        return deadline.remaining()
    except (TimedOut, Interrupted):
        return 0.0


def _late(attempt: Attempt, seconds: float, number: int) -> Attempt:
    attempt.message = f"not within {Duration(seconds)} ({number} attempts): {attempt.message}"
    return attempt


def _bound(step: Step, attempt: Attempt, seconds: float) -> Bound | None:
    """Whether the step's objective was met; a step that did not pass has not met it."""
    if step.within is None:
        return None
    if attempt.outcome in {Outcome.SKIPPED, Outcome.NOT_APPLICABLE, Outcome.NOT_CONFIRMED, Outcome.INTERRUPTED}:
        return Bound.NOT_MEASURED
    return Bound.MET if attempt.outcome is Outcome.PASSED and seconds <= step.within else Bound.MISSED


def _expected(step: Step) -> str:
    conditions = [*((step.until.text,) if step.until else ()), *(expectation.text for expectation in step.expect)]
    if step.action == "assert":
        conditions = [expectation.text for expectation in step.args["that"]]
    return " and ".join(conditions)


def _plain(value: Any) -> Any:
    return value.plain() if isinstance(value, Result) else value



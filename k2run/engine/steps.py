"""Runs one step: whether it applies, its turns, its action or its block."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from k2run.actions.action import Effect, Person
from k2run.engine.attempt import WORDS, Attempt, refused, short
from k2run.engine.dispatch import convert_arguments, message_of
from k2run.engine.events import Outcome, satisfied
from k2run.engine.execution import OutOfTime, within
from k2run.engine.outline import is_built_on, is_proof, left_out, names_given
from k2run.engine.request import check_protected, needs_approval, refusal
from k2run.engine.retry import Tries, Trying, judge_step, time_limit
from k2run.engine.sequence import LEAPS, Block, Leap, Several, handing_on, leap_of, look
from k2run.engine.step_record import Turn, did_change, failure_of, left_unknown, title, without_turn
from k2run.engine.variables import loop_items
from k2run.errors import (
    ExpressionFailed,
    Inapplicable,
    K2runError,
    Protected,
    RunbookInvalid,
    StackInvalid,
    UsageError,
)
from k2run.language.expressions import is_fixed, names_in, render
from k2run.language.vocabulary import ASSERT, HARMS, RUN, SET, NoValue

if TYPE_CHECKING:
    from k2run.engine.events import StepFinished
    from k2run.engine.execution import Execution
    from k2run.language.model import Section, Step


NO_ITEMS = "the loop has no items, so nothing was checked"
RESOLVE, PROBE = "resolve", "probe"
"""Call nothing; call what only observes."""


class StepRunner:
    """Runs the steps of one section.

    Args:
        execution: The run that they belong to.
        section: Their section.
        tags: What they inherit from the blocks around them; from their section alone when there are none.
    """

    def __init__(self, execution: Execution, section: Section, tags: frozenset[str] = frozenset()) -> None:
        self.execution = execution
        self._section = section
        self._tags = tags or execution.tags | section.tags
        self._told = execution.section or section.path

    def run(self, step: Step, path: str = "", local: dict[str, Any] | None = None) -> Outcome:
        """Run a step with all its turns and record how it ended.

        Args:
            step: What to do.
            path: Its path in this run: below the turn of the loop that it is inside of; its own when "".
            local: Names that only this step sees.

        Raises:
            Interrupted: The run was asked to end.
            JournalLost: The journal cannot be written any more.
        """
        path, names = path or self.execution.prefix + step.path, local or {}
        reason = left_out(step, self._tags, self.execution)
        if reason:
            return self.leave_out(step, Outcome.SKIPPED, reason, path, names)
        done = self.execution.past.steps.get(path)
        if done is not None:
            return self._again(step, path, names, done)
        if step.when is not None and not (step.loop is not None and _by_item(step)):
            ended = self._not_needed(step, path, names)
            if ended is not None:
                return ended
        return self._elsewhere(step, path, names) if step.delegate else self._wanted(step, path, names)

    def _wanted(self, step: Step, path: str, names: dict[str, Any]) -> Outcome:
        """Run a step that is not left out, where the stack has what it requires."""
        missing = self.execution.missing(step.requires)
        if missing:
            return self.leave_out(step, Outcome.NOT_APPLICABLE, missing, path, names)
        return self._turn(step, path, names) if step.loop is None else self._loop(step, path, names)

    def _elsewhere(self, step: Step, path: str, names: dict[str, Any]) -> Outcome:
        """Run a step on the stack that it is delegated to; what it requires is required of that one."""
        try:
            other = self.execution.on(step.delegate)
            check_protected([step], self.execution.runbook, other.stack, other.caller.catalogue)
        except (StackInvalid, RunbookInvalid, Protected) as error:
            return self._at(step, path, names).ended(Attempt().failing(error.message, error.hint))
        names = {**names, "stack": other.stack.facts(), "roles": other.stack.roles}
        return self.of(other)._wanted(step, path, names)  # noqa: SLF001 - the same, elsewhere

    def _not_needed(self, step: Step, path: str, given: dict[str, Any]) -> Outcome | None:
        """Record a step whose `when` is false, or cannot be evaluated; None when it is to be run."""
        run = self.execution
        try:
            names = run.variables.names(run.variables.local(step.vars, **given) if step.vars else given)
            if step.when is None or step.when.evaluate(names):
                return None
        except ExpressionFailed as error:
            return self._at(step, path, given).ended(self._unresolved(error))
        return self.leave_out(step, Outcome.SKIPPED, f"not needed: {step.when.text} is false", path, given)

    def _again(self, step: Step, path: str, given: dict[str, Any], done: StepFinished) -> Outcome:
        """What an earlier part of this run has done is not repeated: what it handed on returns."""
        run = self.execution
        if not step.block or done.outcome is Outcome.NOT_APPLICABLE:
            left_unknown(run.variables, step, done)
        if did_change(done) and not is_proof(step, self._told, run):
            run.changes.add(path)
        if done.outcome is Outcome.NOT_APPLICABLE:
            run.absences[without_turn(path)] = done.message
        if not satisfied(done.outcome):
            run.failures[without_turn(path)] = failure_of(done)
        run.variables.register(done.variables)
        if step.register and step.loop is not None:
            run.results[path] = done.variables.get(step.register)
        if step.block:
            self._walk(step, path, given)
        if done.leap:
            leap = leap_of(done.leap["action"], done.leap)
            leap.outcome = done.outcome
            raise leap
        return done.outcome

    def inside(self, block: Step) -> StepRunner:
        """What runs the steps of a block: they inherit its tags."""
        return StepRunner(self.execution, self._section, self._tags | block.tags) if block.tags else self

    def of(self, execution: Execution) -> StepRunner:
        """What runs the same steps in another execution of the run: on another stack, with another limit."""
        return StepRunner(execution, self._section, self._tags)

    def _walk(self, step: Step, path: str, given: dict[str, Any]) -> None:
        """Bring back what the steps of an ended block handed on: those that have a record."""
        local = self.execution.variables.local(step.vars, **given) if step.vars else given
        for part in ("block", "rescue", "always"):
            for number, inner in enumerate(getattr(step, part)):
                inside = f"{path}.{part}[{number}]"
                if {inside, f"{inside}#0"} & self.execution.past.steps.keys():
                    with suppress(Leap):
                        self.inside(step).run(inner, inside, local)

    def leave_out(
        self, step: Step, outcome: Outcome, message: str, path: str = "", local: dict[str, Any] | None = None
    ) -> Outcome:
        """Record a step that is not run at all."""
        turn = self._at(step, path or self.execution.prefix + step.path, local or {})
        if step.block and outcome is Outcome.NOT_APPLICABLE:
            unknown = NoValue(f"{turn.name!r} does not apply: {message}", applies=False)
            self.execution.variables.leave_out(names_given(step), unknown)
        return turn.ended(Attempt(outcome=outcome, message=message))

    def _loop(self, step: Step, path: str, names: dict[str, Any]) -> Outcome:
        """Run a step once for each item; the results of all turns are registered as a list."""
        run = self.execution
        try:
            items = loop_items(step.loop, run.variables.names(names))
            if not (step.no_log or is_fixed(step.loop)):
                items = run.keep(path, items)
        except (ExpressionFailed, TypeError) as error:
            outcome = Outcome.SKIPPED if run.options.check else Outcome.FAILED
            outcome = Outcome.NOT_APPLICABLE if isinstance(error, Inapplicable) else outcome
            return self.leave_out(step, outcome, message_of(error)[0], path, names)
        if not items:
            if step.register:
                run.variables.register({step.register: []})
            return self.leave_out(step, Outcome.NOT_APPLICABLE, NO_ITEMS, path, names)
        turns = [(f"{path}#{number}", {**names, step.loop_var: item}) for number, item in enumerate(items)]
        several: Several[tuple[str, dict[str, Any]]] = Several(
            run,
            lambda turn: self._turn(step, *turn),
            leave=lambda turn, outcome, why: self.leave_out(step, outcome, why, *turn),
        )
        outcome = several.run(turns, at_once=step.parallel)
        if step.register and outcome is Outcome.NOT_APPLICABLE:
            why = run.absences.get(path, "")
            run.variables.leave_out([step.register], NoValue(f"no turn of {step.name!s} applies: {why}", applies=False))
        elif step.register:
            run.variables.register({step.register: [run.results.pop(turn) for turn, _ in turns]})
        return handing_on(several.leap, outcome)

    def _turn(self, step: Step, path: str, given: dict[str, Any]) -> Outcome:
        """Run a step once (or one turn of its loop), unless an earlier part of this run has done so."""
        run = self.execution
        if step.loop is not None:
            done = run.past.steps.get(path)
            if done is not None:
                return self._again(step, path, given, done)
            ended = None if step.when is None else self._not_needed(step, path, given)
            if ended is not None:
                return ended
        try:
            local = run.variables.local(step.vars, **given) if step.vars else given
        except ExpressionFailed as error:
            return self._at(step, path, given).ended(self._unresolved(error))
        turn = self._at(step, path, local)
        if step.block:
            return Block(self, turn).run()
        if step.action == RUN.name:
            return self._runbook(turn)
        return self._leap(turn) if step.action in LEAPS else self._act(turn)

    def _act(self, turn: Turn) -> Outcome:
        """Do the step's action."""
        run, step = self.execution, turn.step
        try:
            late = step.fixed or step.action in {ASSERT.name, SET.name}  # these render their own arguments
            args = step.args if late else render(step.args, run.variables.names(turn.local))
        except ExpressionFailed as error:
            return turn.ended(self._unresolved(error))
        if run.options.check and not is_done_anyway(run, step):
            return turn.ended(resolved(run, step, args))
        if needs_approval(step) and not (run.options.check or run.options.yes):
            refused = refusal(turn)
            if refused is not None:
                return turn.ended(refused)
        if run.guided is None:
            return self._do(turn, args)
        return run.guided.act(turn, args, lambda: self._do(turn, args))

    def _unresolved(self, error: ExpressionFailed) -> Attempt:
        """A value of the step could not be computed; before a run that may only mean that it is not known yet."""
        return unknown_yet(error) if self.execution.options.check else Attempt().unresolved(error)

    def _do(self, turn: Turn, args: dict[str, Any]) -> Outcome:
        """Do the action until the step is satisfied or its time has run out."""
        run, step, began = self.execution, turn.step, time.monotonic()
        trying = Trying(turn, args, within(run.limits, time_limit(step, args)))
        turn.begun({} if step.no_log or step.action in WORDS else args, trying.limit)
        with turn.in_any_case(began):
            attempt = trying.until_done()
        return turn.ended(attempt, seconds=time.monotonic() - began, attempts=trying.attempts)

    def _runbook(self, turn: Turn) -> Outcome:
        """Run another runbook as this step."""
        step, began = turn.step, time.monotonic()
        run = self.execution if step.timeout is None else self.execution.limited(step.timeout, turn.name)
        turn.begun({}, step.timeout)
        tries = Tries(run, turn)
        with turn.in_any_case(began):
            try:
                attempt = self._runbook_tried(run, turn, tries)
            except OutOfTime as over:
                if run is self.execution or over.limit is not run.limits[-1]:
                    raise
                attempt = Attempt().failing(over.limit.says, over.hint)
        return turn.ended(attempt, seconds=time.monotonic() - began, attempts=tries.number)

    def _runbook_tried(self, run: Execution, turn: Turn, tries: Tries) -> Attempt:
        """Run a runbook until a try is what it is to be, or the last one."""
        while True:
            attempt = self._runbook_once(run, turn, tries)
            why = tries.another(attempt)
            if why is not None:
                return replace(attempt, message=f"{attempt.message} ({why})") if why else attempt

    def _runbook_once(self, run: Execution, turn: Turn, tries: Tries) -> Attempt:
        """One try of a runbook, judged."""
        step, local = turn.step, tries.names()
        try:
            attempt = run.nested(run, step, turn.path, local, section=self._told, tags=self._tags)
            if attempt.answered and attempt.outcome is Outcome.FAILED and _states_outcome(step):
                attempt = replace(attempt, outcome=Outcome.PASSED, message="", hint="")
            return judge_step(step, tries.judged(attempt), run.variables.names({**local, "result": attempt.result}))
        except ExpressionFailed as error:
            return self._unresolved(error)
        except UsageError as error:
            return Attempt().failing(error.message, error.hint)

    def _leap(self, turn: Turn) -> Outcome:
        """Leave out the steps that follow, as the step says."""
        step = turn.step
        try:
            attempt = look(step.action, step.args, self.execution.variables.names(turn.local))
        except ExpressionFailed as error:
            return turn.ended(Attempt().failing(error.message, error.hint))
        leap = leap_of(step.action, attempt.result)
        return handing_on(leap, turn.ended(attempt, leap=leap))

    def lacks(self, step: Step, path: str, local: dict[str, Any]) -> str:
        """Why the steps after one that does not apply do not apply either; empty when they do not depend on it."""
        run = self.execution
        if run.options.check or not is_built_on(step, self._section, run.runbook):
            return ""
        why = run.absences.get(path, "")
        if why == NO_ITEMS and step.effect not in HARMS:  # there was nothing to change
            return ""
        return f'"{title(run, step, local)}" does not apply: {why}' if why else ""

    def _at(self, step: Step, path: str, local: dict[str, Any]) -> Turn:
        name = title(self.execution, step, local)
        return Turn(self.execution, step, path, name, self._told, self._section.category, local)


def _states_outcome(step: Step) -> bool:
    """Whether the `expect` (or `until`) of a `run` speaks of `result.outcome`: it judges a runbook that failed, too."""
    said = (*step.expect, step.until) if step.until is not None else step.expect
    references = (each for expression in said for each in expression.syntax.references)
    return any(each.name == "result" and each.path[:1] == ("outcome",) for each in references)


def _by_item(step: Step) -> bool:
    """Whether the `when` of a looped step needs the item: it is decided for each turn, else also before the loop."""
    wanted = set(step.when.names) if step.when is not None else set()
    for name, value in reversed(step.vars.items()):
        if name in wanted:
            wanted |= names_in(value)
    return step.loop_var in wanted


def unknown_yet(error: ExpressionFailed) -> Attempt:
    """The end of a step that needs what only a run finds out."""
    return Attempt(outcome=Outcome.SKIPPED, message=f"known only in a run: {error.message}")


def is_done_anyway(run: Execution, step: Step) -> bool:
    """Whether a check does the step: `set`, and with `probe` whatever only observes and prompts for nothing."""
    if step.action in WORDS:
        return step.action == SET.name
    action = run.caller.action(step.action)
    asks = any(issubclass(kind, Person) for kind in action.given.values())
    return run.options.check == PROBE and step.effect is Effect.OBSERVES and not asks


def resolved(run: Execution, step: Step, args: dict[str, Any]) -> Attempt:
    """What a run would do, or why it could not."""
    if step.action in WORDS:
        return Attempt(outcome=Outcome.SKIPPED, message=f"would {step.action}")
    try:
        action = run.caller.action(step.action)
        convert_arguments(action, args)
        for connection in action.connections:
            needed = getattr(connection, "needs_argument", "")
            if not needed or needed in args:
                run.caller.connection(connection)
    except K2runError as error:
        return refused(error, *message_of(error))
    missing = run.stack.absent(args["service"]) if isinstance(args.get("service"), str) else ""
    if missing:
        return Attempt(outcome=Outcome.NOT_APPLICABLE, message=missing)
    shown = "" if step.no_log else ", ".join(f"{name}={short(value)}" for name, value in args.items())
    return Attempt(outcome=Outcome.SKIPPED, message=f"would call {step.action}({shown})")

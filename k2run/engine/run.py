"""A run from start to end: each line of `run` makes the next thing."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from k2run.actions.action import Effect
from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.engine.approval import check_approved
from k2run.engine.blast import check_blast
from k2run.engine.caller import Caller, message_of
from k2run.engine.choice import steps_before
from k2run.engine.delegates import Delegates, check_delegates
from k2run.engine.events import Noted, Outcome, RunFinished, RunResumed, StackChanged
from k2run.engine.execution import Execution, Options
from k2run.engine.inputs import has_secret_inputs, resolve_inputs, restore_inputs
from k2run.engine.journal import Journal, Observer, cut_torn_tail, no_redaction, read_journal
from k2run.engine.judge import judge_run
from k2run.engine.lock import hold
from k2run.engine.opening import run_started
from k2run.engine.outline import all_steps
from k2run.engine.past import ended, past_of, started
from k2run.engine.people import Nobody, Recorded
from k2run.engine.score import latest
from k2run.engine.sections import SectionRunner
from k2run.engine.signals import StopRequest, requester
from k2run.engine.trial import judge_trial
from k2run.engine.undo import UndoStack, pending_undos
from k2run.engine.variables import Variables
from k2run.errors import Interrupted, JournalLost, K2runError, Protected, Unsettled, UsageError
from k2run.language.model import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.actions.person import Person
    from k2run.engine.events import AnyEvent
    from k2run.engine.guide import Guide
    from k2run.engine.store import Store
    from k2run.language.model import Runbook, Step
    from k2run.stack.loading import Stack

Inside = Callable[[Execution, StopRequest], None]
UNDO_TIMEOUT = 60.0
START_TIMEOUT = 60.0


class Request(Struct, frozen=True, kw_only=True):
    """What is to be run, on what, how, and who watches.

    Attributes:
        guide: Decides about each step before it is done.
        inside: Done after the sections, while the run's faults are still in force.
    """

    runbook: Runbook
    stack: Stack
    store: Store
    catalogue: Catalogue = field(default_factory=Catalogue)
    options: Options = field(default_factory=Options)
    observers: tuple[Observer, ...] = ()
    person: Person = field(default_factory=Nobody)
    guide: Guide | None = None
    inside: Inside | None = None


def run(request: Request) -> RunFinished:
    """Run a runbook on a stack.

    Raises:
        StackBusy: Another run holds the stack.
        Unsettled: An earlier run left faults in place.
        Protected: The stack refuses faults from this runbook.
        UsageError: An input is missing or wrong, or a destructive step was not approved.
        JournalLost: No journal can be written.
    """
    check_allowed(request)
    inputs = resolve_inputs(request.runbook, request.options.extra, request.stack)
    store, stack = request.store, request.stack
    folder = store.new_run(request.runbook.name, request.runbook.source, trial=bool(request.options.check))
    with StopRequest() as signals, hold(store.stack_folder(stack.name), stack.name, folder.name):
        settle_or_refuse(store, stack.name)
        store.mark_open(stack.name, folder.name)
        return _execute(request, folder, inputs, signals, past=())


def run_inside(request: Request, signals: StopRequest) -> RunFinished:
    """Run a runbook while a run around it holds the stack; it has a folder and a journal of its own.

    Args:
        request: What to run; it may break nothing, for the stack remembers the undos of the run around it alone.
        signals: Those of the run around it: what ends that one ends this one.

    Raises:
        UsageError: The runbook has faults, or an input is missing or wrong.
    """
    check_allowed(request)
    faults = [step.action for step in all_steps(request.runbook) if _effect(request, step) is Effect.BREAKS]
    if faults:
        name = request.runbook.name
        raise UsageError(f"{name} breaks something itself ({faults[0]})", hint=f"do `k2run run {name}` on its own")
    inputs = resolve_inputs(request.runbook, request.options.extra, request.stack)
    folder = request.store.new_run(request.runbook.name, request.runbook.source)
    return _execute(request, folder, inputs, signals, past=())


def resume(request: Request, folder: Path) -> RunFinished:
    """Go on with a run that was interrupted or died; what is still broken is undone first.

    Raises:
        UsageError: The run has ended.
        StackBusy: Another run (or this one, still alive) holds the stack.
    """
    store, stack = request.store, request.stack
    with StopRequest() as signals, hold(store.stack_folder(stack.name), stack.name, folder.name):
        past = read_journal(folder)
        over = ended(past)
        if over is not None:
            raise UsageError(f"{folder.name} has ended: {over.verdict}", hint="only an interrupted run can be resumed")
        other = store.open_run(stack.name)
        if other != folder:
            settle_or_refuse(store, stack.name)
        store.mark_open(stack.name, folder.name)
        cut_torn_tail(folder / "journal.jsonl")
        inputs = restore_inputs(request.runbook, started(past).inputs, request.options.extra, stack)
        return _execute(request, folder, inputs, signals, past=past)


def settle_or_refuse(store: Store, stack: str) -> None:
    """Refuse while an earlier run's faults are in place.

    Raises:
        Unsettled: They are; the message says what is broken.
    """
    folder = store.open_run(stack)
    pending = pending_undos(read_journal(folder)) if folder else []
    if folder and pending:
        broken = "; ".join(entry.says for entry in reversed(pending))
        raise Unsettled(
            f"{folder.name} ended without undoing its faults on {stack!r}; still to do: {broken}",
            hint=f"`k2run undo` does it, `k2run resume {folder.name}` does it and goes on",
        )


def undo(request: Request, folder: Path) -> list[str]:
    """Play what a dead run left to undo.

    Returns:
        What could not be undone, for people.
    """
    store, stack = request.store, request.stack
    with StopRequest() as signals, hold(store.stack_folder(stack.name), stack.name, f"undo of {folder.name}"):
        cut_torn_tail(folder / "journal.jsonl")
        events = read_journal(folder)
        journal = Journal(folder, request.observers, redact=_redaction(stack, request.runbook), after=events)
        caller = Caller(request.catalogue, stack, lambda _step: Nobody())
        undos = _undo_stack(journal, caller, signals, events)
        failed = undos.play_all(by="k2run undo")
        journal.close()
        if not undos:
            store.mark_closed(stack.name)
        return failed


def check_allowed(request: Request) -> None:
    """Refuse faults and destructive actions on a protected stack.

    Raises:
        Protected: The runbook breaks something and is not allowed to, by name, or reaches further than the run may.
    """
    check_approved(request.runbook, request.catalogue, request.options)
    check_delegates(request.runbook, request.catalogue)
    steps_before(request.runbook, request.options.start_at)
    check_blast(request.runbook, request.catalogue, request.options.max_blast)
    if not request.stack.protected or request.runbook.name in request.stack.allow:
        return
    for step in all_steps(request.runbook):
        effect = _effect(request, step)
        if effect in {Effect.BREAKS, Effect.DESTROYS}:
            raise Protected(
                f"{step.place}: {step.action} {effect} something; the stack {request.stack.name!r} is protected",
                hint=f"add {request.runbook.name!r} to `allow:` in {request.stack.path} if that is meant",
            )


def _effect(request: Request, step: Step) -> Effect | None:
    action = request.catalogue.find(step.action) if step.action else None
    return action.effect if action is not None else None


# --- the story of one run ---------------------------------------------------------------------------------------------


def _execute(
    request: Request, folder: Path, inputs: dict[str, Any], signals: StopRequest, past: Sequence[AnyEvent]
) -> RunFinished:
    """Begin, bring the stack up, run the sections, run `always`, undo, leave the stack as it was, judge, close."""
    execution = _begin(request, folder, inputs, signals, past)
    sections = SectionRunner(execution)
    brought_up: list[str] = []
    absent = execution.missing(request.runbook.requires)
    if absent:
        return _not_applicable(request, execution, absent)
    stopped = _guard(execution, lambda: _settle_past(execution, past))
    stopped = stopped or _guard(execution, lambda: _bring_up(execution, brought_up))
    stopped = stopped or _guard(execution, sections.run_all)
    inside = request.inside
    if inside is not None:
        stopped = stopped or _guard(execution, lambda: inside(execution, signals))
    execution.stop = signals.cleanup
    if isinstance(stopped, Interrupted):
        asked = requester(folder)
        by = f" from {asked}" if asked else ""
        received = f"{signals.name or 'a request'} received{by}: undoing, then ending"
        _tell(execution, Noted(message=received, level="warning"))
    _guard(execution, sections.run_always)
    reasons = [f"undo failed: {failure}" for failure in execution.undos.play_all()]
    reasons += [execution.ended_early] if execution.ended_early else []
    down = _guard(execution, lambda: _take_down(execution, brought_up))
    reasons += [f"the stack could not be stopped: {down}"] if down else []
    return _close(request, execution, stopped, reasons)


def _begin(
    request: Request, folder: Path, inputs: dict[str, Any], signals: StopRequest, past: Sequence[AnyEvent]
) -> Execution:
    """Open the journal and make what the parts of the run share."""
    runbook, stack, options = request.runbook, request.stack, request.options
    journal = Journal(folder, request.observers, redact=_redaction(stack, runbook), after=past)
    done = past_of(past)
    if past:
        journal.record(RunResumed(pid=os.getpid(), inbox=options.inbox, by=options.by, finished_steps=len(done.steps)))
    else:
        journal.record(run_started(request, folder, inputs))
    caller = Caller(request.catalogue, stack, lambda step: Recorded(request.person, journal, step))
    delegates = Delegates(runbook, caller, request.store.home)
    variables = Variables({}, inputs, {name: value for name, value in options.extra.items() if name not in inputs})
    execution = Execution(
        folder=folder,
        runbook=runbook,
        stack=stack,
        journal=journal,
        caller=caller,
        undos=_undo_stack(journal, caller, signals, past),
        variables=variables,
        options=options,
        stop=signals.run,
        past=done,
        cleanup=signals.cleanup,
        delegates=delegates,
    )
    variables.enter(runbook.vars)
    if request.guide is not None:
        from k2run.engine.guide import Guided

        execution.guided = Guided(request.guide, execution)
    if runbook.kind is Kind.RECOVERY:
        execution.fault_began(-options.known_for)
    return execution


def _settle_past(execution: Execution, past: Sequence[AnyEvent]) -> None:
    """Before a resumed run goes on: put back what is still broken; what ran under those faults is done again.

    Raises:
        Unsettled: Something could not be put back.
    """
    if not past:
        return
    failed = execution.undos.play_all()
    if failed:
        raise Unsettled("; ".join(failed), hint="repair it by hand, then resume again")
    execution.stand_on(past_of(read_journal(execution.folder)))


def _bring_up(execution: Execution, brought_up: list[str]) -> None:
    """Start what the stack needs and does not run yet; what a recovery finds broken is for its own steps to repair."""
    if execution.options.check or not execution.runbook.uses_stack or execution.runbook.kind is Kind.RECOVERY:
        return
    from k2run.stack import lifecycle

    began = execution.journal.elapsed()
    deadline = Deadline(START_TIMEOUT, execution.stop)
    brought_up += lifecycle.start(execution.stack, None, deadline, lambda text: _tell(execution, Noted(message=text)))
    if brought_up:
        seconds = round(execution.journal.elapsed() - began, 3)
        execution.journal.record(StackChanged(verb="started", services=brought_up, seconds=seconds))


def _take_down(execution: Execution, brought_up: list[str]) -> None:
    """Leave the stack as it was found, unless asked to keep it."""
    if not brought_up:
        return
    if execution.options.keep:
        _tell(execution, StackChanged(verb="kept", services=brought_up))
        return
    from k2run.stack import lifecycle

    began = execution.journal.elapsed()
    lifecycle.stop(execution.stack, brought_up)
    _tell(
        execution,
        StackChanged(verb="stopped", services=brought_up, seconds=round(execution.journal.elapsed() - began, 3)),
    )


def _close(request: Request, execution: Execution, stopped: K2runError | None, reasons: list[str]) -> RunFinished:
    """Judge the run, record the judgement, and take the mark away when nothing is left to settle."""
    journal = execution.journal
    if execution.options.check:
        finished = judge_trial(latest(read_journal(execution.folder)), journal.elapsed(), stopped)
        _tell(execution, finished)
        journal.close()
        request.store.mark_closed(request.stack.name, execution.folder.name)
        return finished
    kept: JournalLost | None = journal.lost
    try:
        events: list[AnyEvent] = read_journal(execution.folder)
    except UsageError:
        events = []
    judgement = judge_run(
        request.runbook,
        events,
        seconds=journal.elapsed(),
        figures=execution.figures,
        stopped=stopped or kept,
        reasons=reasons,
        pending=execution.undos.says,
        remark=execution.ended_well,
    )
    for event in (*judgement.objectives, *((judgement.scored,) if judgement.scored else ()), judgement.finished):
        _tell(execution, event)
    journal.close()
    if not execution.undos:
        request.store.mark_closed(request.stack.name, execution.folder.name)
    return judgement.finished


def _not_applicable(request: Request, execution: Execution, reason: str) -> RunFinished:
    """End a run for which this stack has not what it is about: that is neither a success nor a failure."""
    finished = RunFinished(
        outcome=Outcome.NOT_APPLICABLE, verdict=f"not applicable: {reason}", exit_code=0, seconds=0.0, reasons=[reason]
    )
    _tell(execution, finished)
    execution.journal.close()
    request.store.mark_closed(request.stack.name, execution.folder.name)
    return finished


def _guard(execution: Execution, part: Any) -> K2runError | None:
    """Run one part; whatever it raises is kept as the reason why the run ends, so that the parts after it still run."""
    try:
        part()
    except K2runError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a defect of k2run itself must not keep undos from being played
        execution.debug("".join(traceback.format_exception(error)))
        return K2runError(message_of(error)[0], hint=f"a defect of k2run; see {execution.folder / 'debug.log'}")
    return None


def _tell(execution: Execution, event: Any) -> None:
    """Record an event of the closing parts, which go on without a journal."""
    with suppress(JournalLost):
        execution.journal.record(event)


def _undo_stack(journal: Journal, caller: Caller, signals: StopRequest, events: Sequence[AnyEvent]) -> UndoStack:
    def play(action: str, args: dict[str, Any]) -> Any:
        return caller.call(action, args, Deadline(UNDO_TIMEOUT, signals.cleanup))

    planned = sum(event.__class__.__name__ == "UndoPlanned" for event in events)
    return UndoStack(journal, play, pending_undos(events), planned=planned)


def _redaction(stack: Stack, runbook: Runbook) -> Any:
    elsewhere = any(step.delegate for step in all_steps(runbook))
    return stack.redact if elsewhere or stack.has_secrets or has_secret_inputs(runbook) else no_redaction

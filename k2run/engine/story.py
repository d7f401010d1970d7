"""The story of one run: each line of `play` makes the next thing."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from k2run.actions.deadline import Deadline
from k2run.engine.caller import Caller, message_of
from k2run.engine.delegates import Delegates
from k2run.engine.events import Noted, Outcome, RunFinished, RunResumed, StackChanged
from k2run.engine.execution import Execution
from k2run.engine.inputs import has_secret_inputs
from k2run.engine.journal import Journal, no_redaction, read_journal
from k2run.engine.judge import judge_run
from k2run.engine.opening import run_started
from k2run.engine.outline import all_steps
from k2run.engine.past import past_of
from k2run.engine.people import Recorded
from k2run.engine.score import latest
from k2run.engine.sections import SectionRunner
from k2run.engine.signals import StopRequest, requester
from k2run.engine.trial import judge_trial
from k2run.engine.undo import UndoStack, pending_undos
from k2run.engine.variables import Variables
from k2run.errors import Interrupted, JournalLost, K2runError, Unsettled, UsageError
from k2run.language.model import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.engine.events import AnyEvent
    from k2run.engine.request import Request
    from k2run.language.model import Runbook
    from k2run.stack.loading import Stack

UNDO_TIMEOUT = 60.0
START_TIMEOUT = 60.0


def play(
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
    journal = Journal(folder, request.observers, redact=redaction(stack, runbook), after=past)
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
        undos=undo_stack(journal, caller, signals, past),
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


def undo_stack(journal: Journal, caller: Caller, signals: StopRequest, events: Sequence[AnyEvent]) -> UndoStack:
    """The undos of a run, with those that its earlier parts left."""

    def do(action: str, args: dict[str, Any]) -> Any:
        return caller.call(action, args, Deadline(UNDO_TIMEOUT, signals.cleanup))

    planned = sum(event.__class__.__name__ == "UndoPlanned" for event in events)
    return UndoStack(journal, do, pending_undos(events), planned=planned)


def redaction(stack: Stack, runbook: Runbook) -> Any:
    """What takes secrets out of a run's events; does nothing where there are none."""
    elsewhere = any(step.delegate for step in all_steps(runbook))
    return stack.redact if elsewhere or stack.has_secrets or has_secret_inputs(runbook) else no_redaction

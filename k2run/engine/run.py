"""Starts runs, resumes them and undoes what they left, each while it holds the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.action import Effect
from k2run.actions.catalogue import Catalogue
from k2run.engine.dispatch import Caller
from k2run.engine.journal import JOURNAL, Journal, cut_torn_tail, read_journal
from k2run.engine.outline import all_steps
from k2run.engine.prompts import Nobody
from k2run.engine.replay import COMMAND, ended, leftover, since_down, started
from k2run.engine.request import check_allowed
from k2run.engine.run_lifecycle import play, undo_stack
from k2run.engine.safeguards import StopRequest
from k2run.engine.store import hold
from k2run.engine.variables import Sources, resolve_inputs, restore_inputs
from k2run.errors import StackBusy, Unsettled, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.engine.events import RunFinished
    from k2run.engine.journal import Observer
    from k2run.engine.replay import Leftover
    from k2run.engine.request import Request
    from k2run.engine.store import Store
    from k2run.stack.stack import Stack


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
    try:
        with StopRequest() as signals, hold(store.stack_folder(stack.name), stack.name, folder.name):
            settle_or_refuse(store, stack.name)
            if not request.options.check:
                store.mark_open(stack.name, folder.name)
            return play(request, folder, inputs, signals, past=())
    except (StackBusy, Unsettled):
        store.drop_unused(folder)
        raise


def run_inside(request: Request, signals: StopRequest) -> RunFinished:
    """Run a runbook while a run around it holds the stack; it has a folder and a journal of its own.

    Args:
        request: What to run; it may break nothing, for the stack remembers the undos of the run around it alone.
        signals: Those of the run around it: what ends that one ends this one.

    Raises:
        UsageError: The runbook has faults, or an input is missing or wrong.
    """
    check_allowed(request)
    faults = [step.action for step in all_steps(request.runbook) if step.effect is Effect.BREAKS]
    if faults:
        name = request.runbook.name
        raise UsageError(f"{name} breaks something itself ({faults[0]})", hint=f"do `k2run run {name}` on its own")
    inputs = resolve_inputs(request.runbook, request.options.extra, request.stack)
    folder = request.store.new_run(request.runbook.name, request.runbook.source)
    return play(request, folder, inputs, signals, past=())


def resume(request: Request, folder: Path) -> RunFinished:
    """Resume a run that was interrupted or died; what is still broken is undone first.

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
        cut_torn_tail(folder / JOURNAL)
        stopped = store.down_since(stack.name, past[-1].at) if past else None
        if stopped is not None:
            journal = Journal(folder, redact=stack.redact, after=past, copy=store.undo_copy(stack.name))
            for event in since_down(past, stopped):
                journal.record(event, durable=True)
            journal.close()
            past = read_journal(folder)
        sources = Sources(request.runbook.source, request.runbook.home, stack, request.options.extra)
        begun = started(sources.recalled(past[:1]))
        inputs = restore_inputs(request.runbook, begun.inputs, request.options.extra, stack)
        return play(request, folder, inputs, signals, past=past)


def settle_or_refuse(store: Store, stack: str) -> None:
    """Refuse while an earlier run's faults are in place.

    Raises:
        Unsettled: They are; the message says what is broken.
    """
    left = leftover(store, stack)
    if left is None or not left:
        return
    if left.unknown:
        raise Unsettled(left.unknown, hint="`k2run undo` undoes what is known; then a run may start")
    broken = "; ".join(entry.says for entry in left.pending)
    raise Unsettled(
        f"{left.run} ended without undoing its faults on {stack!r}; still to do: {broken}",
        hint=f"`k2run undo` does it, `k2run resume {left.run}` does it and goes on",
    )


def undo(left: Leftover, stack: Stack, store: Store, observers: tuple[Observer, ...], sources: Sources) -> list[str]:
    """Play what a dead run left to undo.

    Returns:
        What could not be undone, or is not known, for people.

    Raises:
        StackBusy: A run holds the stack; it undoes what it broke by itself.
    """
    with StopRequest() as signals, hold(store.stack_folder(stack.name), stack.name, f"undo of {left.run}"):
        if left.folder is None:
            store.mark_closed(left.stack)
            return [left.unknown]
        cut_torn_tail(left.folder / JOURNAL)
        copy = store.undo_copy(left.stack)
        journal = Journal(left.folder, observers, redact=stack.redact, after=left.events, copy=copy)
        caller = Caller(Catalogue(), stack, lambda _step: Nobody())
        events = list(left.events)
        stopped = store.down_since(left.stack, events[-1].at) if events else None
        if stopped is not None:
            for event in since_down(events, stopped):
                journal.record(event, durable=True)
                events.append(event)
        undos = undo_stack(journal, caller, signals, events, sources)
        failed = undos.play_all(by=COMMAND)
        journal.close()
        if not undos:
            store.mark_closed(left.stack)
        return [*failed, *([left.unknown] if left.unknown else [])]

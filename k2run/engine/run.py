"""Begins runs, goes on with them and undoes what they left, each while it holds the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.action import Effect
from k2run.engine.caller import Caller
from k2run.engine.inputs import resolve_inputs, restore_inputs
from k2run.engine.journal import Journal, cut_torn_tail, read_journal
from k2run.engine.lock import hold
from k2run.engine.outline import all_steps
from k2run.engine.past import ended, started
from k2run.engine.people import Nobody
from k2run.engine.request import check_allowed
from k2run.engine.signals import StopRequest
from k2run.engine.story import play, redaction, undo_stack
from k2run.engine.undo import pending_undos
from k2run.errors import Unsettled, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.engine.events import RunFinished
    from k2run.engine.request import Request
    from k2run.engine.store import Store


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
        return play(request, folder, inputs, signals, past=())


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
        return play(request, folder, inputs, signals, past=past)


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
        journal = Journal(folder, request.observers, redact=redaction(stack, request.runbook), after=events)
        caller = Caller(request.catalogue, stack, lambda _step: Nobody())
        undos = undo_stack(journal, caller, signals, events)
        failed = undos.play_all(by="k2run undo")
        journal.close()
        if not undos:
            store.mark_closed(stack.name)
        return failed

"""Undo the faults of a run, from memory or from the journal of a run that died."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.engine.events import FaultStruck, Outcome, RunStarted, UndoFinished, UndoPlanned, UndoStarted
from k2run.engine.journal import read_lines
from k2run.engine.safeguards import said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from k2run.actions.action import Undo
    from k2run.engine.events import AnyEvent
    from k2run.engine.journal import Journal
    from k2run.engine.store import Store


class Pending(Struct, frozen=True, kw_only=True):
    """One undo that has not been played."""

    undo: str
    step: str
    action: str
    args: dict[str, Any]
    says: str
    secrets: dict[str, tuple[str, str]] = {}


def pending_undos(events: Iterable[AnyEvent]) -> list[Pending]:
    """What a journal says is still broken, oldest first."""
    open_: dict[str, Pending] = {}
    for event in events:
        if isinstance(event, UndoPlanned):
            open_[event.undo] = Pending(
                undo=event.undo,
                step=event.step,
                action=event.action,
                args=event.args,
                says=event.says,
                secrets=event.secrets,
            )
        elif isinstance(event, UndoFinished) and event.outcome is Outcome.PASSED:
            open_.pop(event.undo, None)
    return list(open_.values())


class UndoStack:
    """The undos of one run that are still to be played.

    Args:
        journal: Where they are planned and settled.
        play: Runs the action of an undo; raises when it fails.
        pending: What an earlier part of the run left.
        planned: How many undos that part has numbered.
    """

    def __init__(
        self,
        journal: Journal,
        play: Callable[[Pending], Any],
        pending: Iterable[Pending] = (),
        *,
        planned: int = 0,
    ) -> None:
        self._journal = journal
        self._play = play
        self._pending = list(pending)
        self._lock = threading.Lock()
        self._count = planned

    def __bool__(self) -> bool:
        return bool(self._pending)

    @property
    def says(self) -> list[str]:
        """What is still to be undone, newest first, for people."""
        return [entry.says for entry in reversed(self._pending)]

    def plan(self, step: str, undo: Undo) -> None:
        """Put an undo on disk and on the stack; only then may the fault be injected.

        Raises:
            JournalLost: It could not be kept, so the fault must not happen.
        """
        with self._lock:
            self._count += 1
            entry = Pending(undo=f"undo-{self._count}", step=step, action=undo.action, args=undo.args, says=undo.says)
            # Before it is kept: when the journal breaks at this very line, the line may stand in it, and is played.
            self._pending.append(entry)
            self._journal.record(
                UndoPlanned(undo=entry.undo, step=step, action=entry.action, args=entry.args, says=entry.says),
                durable=True,
            )

    def settle_by_step(self, step: str, action: str, args: dict[str, Any]) -> None:
        """A step of the runbook did what an undo would do: settle that undo."""
        with self._lock:
            for entry in reversed(self._pending):
                if entry.action == action and all(args.get(name) == value for name, value in entry.args.items()):
                    self._close(entry, UndoFinished(undo=entry.undo, says=entry.says, outcome=Outcome.PASSED, by=step))
                    return

    def play_all(self, by: str = "engine", inside: str = "") -> list[str]:
        """Play every pending undo, newest first; one that fails does not keep the others from being played.

        Args:
            by: Who undoes.
            inside: Only what steps below this path broke.

        Returns:
            What could not be undone, for people; empty when all is back.
        """
        failed: list[str] = []
        mine = [entry for entry in self._pending if entry.step.startswith(inside)]
        if not mine:
            return failed
        self._journal.reserve.release()  # an undo may need room itself: a service that is started writes pid and log
        for entry in reversed(mine):
            message = self._undo(entry, by)
            failed += [f"{entry.says}: {message}"] if message else []
        self._journal.reserve.keep()
        return failed

    def _undo(self, entry: Pending, by: str) -> str:
        """Play one undo, and settle it when it is done; why it could not be done, or ""."""
        self._tell(UndoStarted(undo=entry.undo, says=entry.says))
        began, message = self._journal.elapsed(), ""
        try:
            self._play(entry)
        except Exception as error:  # noqa: BLE001 - whatever happens, the other undos must be played
            message = said(error)
        outcome = Outcome.FAILED if message else Outcome.PASSED
        seconds = round(self._journal.elapsed() - began, 3)
        finished = UndoFinished(
            undo=entry.undo, says=entry.says, outcome=outcome, message=message, by=by, seconds=seconds
        )
        if message:
            self._tell(finished)
        else:
            self._close(entry, finished)
        return message

    def _close(self, entry: Pending, finished: UndoFinished) -> None:
        self._pending.remove(entry)
        self._tell(finished)

    def _tell(self, event: UndoStarted | UndoFinished) -> None:
        """An undo goes on whatever becomes of its record: the stack comes first."""
        with suppress(Exception), self._journal.unbound():
            self._journal.record(event, durable=True)


class Leftover(Struct, frozen=True, kw_only=True):
    """A run that is marked as under way on a stack.

    Attributes:
        stack: The stack's name.
        run: The run's id.
        folder: The run's folder; None when nothing is left of it.
        events: Its events, as far as they can be read, and what the stack's folder keeps of its undos beside it.
        unread: Numbers of the lines of its journal that cannot be read.
        copied: The undos are all known, from what the stack's folder keeps.
    """

    stack: str
    run: str
    folder: Path | None = None
    events: tuple[AnyEvent, ...] = ()
    unread: tuple[int, ...] = ()
    copied: bool = False

    @property
    def begun(self) -> RunStarted | None:
        """Its first event."""
        return next((event for event in self.events if isinstance(event, RunStarted)), None)

    @property
    def pending(self) -> list[Pending]:
        """What is still to be undone, newest first."""
        return pending_undos(self.events)[::-1]

    @property
    def unknown(self) -> str:
        """What can no longer be known, for people; empty when all is known."""
        if self.folder is None:
            return f"{self.run} was under way on {self.stack!r} and its folder is gone: what it broke is not known"
        if not self.unread or self.copied:
            return ""
        lines = f"line{'s' if len(self.unread) > 1 else ''} {', '.join(map(str, self.unread))}"
        planned = {event.step for event in self.pending}
        struck = [event for event in self.events if isinstance(event, FaultStruck) and event.step not in planned]
        faults = f"; these faults may still be in force: {', '.join(f.name for f in struck)}" if struck else ""
        return f"{lines} of the journal of {self.run} cannot be read: a fault that stood there is not known{faults}"

    def __bool__(self) -> bool:
        return bool(self.pending or self.unknown)


def leftover(store: Store, stack: str) -> Leftover | None:
    """What the run that is marked on a stack has left there; None when no run is."""
    run = store.marked(stack)
    if not run:
        return None
    folder = store.open_run(stack)
    if folder is None:
        return Leftover(stack=stack, run=run)
    events, unread = read_lines(folder)
    copy = store.undo_copy(stack)
    copied, torn = read_lines(copy) if copy.is_file() else ([], [])
    known = {event.seq: event for event in (*copied, *events)}
    return Leftover(
        stack=stack,
        run=run,
        folder=folder,
        events=tuple(known[seq] for seq in sorted(known)),
        unread=tuple(unread),
        copied=copy.is_file() and not torn,
    )

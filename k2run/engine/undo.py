"""Undos: planned on disk before a fault strikes, played newest first, from memory or from a dead run's journal."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.engine.events import Outcome, UndoFinished, UndoPlanned, UndoStarted
from k2run.errors import JournalLost, K2runError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from k2run.actions.action import Undo
    from k2run.engine.events import AnyEvent
    from k2run.engine.journal import Journal


class Pending(Struct, frozen=True, kw_only=True):
    """One undo that has not been played."""

    undo: str
    step: str
    action: str
    args: dict[str, Any]
    says: str


def pending_undos(events: Iterable[AnyEvent]) -> list[Pending]:
    """What a journal says is still broken, oldest first."""
    open_: dict[str, Pending] = {}
    for event in events:
        if isinstance(event, UndoPlanned):
            open_[event.undo] = Pending(
                undo=event.undo, step=event.step, action=event.action, args=event.args, says=event.says
            )
        elif isinstance(event, UndoFinished) and event.outcome is Outcome.PASSED:
            open_.pop(event.undo, None)
    return list(open_.values())


class UndoStack:
    """The undos of one run that are still to be played.

    Args:
        journal: Where they are planned and settled.
        play: Runs an action by name with its arguments; raises when it fails.
        pending: What an earlier part of the run left.
        planned: How many undos that part has numbered.
    """

    def __init__(
        self,
        journal: Journal,
        play: Callable[[str, dict[str, Any]], Any],
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
        """Put an undo on disk and on the stack; only then may the fault strike.

        Raises:
            JournalLost: It could not be kept, so the fault must not happen.
        """
        with self._lock:
            self._count += 1
            entry = Pending(undo=f"undo-{self._count}", step=step, action=undo.action, args=undo.args, says=undo.says)
            self._journal.record(
                UndoPlanned(undo=entry.undo, step=step, action=entry.action, args=entry.args, says=entry.says),
                durable=True,
            )
            self._pending.append(entry)

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
        for entry in reversed([entry for entry in self._pending if entry.step.startswith(inside)]):
            self._tell(UndoStarted(undo=entry.undo, says=entry.says))
            began = self._journal.elapsed()
            try:
                self._play(entry.action, entry.args)
            except Exception as error:  # noqa: BLE001 - whatever happens, the other undos must be played
                message = str(error) if isinstance(error, K2runError) else f"{type(error).__name__}: {error}"
                failed.append(f"{entry.says}: {message}")
                outcome = Outcome.FAILED
            else:
                message, outcome = "", Outcome.PASSED
            seconds = round(self._journal.elapsed() - began, 3)
            finished = UndoFinished(
                undo=entry.undo, says=entry.says, outcome=outcome, message=message, by=by, seconds=seconds
            )
            if outcome is Outcome.PASSED:
                self._close(entry, finished)
            else:
                self._tell(finished)
        return failed

    def _close(self, entry: Pending, finished: UndoFinished) -> None:
        self._pending.remove(entry)
        self._tell(finished)

    def _tell(self, event: UndoStarted | UndoFinished) -> None:
        """An undo goes on when the journal cannot be written any more: the stack comes first."""
        with suppress(JournalLost):
            self._journal.record(event, durable=True)

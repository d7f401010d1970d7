"""Undo the faults that interrupted runs left, and warn about them when such a stack is used."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from k2run.engine.replay import RUNS_AGAIN, Leftover, leftover
from k2run.engine.run import undo
from k2run.engine.safeguards import aside, said
from k2run.engine.store import RUNBOOK_COPY, Store, holder
from k2run.engine.variables import Sources
from k2run.errors import K2runError, StackBusy, UsageError
from k2run.stack.redactor import unsecret
from k2run.terminal.safe_stream import complain, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k2run.engine.replay import Pending
    from k2run.stack.stack import Stack

_PID = re.compile(r"\(pid (\d+)\)")


def broken(store: Store) -> list[Leftover]:
    """Runs that died and left something to undo or to check."""
    return [left for left in _open(store) if left and not holder(store.stack_folder(left.stack))]


def held(store: Store) -> dict[str, str]:
    """Locked stacks with a run in progress: who holds them and what happens to the run."""
    found = {left.stack: holder(store.stack_folder(left.stack)) for left in _open(store)}
    return {stack: f"{who} holds the stack {stack!r}{_standing(who)}" for stack, who in found.items() if who}


def _open(store: Store) -> list[Leftover]:
    return [left for stack in store.open_stacks() if (left := leftover(store, stack)) is not None]


def _standing(who: str) -> str:
    """The state of the holder's process, where that explains why nothing happens."""
    pid = _PID.search(who)
    with suppress(psutil.Error):
        if pid is not None and psutil.Process(int(pid[1])).status() == psutil.STATUS_STOPPED:
            return f" and is stopped (SIGSTOP): `kill -CONT {pid[1]}` lets it continue"
    return ""


def warn_of_broken(store: Store) -> None:
    """Say on stderr what is still broken, and how to undo it; silent when nothing is."""
    if not (store.home / "stacks").is_dir():
        return
    for left in broken(store):
        if left.pending:
            complain(f"warning: {left.run} died and left its stack broken; still to undo:")
        for entry in left.pending:
            complain(f"  - {entry.says}")
        if left.unknown:
            complain(f"warning: {left.unknown}; `k2run undo` undoes what is known")
        else:
            complain(f"  `k2run undo` undoes it; `k2run resume {left.run}` undoes it and continues")
    for says in held(store).values():
        if "(SIGSTOP)" in says:
            complain(f"warning: {says}; `k2run abort` ends it, and it undoes its faults")


def undo_all(stack: str = "", extra: Mapping[str, Any] | None = None) -> list[str]:
    """Undo what dead runs left; a failure on one stack does not stop the others.

    Args:
        stack: Only on this stack; "" for all.
        extra: Secret inputs that were given by hand, and that an undo needs.

    Returns:
        What could not be undone.

    Raises:
        StackBusy: A run is still in progress; it holds the stack and undoes its own faults.
    """
    store = Store()
    failed: list[str] = []
    chosen = [left for left in broken(store) if _means(stack, left, store)]
    for left in chosen:
        try:
            failed += _undo(left, stack, store, extra or {})
        except Exception as error:  # noqa: BLE001 - whatever stands in the way on one stack, the others are undone
            failed.append(unsecret(f"{left.run} on {left.stack!r}: {said(error)}"))
    for failure in failed:
        complain(f"could not undo: {failure}")
    busy = [says for name, says in held(store).items() if not stack or stack == name]
    if busy:
        raise StackBusy("; ".join(busy), hint="`k2run abort` ends it, and it undoes its faults itself")
    if not chosen:
        say("nothing to undo")
    return failed


def _means(stack: str, left: Leftover, store: Store) -> bool:
    """Whether a stack's name refers to the stack of this run."""
    begun = left.begun
    if not stack or stack == left.stack or (begun is not None and stack == begun.stack_file):
        return True
    from k2run.stack.stack import load_stack

    try:
        return load_stack(stack, near=None, home=store.home, overrides={}).name == left.stack
    except K2runError:
        return False


def _undo(left: Leftover, given: str, store: Store, extra: Mapping[str, Any]) -> list[str]:
    from k2run.stack.stack import load_stack
    from k2run.terminal.mode import open_face

    begun = left.begun
    try:
        reference = given or (begun.stack_file if begun is not None else "") or left.stack
        stack = load_stack(reference, near=None, home=store.home, overrides={})
    except K2runError as error:
        raise UsageError(
            f"cannot open its stack: {error.message}", hint="give its file: `k2run undo --stack FILE`"
        ) from error
    down = bool(left.events) and store.down_since(left.stack, left.events[-1].at) is not None
    played = [entry for entry in left.pending if not (down and entry.action in RUNS_AGAIN)]
    aside("the list of what is undone", lambda: say(*map(_written, played)), None)
    with open_face("plain", sys.stdout) as face:
        failed = undo(left, stack, store, (face,), _sources(left, stack, extra))
    if failed:
        failed.append(_way_on(stack, settled=failed == [left.unknown]))
    elif not left.unread:
        say(f"`k2run resume {left.run}` resumes that run")
    return failed


def _written(entry: Pending) -> str:
    return f"undo     {entry.action} {msgspec.json.encode(entry.args).decode()}"


def _way_on(stack: Stack, *, settled: bool) -> str:
    """The hint for what could not be undone; when it is `settled`, nothing more can be, and the next run may start."""
    down, path = _down(stack), f"--stack {stack.path}"
    if settled:
        return f"`k2run status {path}` shows which services are healthy; `k2run up {path}` starts and resumes them"
    if not down:
        return "repair that manually, then run `k2run undo` again"
    verb = "is" if len(down) == 1 else "are"
    return f"{', '.join(down)} {verb} not running: run `k2run up {path}` first, then `k2run undo` again"


def _sources(left: Leftover, stack: Stack, extra: Mapping[str, Any]) -> Sources:
    """The sources of the secrets that a run's undos need; without its runbook, only the stack's."""
    text = ""
    if left.folder is not None:
        with suppress(OSError, UnicodeDecodeError):
            text = (left.folder / RUNBOOK_COPY).read_text(encoding="utf-8")
    home = Path(left.begun.runbook).parent if left.begun is not None else Path()
    stack.redact.publish(text)
    return Sources(text, home, stack, extra)


def _down(stack: Stack) -> list[str]:
    """Services of this stack that k2run runs and that are not running."""
    from k2run.stack.backend import State
    from k2run.stack.lifecycle import status
    from k2run.stack.model import OUTSIDE

    with suppress(K2runError):
        return [
            look.service.name
            for look in status(stack)
            if look.service.run not in OUTSIDE and look.status.state is State.STOPPED
        ]
    return []

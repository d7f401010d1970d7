"""Settles what dead runs left broken, and says so whenever somebody asks anything of such a stack."""

from __future__ import annotations

import sys
from pathlib import Path

from k2run.engine.journal import read_journal
from k2run.engine.lock import holder
from k2run.engine.past import started
from k2run.engine.request import Request
from k2run.engine.run import undo
from k2run.engine.store import RUNBOOK_COPY, Store
from k2run.engine.undo import Pending, pending_undos


def broken(store: Store) -> dict[Path, list[Pending]]:
    """Runs that died and left something to undo, with what it is (newest first)."""
    found: dict[Path, list[Pending]] = {}
    for stack in store.open_stacks():
        folder = store.open_run(stack)
        if folder is not None and not holder(store.stack_folder(stack)):
            pending = pending_undos(read_journal(folder))
            if pending:
                found[folder] = pending[::-1]
    return found


def warn_of_broken(store: Store) -> None:
    """Say on stderr what is still broken, and how to put it back; silent when nothing is."""
    if not (store.home / "stacks").is_dir():
        return
    for folder, pending in broken(store).items():
        print(f"warning: {folder.name} died and left its stack broken; still to do:", file=sys.stderr)
        for entry in pending:
            print(f"  - {entry.says}", file=sys.stderr)
        print(f"  `k2run undo` does it; `k2run resume {folder.name}` does it and goes on", file=sys.stderr)


def undo_all(stack: str = "") -> list[str]:
    """Undo what dead runs left.

    Args:
        stack: Only on this stack; "" for all.

    Returns:
        What could not be undone.
    """
    from k2run.actions.catalogue import Catalogue
    from k2run.faces.launch import open_stack
    from k2run.faces.terminal import open_face
    from k2run.language.loader import load_runbook

    store = Store()
    failed: list[str] = []
    settled = 0
    for folder in broken(store):
        begun = started(read_journal(folder))
        if stack and stack not in {begun.stack, begun.stack_file}:
            continue
        catalogue = Catalogue()
        with open_face("plain", sys.stdout) as face:
            request = Request(
                runbook=load_runbook(folder / RUNBOOK_COPY, catalogue, home=Path(begun.runbook).parent),
                stack=open_stack(begun.stack_file or begun.stack, store=store),
                store=store,
                catalogue=catalogue,
                observers=(face,),
            )
            failed += undo(request, folder)
        settled += 1
        print(f"`k2run resume {folder.name}` goes on with that run")
    if not settled:
        print("nothing to undo")
    for failure in failed:
        print(f"could not undo: {failure}", file=sys.stderr)
    return failed

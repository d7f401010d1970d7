"""One run per stack at a time, by a lock that the operating system drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from k2run.errors import JournalLost, StackBusy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def hold(folder: Path, stack: str, holder: str) -> Iterator[None]:
    """Hold the lock of a stack.

    Args:
        folder: The stack's state folder; made when missing.
        stack: The stack's name, for the message.
        holder: Who holds it: the run's id.

    Raises:
        StackBusy: Another process holds it; the message names it.
        JournalLost: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise JournalLost(
            f"cannot write in {folder}: {error.strerror}", hint="choose another place with K2RUN_HOME"
        ) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            said = os.pread(file, 500, 0).decode(errors="replace").strip() or "an unknown process"
            raise StackBusy(
                f"another run holds the stack {stack!r}: {said}", hint="wait for it, or end it with `k2run abort`"
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{holder} (pid {os.getpid()})\n".encode(), 0)
        yield
    finally:
        os.close(file)


def holder(folder: Path) -> str:
    """Who holds the lock of a stack now: `RUN (pid N)`, or "" when nobody does."""
    path = folder / "lock"
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return ""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return os.pread(file, 500, 0).decode(errors="replace").strip()
    else:
        return ""
    finally:
        os.close(file)

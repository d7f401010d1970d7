"""The k2run home: folders of runs, the state of stacks, and the lock that one run at a time holds."""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.engine.journal import JOURNAL
from k2run.errors import JournalLost, StackBusy, UsageError
from k2run.files import (
    LONGEST_RUN,
    RUN,
    checked_name,
    name_objection,
    open_own,
    own_folder,
    read_own,
    refuse_foreign,
    rewritten,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


HOME = "K2RUN_HOME"
RUNBOOK_COPY = "runbook.yaml"
_OPEN = "open-run"
_DOWN, _UP, _WELL = "taken-down", "brought-up", "diagnosed-well"


_SECOND = 15
"""Characters of a run's id up to its second."""


def milliseconds(now: float) -> int:
    """The part of a second that has passed: runs begun in the same second keep their order by it."""
    return int(now * 1000) % 1000


def began(run: str) -> tuple[str, str, str]:
    """What orders runs by their beginning, out of a run's id: the second, the milliseconds, and the id itself."""
    return run[:_SECOND], run.rpartition("-")[2], run


class Store:
    """The files of one k2run home.

    Args:
        home: The folder; `$K2RUN_HOME`, else `.k2run` in the working directory.

    Raises:
        UsageError: The folder belongs to another account.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = (home or Path(os.environ.get(HOME) or ".k2run")).absolute()
        refuse_foreign(self.home)

    def new_run(self, name: str, source: str, *, trial: bool = False) -> Path:
        """Make the folder of a new run, with a copy of its runbook (a resume uses the copy).

        Args:
            name: The runbook's name.
            source: Its text.
            trial: It only checks what a run would do, and is no part of the history.

        Raises:
            JournalLost: It cannot be made.
            UsageError: The name cannot be a part of a path, or the folder belongs to another account.
        """
        now = time.time()
        second = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
        run = f"{second}-{checked_name(name, 'a runbook')}-{milliseconds(now):03x}{os.urandom(1).hex()}"
        folder = self.home / ("checks" if trial else "runs") / run
        try:
            own_folder(folder, self.home)
            with os.fdopen(
                open_own(folder / RUNBOOK_COPY, os.O_CREAT | os.O_EXCL | os.O_WRONLY), "w", encoding="utf-8"
            ) as file:
                file.write(source)
        except OSError as error:
            raise JournalLost(
                f"cannot write in {error.filename or folder}: {error.strerror}",
                hint="make room, or choose another place with K2RUN_HOME",
            ) from error
        return folder

    def drop_unused(self, folder: Path) -> None:
        """Remove the folder of a run that never began; one with a journal stays."""
        if (folder / JOURNAL).exists():
            return
        with suppress(OSError):
            (folder / RUNBOOK_COPY).unlink(missing_ok=True)
            folder.rmdir()

    def runs(self) -> list[Path]:
        """The folders of all runs, oldest first."""
        folder = self.home / "runs"
        runs = [run for run in folder.iterdir() if (run / JOURNAL).is_file()] if folder.is_dir() else []
        return sorted(runs, key=lambda run: began(run.name))

    def find_run(self, reference: str) -> Path:
        """The folder of a run by its id, a unique part of it, or `last`.

        Raises:
            UsageError: None or several fit.
        """
        exact = self.home / "runs" / reference
        if not name_objection(reference, LONGEST_RUN) and (exact / JOURNAL).is_file():
            return exact  # without a look at all the others
        runs = self.runs()
        fitting = runs[-1:] if reference == "last" else [run for run in runs if reference in run.name]
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise UsageError(
                f"there is no run {reference!r} under {self.home / 'runs'}", hint="`last` is the newest one"
            )
        names = ", ".join(run.name for run in fitting[-5:])
        raise UsageError(f"{reference!r} fits {len(fitting)} runs", hint=f"say which: {names}")

    def stack_folder(self, stack: str) -> Path:
        """The state folder of a stack."""
        return self.home / "stacks" / checked_name(stack, "a stack")

    # --- when a stack was brought up or taken down by hand ---

    def note_up(self, stack: str) -> None:
        """Note that an operator wants a stack up: no run that started it before takes it down any more."""
        with suppress(OSError):
            rewritten(self.stack_folder(stack) / _UP, datetime.now(UTC).isoformat(timespec="milliseconds").encode())

    def up_since(self, stack: str, at: str) -> bool:
        """Whether `k2run up` was asked for a stack since a time of a journal."""
        try:
            return (self.stack_folder(stack) / _UP).read_text(encoding="utf-8") > at
        except (OSError, ValueError):
            return False

    def note_down(self, stack: str, services: Sequence[str]) -> None:
        """Note that a stack was taken down: what runs found on it before, and still owe it, holds no more."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        with suppress(OSError):
            rewritten(self.stack_folder(stack) / _DOWN, "\n".join([at, *services]).encode())

    def down_since(self, stack: str, at: str) -> list[str] | None:
        """What `k2run down` stopped of a stack since a time of a journal; None when it was not taken down since."""
        try:
            noted, *services = (self.stack_folder(stack) / _DOWN).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return None
        return services if noted > at else None

    def note_well(self, stack: str) -> None:
        """Note that a diagnosis has found a stack healthy: what failed on it before is well again."""
        with suppress(OSError):
            rewritten(self.stack_folder(stack) / _WELL, datetime.now(UTC).isoformat(timespec="milliseconds").encode())

    def well_since(self, stack: str, at: str) -> bool:
        """Whether a diagnosis has found a stack healthy since a time of a journal."""
        try:
            return (self.stack_folder(stack) / _WELL).read_text(encoding="utf-8") > at
        except (OSError, ValueError):
            return False

    # --- the mark of a run that has not ended ---

    def mark_open(self, stack: str, run: str) -> None:
        """Note, before anything is done, that a run is under way on a stack.

        Raises:
            JournalLost: It cannot be noted.
        """
        mark = self.stack_folder(stack) / _OPEN
        try:
            if self.marked(stack) != run:
                self.undo_copy(stack).unlink(missing_ok=True)
            rewritten(mark, run.encode())
        except OSError as error:
            raise JournalLost(
                f"cannot write {mark}: {error.strerror}", hint="make room, or choose another place with K2RUN_HOME"
            ) from error
        os.close(open_own(self.home / "runs" / run / JOURNAL, os.O_CREAT | os.O_WRONLY))
        for kept, name in self._kept(stack):
            with suppress(OSError):  # where the disk knows no such links, nothing is kept
                kept.unlink(missing_ok=True)
                kept.hardlink_to(self.home / "runs" / run / name)

    def mark_closed(self, stack: str, run: str = "") -> None:
        """Note that nothing of the run is left to settle.

        Args:
            stack: The stack's name.
            run: Only when the mark is this run's; a run inside of another leaves that one's alone.
        """
        if not run or self.marked(stack) == run:
            (self.stack_folder(stack) / _OPEN).unlink(missing_ok=True)
            for kept in (self.undo_copy(stack), *(kept for kept, _ in self._kept(stack))):
                kept.unlink(missing_ok=True)

    def marked(self, stack: str) -> str:
        """The id of the run that is under way on a stack, or that died there; empty when there is none."""
        try:
            run = read_own(self.stack_folder(stack) / _OPEN).decode(errors="replace").strip()
        except OSError:
            return ""
        return checked_name(run, RUN) if run else ""

    def open_run(self, stack: str) -> Path | None:
        """The folder of the run that is under way on a stack, or that died there.

        One that was cleaned away is made again from what the stack's folder keeps of it.
        """
        name = self.marked(stack)
        folder = self.home / "runs" / name
        refuse_foreign(folder)
        refuse_foreign(folder / JOURNAL)
        if not name or (folder / JOURNAL).is_file():
            return folder if name else None
        with suppress(OSError):
            own_folder(folder, self.home)
            for kept, named in self._kept(stack):
                if kept.is_file():
                    (folder / named).hardlink_to(kept)
        return folder if (folder / JOURNAL).is_file() else None

    def undo_copy(self, stack: str) -> Path:
        """Where what the open run has to undo stands a second time."""
        return self.stack_folder(stack) / f"{_OPEN}-undos.jsonl"

    def _kept(self, stack: str) -> list[tuple[Path, str]]:
        """What the stack's folder keeps of its open run (links, which take no room), and what that is called there."""
        folder = self.stack_folder(stack)
        return [(folder / f"{_OPEN}-{name}", name) for name in (JOURNAL, RUNBOOK_COPY)]

    def open_stacks(self) -> list[str]:
        """Stacks with a run that has not ended cleanly."""
        return sorted(mark.parent.name for mark in self.home.glob(f"stacks/*/{_OPEN}"))


_HOLDER = re.compile(r"(?P<run>\S+) \(pid (?P<pid>\d+)\)")


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
        UsageError: The folder or its lock belongs to another account.
    """
    try:
        own_folder(folder, folder.parent.parent)
        file = open_own(folder / "lock", os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise JournalLost(
            f"cannot write in {folder}: {error.strerror}", hint="choose another place with K2RUN_HOME"
        ) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            who = os.pread(file, 500, 0).decode(errors="replace").strip() or "an unknown process"
            raise StackBusy(
                f"another run holds the stack {stack!r}: {who}", hint="wait for it, or end it with `k2run abort`"
            ) from None
        with suppress(OSError):  # only for people: it is the lock that counts
            said = f"{holder} (pid {os.getpid()})\n".encode()
            os.pwrite(file, said, 0)  # before it is cut: a full disk has room for what stands there already
            os.ftruncate(file, len(said))
        yield
    finally:
        os.close(file)


def running(home: Path) -> list[str]:
    """The ids of the runs that are under way: each holds the lock of its stack.

    A lock is only probed while the process lives that it names: a probe of a free lock could get in the way of a run
    that is about to take it.
    """
    found = []
    for lock in sorted(home.glob("stacks/*/lock")):
        with suppress(OSError, UnicodeDecodeError):
            said = _HOLDER.match(lock.read_text(encoding="utf-8"))
            if said is not None and _lives(int(said["pid"])) and holder(lock.parent) == said[0]:
                found.append(said["run"])
    return [run for run in found if (home / "runs" / run).is_dir()]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def holder(folder: Path) -> str:
    """Who holds the lock of a stack now: `RUN (pid N)`, or "" when it is free."""
    path = folder / "lock"
    try:
        file = open_own(path, os.O_RDWR)
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

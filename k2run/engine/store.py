"""Where runs and stacks keep their files: `.k2run/runs/<id>/` and `.k2run/stacks/<name>/`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from k2run.engine.journal import JOURNAL
from k2run.errors import JournalLost, UsageError

HOME = "K2RUN_HOME"
RUNBOOK_COPY = "runbook.yaml"
_OPEN = "open-run"


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
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = (home or Path(os.environ.get(HOME) or ".k2run")).absolute()

    def new_run(self, name: str, source: str, *, trial: bool = False) -> Path:
        """Make the folder of a new run, with a copy of its runbook (a resume uses the copy).

        Args:
            name: The runbook's name.
            source: Its text.
            trial: It only checks what a run would do, and is no part of the history.

        Raises:
            JournalLost: It cannot be made.
        """
        now = time.time()
        second = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
        run = f"{second}-{name}-{milliseconds(now):03x}{os.urandom(1).hex()}"
        folder = self.home / ("checks" if trial else "runs") / run
        try:
            folder.mkdir(parents=True)
            (folder / RUNBOOK_COPY).write_text(source)
        except OSError as error:
            raise JournalLost(
                f"cannot write in {error.filename or folder}: {error.strerror}",
                hint="make room, or choose another place with K2RUN_HOME",
            ) from error
        return folder

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
        if exact.name == reference and (exact / JOURNAL).is_file():  # without a look at all the others
            return exact
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
        return self.home / "stacks" / stack

    # --- the mark of a run that has not ended ---

    def mark_open(self, stack: str, run: str) -> None:
        """Note, before anything is done, that a run is under way on a stack."""
        (self.stack_folder(stack) / _OPEN).write_text(run)

    def mark_closed(self, stack: str, run: str = "") -> None:
        """Note that nothing of the run is left to settle.

        Args:
            stack: The stack's name.
            run: Only when the mark is this run's; a run inside of another leaves that one's alone.
        """
        marked = self.open_run(stack)
        if not run or marked is None or marked.name == run:
            (self.stack_folder(stack) / _OPEN).unlink(missing_ok=True)

    def open_run(self, stack: str) -> Path | None:
        """The folder of the run that is under way on a stack, or that died there."""
        try:
            name = (self.stack_folder(stack) / _OPEN).read_text().strip()
        except OSError:
            return None
        folder = self.home / "runs" / name
        return folder if name and (folder / JOURNAL).is_file() else None

    def open_stacks(self) -> list[str]:
        """Stacks with a run that has not ended cleanly."""
        return sorted(mark.parent.name for mark in self.home.glob(f"stacks/*/{_OPEN}"))

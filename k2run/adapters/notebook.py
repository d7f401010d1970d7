"""Jupyter notebooks: run one, or look at one that ran, and do not believe a cell that swallows its exception."""

from __future__ import annotations

import time

from k2run.actions.action import Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters import _notebook as notebooks
from k2run.adapters._notebook import MARKS, Section, Trouble
from k2run.errors import Refused

SHOWN = 3


class Executed(Result, frozen=True, kw_only=True):
    """A notebook and what its cells say.

    Attributes:
        cells: Code cells that are not empty.
        seconds: From starting the kernel to the end of the last cell; None for a notebook that was only read.
        sections: The cells below each heading, with their times.
        errors: Exceptions that cells ended with.
        marks: Lines that a cell prints when it swallows an exception.
        not_executed: Code cells without an execution count.
        saved: Path of the executed copy; empty when none was asked for.
    """

    cells: int
    seconds: float | None
    sections: list[Section]
    errors: list[Trouble]
    marks: list[Trouble]
    not_executed: int
    saved: str = ""

    def headline(self) -> str:
        """Such as `11 cells in 12.3 s, 0 errors, 2 marks`."""
        spent = "" if self.seconds is None else f" in {self.seconds:.1f} s"
        return f"{self.cells} cells{spent}, {len(self.errors)} errors, {len(self.marks)} marks"


@action("notebook.execute", effect=Effect.CHANGES)
def execute(
    deadline: Deadline,
    path: str,
    save: str = "",
    folder: str = "",
    kernel: str = "",
    marks: list[str] = MARKS,
    allow_troubles: bool = False,
) -> Executed:
    """Run a notebook from its first cell to its last in a new kernel.

    Fails when a cell ends with an exception, and also when one prints a mark of an exception that it swallowed.

    Args:
        path: The notebook; it is not changed.
        save: Where to write the executed copy, also of a run that fails; relative to the working directory.
        folder: The kernel's working directory; without it the notebook's folder.
        kernel: Name of the Jupyter kernel; without it the notebook's own.
        marks: Regular expressions that mean trouble in a line of output.
        allow_troubles: Whether errors and marks are only counted, not a failure of the step.
    """
    place, notebook = notebooks.load(path)
    started = time.monotonic()
    try:
        notebooks.execute(notebook, deadline, place.parent if not folder else place.parent.joinpath(folder), kernel)
    finally:
        saved = str(notebooks.save(notebook, save)) if save else ""
    return _judged(str(place), notebooks.read(notebook, marks), time.monotonic() - started, saved, allow_troubles)


@action("notebook.inspect")
def inspect(path: str, marks: list[str] = MARKS, allow_troubles: bool = False) -> Executed:
    """What an already executed notebook shows; nothing is run.

    Fails when a code cell was not executed, ended with an exception, or printed a mark of one that it swallowed.

    Args:
        path: The notebook.
        marks: Regular expressions that mean trouble in a line of output.
        allow_troubles: Whether all that is only counted, not a failure of the step.
    """
    place, notebook = notebooks.load(path)
    reading = notebooks.read(notebook, marks)
    if reading.silent and not allow_troubles:
        raise Refused(f"{place}: {len(reading.silent)} of {reading.cells} code cells were not executed")
    return _judged(str(place), reading, None, "", allow_troubles)


def _judged(
    place: str, reading: notebooks.Reading, seconds: float | None, saved: str, allow_troubles: bool
) -> Executed:
    troubles = list(notebooks.worst(reading))
    if troubles and not allow_troubles:
        more = f" (and {len(troubles) - SHOWN} more)" if len(troubles) > SHOWN else ""
        raise Refused(
            f"{place}: {len(reading.errors)} errors, {len(reading.marks)} marks: {'; '.join(troubles[:SHOWN])}{more}",
            hint=f"see the executed copy {saved}" if saved else "set save: FILE to keep the executed copy",
        )
    return Executed(
        cells=reading.cells,
        seconds=seconds,
        sections=reading.sections,
        errors=reading.errors,
        marks=reading.marks,
        not_executed=len(reading.silent),
        saved=saved,
        source=place,
    )

"""Jupyter notebooks: run one, or look at one that ran, and do not believe a cell that swallows its exception."""

from __future__ import annotations

import os
import re
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from msgspec import Struct, structs

from k2run.actions.action import Effect, Result, action, beginning
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._clients import punctually, require
from k2run.errors import Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nbclient import NotebookClient
    from nbformat import NotebookNode

MARKS = ["✗", "✘", "❌", "⚠", r"\bNo data\b", r"\b0 rows\b"]
"""What a cell prints when it swallows an exception."""
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_HEADING = re.compile(r"^#{1,3}\s+(.+)$", re.MULTILINE)
_SHOWN = 200


class Jupyter(Connection, frozen=True, kw_only=True, key="jupyter"):
    """The notebook of a stack; runbooks find it as `stack.connections.jupyter.notebook`.

    Attributes:
        notebook: Path of its file.
        env: What it finds in its environment, such as the stack's own ports and addresses; runbooks hand it on as
            `stack.connections.jupyter.env`.
    """

    notebook: str
    env: dict[str, str | int] = {}


class Trouble(Struct, frozen=True, kw_only=True):
    """A line of a cell's output that means trouble; `cell` counts all cells from 1."""

    cell: int
    section: str
    says: str


class Section(Struct, frozen=True, kw_only=True):
    """The cells below one heading; `seconds` is None where the notebook keeps no times."""

    title: str
    cells: int
    seconds: float | None
    troubles: int


class Reading(Struct, frozen=True, kw_only=True):
    """What the code cells of a notebook say.

    Attributes:
        silent: Numbers of the code cells that were not executed.
        printed: The lines of all outputs.
    """

    cells: int
    errors: list[Trouble]
    marks: list[Trouble]
    sections: list[Section]
    silent: list[int]
    printed: list[str]


def load_notebook(path: str) -> tuple[Path, NotebookNode]:
    """The notebook at a path.

    Raises:
        Unknown: There is nothing.
        Refused: It is no notebook.
    """
    require("notebook", "nbclient", "ipykernel")
    import nbformat

    place = Path(path).expanduser().absolute()
    try:
        return place, nbformat.reads(place.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise Unknown(f"there is no notebook {place}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{place} cannot be read: {error}") from error
    except Exception as error:  # nbformat raises what its validators do
        raise Refused(f"{place} is not a notebook: {beginning(str(error).splitlines()[0], _SHOWN)}") from error


def save_notebook(notebook: NotebookNode, path: str) -> Path:
    """Write a notebook, its folder too.

    Raises:
        Refused: It cannot be written there.
    """
    import nbformat

    place = Path(path).expanduser().absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(nbformat.writes(notebook), encoding="utf-8")  # type: ignore[no-untyped-call]
    except OSError as error:
        raise Refused(f"{place} cannot be written: {error.strerror}") from error
    return place


def run_cells(
    notebook: NotebookNode, deadline: Deadline, folder: Path, kernel: str, env: Mapping[str, str | int]
) -> None:
    """Run every cell in a new kernel, errors or not; the notebook then has the outputs.

    Args:
        notebook: Gets the outputs.
        deadline: When the kernel is killed.
        folder: The kernel's working directory.
        kernel: Its name; empty for the notebook's own.
        env: Environment variables for it, beside those of this process.

    Raises:
        Refused: There is no such kernel, or it died.
        TimedOut: The deadline passed first; the kernel is gone by then.
    """
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    settings: dict[str, Any] = {"kernel_name": kernel} if kernel else {}
    client = NotebookClient(
        notebook,
        allow_errors=True,
        timeout=None,
        shutdown_kernel="immediate",
        resources={"metadata": {"path": str(folder)}},
        **settings,
    )
    with tempfile.TemporaryFile() as said:  # by the kernel and by libraries of C: our terminal is not theirs
        try:
            environment = {**os.environ, **{name: str(value) for name, value in env.items()}}
            done = client.async_execute(stdout=said.fileno(), stderr=said.fileno(), env=environment)
            punctually(done, deadline)
        except NoSuchKernel as error:
            hint = "name one with `kernel: python3`"
            raise Refused(f"there is no Jupyter kernel {error.name!r}", hint=hint) from error
        except DeadKernelError as error:
            last = _last_line(said)
            raise Refused(
                f"the notebook's kernel died{last and ': '}{last}",
                hint="out of memory? see the last cell that has an output",
            ) from error
        finally:
            _kill(client)


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip()[-_SHOWN:] for line in reversed(lines) if line.strip()), "")


def _kill(client: NotebookClient) -> None:
    """No kernel outlives the step, not even one that does not listen."""
    provisioner = getattr(client.km, "provisioner", None)
    process = getattr(provisioner, "process", None)
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()


def read_outputs(notebook: NotebookNode, marks: Iterable[str]) -> Reading:
    """What its cells say, and which lines mean trouble.

    Marks are regular expressions.

    Raises:
        Refused: One of them is none.
    """
    try:
        pattern = re.compile("|".join(f"(?:{mark})" for mark in marks)) if marks else None
    except re.error as error:
        raise Refused(f"marks: not a regular expression: {error}") from error
    errors: list[Trouble] = []
    marked: list[Trouble] = []
    times: dict[str, list[float | None]] = {}
    silent = []
    printed: list[str] = []
    title = ""
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "markdown" and (heading := _HEADING.search(cell.source)):
            title = heading[1].strip()
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        times.setdefault(title, []).append(_seconds(cell))
        if cell.execution_count is None:
            silent.append(number)
        for output in cell.outputs:
            if output.output_type == "error":
                says = beginning(f"{output.ename}: {output.evalue}", _SHOWN)
                errors.append(Trouble(cell=number, section=title, says=says))
                continue
            lines = _text(output).splitlines()
            printed += lines
            marked += [
                Trouble(cell=number, section=title, says=beginning(line.strip(), _SHOWN))
                for line in lines
                if pattern is not None and pattern.search(line)
            ]
    troubled = [trouble.section for trouble in (*errors, *marked)]
    sections = [_section(title, spent, troubled.count(title)) for title, spent in times.items()]
    cells = sum(map(len, times.values()))
    return Reading(cells=cells, errors=errors, marks=marked, sections=sections, silent=silent, printed=printed)


def find_values(printed: Iterable[str], wanted: Mapping[str, str]) -> dict[str, float | None]:
    """The numbers that a notebook prints, by name; None for one that it does not print.

    Args:
        printed: Lines.
        wanted: For each name a regular expression whose first group is the number; commas in it are left out.

    Raises:
        Refused: One of them is no regular expression, has no group, or finds what is no number.
    """
    lines = list(printed)
    found: dict[str, float | None] = {}
    for name, text in wanted.items():
        try:
            matches = (re.search(text, line) for line in lines)
            first = next((match[1] for match in matches if match), None)
            found[name] = None if first is None else float(first.replace(",", ""))
        except (re.error, IndexError) as error:
            raise Refused(f"values.{name}: not a regular expression with a group: {error}") from error
        except ValueError:
            raise Refused(f"values.{name}: {first!r} is no number") from None
    return found


def _section(title: str, spent: list[float | None], troubles: int) -> Section:
    known = [seconds for seconds in spent if seconds is not None]
    return Section(title=title, cells=len(spent), seconds=round(sum(known), 3) if known else None, troubles=troubles)


def _seconds(cell: NotebookNode) -> float | None:
    """How long a cell took, as its metadata has it."""
    times = cell.metadata.get("execution", {})
    begun, done = times.get("iopub.execute_input"), times.get("shell.execute_reply")
    return (_moment(done) - _moment(begun)).total_seconds() if begun and done else None


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _text(output: NotebookNode) -> str:
    """What an output shows as text, without colours."""
    said = output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")
    return _ANSI.sub("", said)


def worst(reading: Reading) -> Iterator[str]:
    """The troubles in words, errors first."""
    for trouble in (*reading.errors, *reading.marks):
        yield f"cell {trouble.cell}{f' ({trouble.section})' if trouble.section else ''}: {trouble.says}"


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
        values: The numbers that were asked for; None for one that no cell prints.
    """

    cells: int
    seconds: float | None
    sections: list[Section]
    errors: list[Trouble]
    marks: list[Trouble]
    not_executed: int
    saved: str = ""
    values: dict[str, float | None] = {}

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
    values: dict[str, str] = {},
    env: dict[str, str | int] = {},
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
        values: Numbers to take from what it prints: a name, and a regular expression whose first group is the number,
            such as `cost: '([0-9.,]+) USD'`.
        env: Environment variables for the kernel, beside those that k2run was started with.
    """
    place, notebook = load_notebook(path)
    started = time.monotonic()
    try:
        run_cells(notebook, deadline, place.parent if not folder else place.parent.joinpath(folder), kernel, env)
    finally:
        saved = str(save_notebook(notebook, save)) if save else ""
    spent = time.monotonic() - started
    reading = read_outputs(notebook, marks)
    executed = _judged(str(place), reading, spent, saved, allow_troubles)
    return structs.replace(executed, values=find_values(reading.printed, values))


@action("notebook.inspect")
def inspect(path: str, marks: list[str] = MARKS, allow_troubles: bool = False) -> Executed:
    """What an already executed notebook shows; nothing is run.

    Fails when a code cell was not executed, ended with an exception, or printed a mark of one that it swallowed.

    Args:
        path: The notebook.
        marks: Regular expressions that mean trouble in a line of output.
        allow_troubles: Whether all that is only counted, not a failure of the step.
    """
    place, notebook = load_notebook(path)
    reading = read_outputs(notebook, marks)
    if reading.silent and not allow_troubles:
        raise Refused(f"{place}: {len(reading.silent)} of {reading.cells} code cells were not executed")
    return _judged(str(place), reading, None, "", allow_troubles)


def _judged(place: str, reading: Reading, seconds: float | None, saved: str, allow_troubles: bool) -> Executed:
    troubles = list(worst(reading))
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

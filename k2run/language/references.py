"""The other files that a runbook names: runbooks, recoveries, stacks. They must exist, without a cycle."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.errors import K2runError, RunbookInvalid
from k2run.language.expressions import Template, is_fixed
from k2run.language.inputs import input_value
from k2run.language.problems import did_you_mean, of_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from k2run.language.document import Trail
    from k2run.language.model import Input, Runbook, Step
    from k2run.language.reading import Reading
    from k2run.language.vocabulary import Vocabulary


MAX_NESTED = 16
"""Runbooks inside of runbooks; each is checked with all that it runs."""
MAX_FILES = 200
"""Runbooks that are followed in search of a circle."""


class References:
    """Collects the files that a runbook names and checks them.

    Args:
        reading: Where problems go.
        home: The folder of the runbook; None when the text comes from no file, and nothing is checked.
        load: Loads a runbook.

    Attributes:
        runs: The runbooks that steps run, checked, by the references they use.
    """

    def __init__(self, reading: Reading, home: Path | None, load: Callable[[Path, Vocabulary], Runbook]) -> None:
        self._load = load
        self._reading = reading
        self._home = home
        self.runs: dict[str, Runbook] = {}

    def recovery(self, reference: str, path: Trail) -> None:
        """A recovery runbook that a failed step offers."""
        if reference and self._home is not None and looks_like_a_file(reference):
            self._existing(reference, path)

    def runbook(self, reference: Any, path: Trail) -> Runbook | None:
        """A runbook that a step runs, checked; None when it is not there, or wrong."""
        if isinstance(reference, Template):
            hint = "what is run is checked before anything is done, so it must be known then"
            self._reading.problem("K204", "`runbook` is the plain path of a file", path, hint=hint)
            return None
        if not isinstance(reference, str) or self._home is None:
            return None
        if reference in self.runs:
            return self.runs[reference]
        file = self._existing(reference, path)
        if file is None or self._goes_round(file, path) or self._goes_deep(file, reference, path):
            return None
        return self._read(file, reference, path)

    def stack(self, reference: str, path: Trail) -> None:
        """Another stack on which a step is done."""
        if self._home is None:
            return
        if "/" in reference or reference.endswith(ENDINGS):
            if not Path(reference).is_file():
                hint = "the path is taken from the working directory"
                self._reading.problem("K501", f"there is no stack file {reference}", path, hint=hint)
            return
        known = stack_files(self._home)
        if reference not in known:
            hint = did_you_mean(reference, known) or f"there are {', '.join(known)}"
            self._reading.problem("K501", f"there is no stack {reference!r}", path, hint=hint)

    def _goes_round(self, file: Path, path: Trail) -> bool:
        """Whether a runbook that is run leads back to this one, which is a problem."""
        assert self._home is not None  # noqa: S101 - the caller has looked
        own = self._home / Path(self._reading.document.file).name
        circle = _circle(file.resolve(), own.resolve())
        if circle:
            names = " -> ".join(step.name for step in (own, *circle))
            self._reading.problem("K502", f"this runbook runs itself: {names}", path, hint="break the circle")
        return bool(circle)

    def _goes_deep(self, file: Path, reference: str, path: Trail) -> bool:
        """Whether runbooks are nested too deeply in one that is run, which is a problem."""
        deep = _is_deep(file.resolve())
        if deep:
            message = f"the runbooks that {reference} runs are nested more than {MAX_NESTED} deep"
            self._reading.problem("K502", message, path, hint="run some of them from here instead")
        return deep

    def _read(self, file: Path, reference: str, path: Trail) -> Runbook | None:
        """Check a runbook that is run, whole; its own problems are told where it is validated itself."""
        try:
            self.runs[reference] = self._load(file, self._reading.vocabulary)
        except RunbookInvalid as error:
            message = f"{reference} has {error.message.removesuffix(' found')}"
            self._reading.problem("K503", message, path, hint=f"`k2run validate {file}` shows them")
            return None
        return self.runs[reference]

    def _existing(self, reference: str, path: Trail) -> Path | None:
        assert self._home is not None  # noqa: S101 - the callers have looked
        for candidate in (self._home / reference, Path(reference)):
            if candidate.is_file():
                return candidate
        folder = (self._home / reference).parent
        near = (
            did_you_mean(Path(reference).name, [file.name for file in folder.glob("*.y*ml")]) if folder.is_dir() else ""
        )
        hint = near or f"the path is taken from {self._home}"
        self._reading.problem("K501", f"there is no file {reference}", path, hint=hint)
        return None


def looks_like_a_file(text: str) -> bool:
    """Whether a text is the path of a runbook rather than a sentence or a template."""
    return text.endswith(ENDINGS) and "{{" not in text and "\n" not in text and " " not in text.strip()


def _circle(start: Path, goal: Path) -> list[Path]:
    """The way from one runbook to another through the runbooks they run, or []."""
    waiting: list[list[Path]] = [[start]]
    seen: set[Path] = set()
    while waiting and len(seen) < MAX_FILES:
        way = waiting.pop()
        if way[-1] == goal:
            return way
        if way[-1] not in seen:
            seen.add(way[-1])
            waiting += [[*way, file.resolve()] for file in _runs(way[-1])]
    return []


def _is_deep(file: Path) -> bool:
    """Whether the runbooks that a runbook runs are nested too deeply."""
    level = {file}
    for _ in range(MAX_NESTED):
        level = {inner.resolve() for each in level for inner in _runs(each)}
    return bool(level)


def _runs(file: Path) -> tuple[Path, ...]:
    """The runbooks that a runbook runs; a file that cannot be read has its own problems and runs none."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return _runs_of(file, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4 * MAX_FILES)
def _runs_of(file: Path, _changed: int, _size: int) -> tuple[Path, ...]:
    """The same, looked up once for each state of the file: every runbook above it asks."""
    return tuple(_look_for_runs(file))


def _look_for_runs(file: Path) -> Iterator[Path]:
    from k2run.language.document import read_file

    try:
        waiting: list[Any] = [read_file(file).data]
    except K2runError:
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            run = value.get("run")
            if isinstance(run, dict) and isinstance(run.get("runbook"), str) and looks_like_a_file(run["runbook"]):
                yield file.parent / run["runbook"]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def check_inputs(reading: Reading, runbook: Runbook, given: Mapping[str, Any], path: Trail) -> None:
    """Note inputs that the runbook does not have, and required ones that are missing."""
    known = {entry.name: entry for entry in runbook.inputs}
    for name, value in given.items():
        if name in known:
            _check_value(reading, known[name], value, (*path, "inputs", name))
        else:
            hint = did_you_mean(str(name), known)
            expected = "" if hint else f"one of {', '.join(known)}" if known else "no inputs"
            message = f"{runbook.name} has no input `{name}`"
            reading.problem("K302", message, (*path, "inputs", name), key=True, hint=hint, expected=expected)
    for entry in runbook.inputs:
        if entry.required and entry.name not in given:
            reading.problem("K303", f"{runbook.name} needs the input `{entry.name}`", path, key=True, hint=entry.help)


def _check_value(reading: Reading, entry: Input, value: Any, path: Trail) -> None:
    """Note a value that does not fit its input; a computed one is checked when it is known."""
    if value is None or not is_fixed(value):
        return
    try:
        input_value(entry, value)
    except ValueError as error:
        reading.problem("K304", f"the input `{entry.name}` is {error}", path, found=of_value(value), hint=entry.help)


def result_of(runbook: Runbook) -> Any:
    """The type of what a runbook hands back: `result.figures.NAME` and `result.outputs.NAME` are known."""
    figures = {"rto", *(name for step in _steps(runbook) for name in step.figures)}
    fields = [
        ("outcome", str),
        ("verdict", str),
        ("seconds", float),
        ("score", float | None),
        ("figures", msgspec.defstruct("Figures", [(name, Any) for name in sorted(figures)])),
        ("outputs", msgspec.defstruct("Outputs", [(name, Any) for name in runbook.outputs])),
        ("source", str),
        ("message", str),
    ]
    return msgspec.defstruct("RunbookResult", fields)


def _steps(runbook: Runbook) -> Iterator[Step]:
    waiting = [*runbook.steady_state, *runbook.always, *(step for part in runbook.sections for step in part.steps)]
    while waiting:
        step = waiting.pop()
        yield step
        waiting += [*step.block, *step.rescue, *step.always]


ENDINGS = (".yaml", ".yml")


def stack_files(near: Path | None) -> dict[str, Path]:
    """Every stack that can be given by name, nearest first."""
    found: dict[str, Path] = {}
    for folder in folders(near):
        for path in sorted(folder.iterdir()):
            if path.suffix in ENDINGS:
                found.setdefault(path.stem, path)
    return found


def own_stack_files() -> dict[str, Path]:
    """The stacks that can be given by name in the working directory and that do not ship with k2run."""
    shipped = {folder.resolve() for folder in _shipped()}
    return {name: path for name, path in stack_files(None).items() if path.parent.resolve() not in shipped}


def folders(near: Path | None) -> Iterator[Path]:
    """The folders where stacks are looked for that exist.

    Beside the runbook and above it, then beside the working directory and above it, for whatever command; last what
    ships with k2run.
    """
    shipped = [folder for folder in _shipped() if folder.is_dir()]
    last = {folder.resolve() for folder in shipped}
    found: dict[Path, Path] = {}
    for start in (near or Path.cwd(), Path.cwd()):
        for folder in _around(start.absolute()):
            if folder.is_dir() and folder.resolve() not in last:
                found.setdefault(folder.resolve(), folder)
    yield from (*found.values(), *shipped)


def _around(start: Path) -> Iterator[Path]:
    """Where stacks may lie beside a runbook or folder, and above it."""
    start = start if start.is_dir() else start.parent
    yield start / "stacks"
    yield from (folder / "runbooks" / "stacks" for folder in (start, *start.parents))
    yield from (folder / "stacks" for folder in start.parents if folder.name == "runbooks")


def _shipped() -> tuple[Path, Path]:
    package = Path(__file__).parent.parent
    return package / "_runbooks" / "stacks", package.parent / "runbooks" / "stacks"

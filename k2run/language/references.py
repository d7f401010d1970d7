"""The other files that a runbook names: runbooks it runs, recoveries it offers. They must exist, and not lead back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.errors import K2runError, RunbookInvalid
from k2run.language.expressions import Template
from k2run.language.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.language.document import Trail
    from k2run.language.model import Runbook
    from k2run.language.reading import Reading

ENDINGS = (".yaml", ".yml")
MAX_FILES = 200
"""Runbooks that are followed in search of a circle."""


class References:
    """Collects the files that a runbook names and checks them.

    Args:
        reading: Where problems go.
        home: The folder of the runbook; None when the text comes from no file, and nothing is checked.

    Attributes:
        runs: The runbooks that steps run, checked, by the references they use.
    """

    def __init__(self, reading: Reading, home: Path | None) -> None:
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
        if file is None:
            return None
        own = self._home / Path(self._reading.document.file).name
        circle = _circle(file.resolve(), own.resolve())
        if circle:
            names = " -> ".join(step.name for step in (own, *circle))
            self._reading.problem("K502", f"this runbook runs itself: {names}", path, hint="break the circle")
            return None
        return self._read(file, reference, path)

    def _read(self, file: Path, reference: str, path: Trail) -> Runbook | None:
        """Check a runbook that is run, whole; its own problems are told where it is validated itself."""
        from k2run.language.loader import load_runbook

        try:
            self.runs[reference] = load_runbook(file, self._reading.vocabulary)
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


def _runs(file: Path) -> Iterator[Path]:
    """The runbooks that a runbook runs; a file that cannot be read has its own problems and runs none."""
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

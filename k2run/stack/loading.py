"""Finds a stack file by path or name, and reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2run.errors import RunbookInvalid, StackInvalid, UsageError
from k2run.language.document import read_file
from k2run.language.problems import did_you_mean
from k2run.stack.form import problems_of
from k2run.stack.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Stack", "find_stack", "load_stack", "stack_files"]

SUFFIXES = (".yaml", ".yml")


def load_stack(reference: str, *, near: Path | None, home: Path, overrides: Mapping[str, str]) -> Stack:
    """Read a stack file and check its form; nothing in it is filled in yet.

    Args:
        reference: The path of a stack file, or its name.
        near: The runbook (or its folder) from which a name is looked for; the working directory when None.
        home: The `.k2run` folder.
        overrides: Values of the stack's `vars` that win over its file.

    Raises:
        StackInvalid: There is no such stack, or it cannot be read.
        RunbookInvalid: The file has problems, each with its place.
        UsageError: An override names no variable of the stack.
    """
    path = find_stack(reference, near)
    try:
        document = read_file(path)
    except UsageError as error:
        raise StackInvalid(error.message, hint=error.hint) from error
    problems = problems_of(document)
    if problems:
        raise RunbookInvalid(problems)
    declared = document.data.get("vars") or {}
    for name in overrides:
        if name not in declared:
            raise UsageError(
                f"the stack {path.stem!r} has no variable {name!r}",
                hint=did_you_mean(name, declared) or f"it has {', '.join(declared) or 'none'}",
            )
    return Stack(document, path, home, overrides)


def find_stack(reference: str, near: Path | None) -> Path:
    """The file of a stack.

    Raises:
        StackInvalid: There is none; the message names the nearest one.
    """
    if "/" in reference or reference.endswith(SUFFIXES):
        path = Path(reference)
        if path.is_file():
            return path
        raise StackInvalid(f"there is no stack file {reference}", hint=_nearest(path.stem, stack_files(near)))
    known = stack_files(near)
    if reference not in known:
        looked = ", ".join(map(str, dict.fromkeys(folders(near)))) or "nowhere"
        raise StackInvalid(f"there is no stack {reference!r}", hint=_nearest(reference, known) or f"looked in {looked}")
    return known[reference]


def stack_files(near: Path | None) -> dict[str, Path]:
    """Every stack that can be given by name, nearest first."""
    found: dict[str, Path] = {}
    for folder in folders(near):
        for path in sorted(folder.iterdir()):
            if path.suffix in SUFFIXES:
                found.setdefault(path.stem, path)
    return found


def folders(near: Path | None) -> Iterator[Path]:
    """The folders where stacks are looked for that exist: beside the runbook, above it, then what ships with k2run."""
    start = (near or Path.cwd()).absolute()
    start = start if start.is_dir() else start.parent
    package = Path(__file__).parent.parent
    candidates = [start / "stacks"]
    candidates += [folder / "runbooks" / "stacks" for folder in (start, *start.parents)]
    candidates += [folder / "stacks" for folder in start.parents if folder.name == "runbooks"]
    candidates += [package / "_runbooks" / "stacks", package.parent / "runbooks" / "stacks"]
    yield from (folder for folder in candidates if folder.is_dir())


def _nearest(name: str, known: Mapping[str, Path]) -> str:
    return did_you_mean(name, known) or (f"there are {', '.join(known)}" if known else "")

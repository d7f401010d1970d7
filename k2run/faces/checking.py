"""Checks files without running them, and shows what is wrong in them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from k2run.actions.catalogue import Catalogue
from k2run.errors import RunbookInvalid, UsageError
from k2run.language.loader import load_runbook
from k2run.stack.loading import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.language.problems import Problem

Form = Literal["text", "json", "sarif"]


def check_files(paths: list[str], *, form: Form) -> list[Problem]:
    """Check runbooks and stack files, and show every problem.

    Args:
        paths: Files, or folders that hold them.
        form: How to show the problems.
    """
    catalogue = Catalogue()
    problems: list[Problem] = []
    files = [file for path in paths for file in files_below(Path(path))]
    for file in files:
        try:
            _check(file, catalogue)
        except RunbookInvalid as invalid:
            problems += invalid.problems
    show_problems(problems, len(files), form=form, noun="problem")
    return problems


def show_problems(problems: Sequence[Problem], files: int, *, form: Form, noun: str) -> None:
    """Print problems: as frames of code and a count, as a JSON list, or as SARIF.

    Args:
        problems: What was found.
        files: How many files were looked at.
        form: How to show them.
        noun: What one of them is called.
    """
    if form != "text":
        print(_encoded(problems, form))
        return
    if problems:
        from k2run.language.problems import render

        print(render(problems), file=sys.stderr)
        print(file=sys.stderr)
    count = len(problems)
    print(f"{files} file{'s' * (files != 1)} checked, {count or 'no'} {noun}{'s' * (count != 1)}")


def files_below(path: Path) -> Iterator[Path]:
    """A file itself, or every YAML file below a folder.

    Raises:
        UsageError: There is no such file or folder.
    """
    if path.is_dir():
        yield from sorted(file for ending in ("*.yaml", "*.yml") for file in path.rglob(ending))
    elif path.exists():
        yield path
    else:
        raise UsageError(f"there is no file {path}", hint="give a runbook, a stack file or a folder")


def is_stack(file: Path) -> bool:
    """Whether a file is a stack file: those live in a folder `stacks`."""
    return file.parent.name == "stacks"


def _check(file: Path, catalogue: Catalogue) -> None:
    if is_stack(file):
        problems = load_stack(str(file), near=file.parent, home=Path(".k2run"), overrides={}).check()
        if problems:
            raise RunbookInvalid(problems)
    else:
        load_runbook(file, catalogue)


def _encoded(problems: Sequence[Problem], form: Form) -> str:
    import msgspec

    if form == "json":
        return msgspec.json.encode(problems).decode()
    from k2run.faces.authoring.sarif import sarif

    return msgspec.json.format(msgspec.json.encode(sarif(problems))).decode()

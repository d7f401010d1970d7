"""Checks files without running them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.actions.catalogue import Catalogue
from k2run.errors import RunbookInvalid, UsageError
from k2run.language.loader import load_runbook
from k2run.stack.loading import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.language.problems import Problem


def check_files(paths: list[str], *, json: bool) -> list[Problem]:
    """Check runbooks and stack files, and show every problem.

    Args:
        paths: Files, or folders that hold them.
        json: Show the problems as a JSON list.
    """
    catalogue = Catalogue()
    problems: list[Problem] = []
    files = [file for path in paths for file in _files(Path(path))]
    for file in files:
        try:
            _check(file, catalogue)
        except RunbookInvalid as invalid:
            problems += invalid.problems
    if json:
        import msgspec

        print(msgspec.json.encode(problems).decode())
        return problems
    if problems:
        from k2run.language.problems import render

        print(render(problems), file=sys.stderr)
        print(file=sys.stderr)
    count = len(problems)
    print(f"{len(files)} file{'s' * (len(files) != 1)} checked, {count or 'no'} problem{'s' * (count != 1)}")
    return problems


def _check(file: Path, catalogue: Catalogue) -> None:
    if file.parent.name == "stacks":
        problems = load_stack(str(file), near=file.parent, home=Path(".k2run"), overrides={}).check()
        if problems:
            raise RunbookInvalid(problems)
    else:
        load_runbook(file, catalogue)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for ending in ("*.yaml", "*.yml") for file in path.rglob(ending))
    elif path.exists():
        yield path
    else:
        raise UsageError(f"there is no file {path}", hint="give a runbook, a stack file or a folder")

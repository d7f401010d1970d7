"""Looks at valid runbooks for danger and bad style.

A comment `# lint: allow L101` on a finding's line, or on the line above it, lets it be.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.actions.catalogue import Catalogue
from k2run.errors import RunbookInvalid
from k2run.faces.authoring.dangers import DANGERS
from k2run.faces.authoring.subject import Subject, open_subject
from k2run.faces.authoring.tidiness import TIDINESS
from k2run.faces.checking import files_below, is_stack, show_problems
from k2run.language.problems import ordered

if TYPE_CHECKING:
    from k2run.faces.checking import Form
    from k2run.language.problems import Problem

_ALLOWED = re.compile(r"#\s*lint:\s*allow\s+((?:L\d{3}[,\s]*)+)")


def lint_files(paths: list[str], *, form: Form) -> list[Problem]:
    """Lint runbooks and show every finding; of a runbook that is not valid, its problems.

    Args:
        paths: Files, or folders that hold them; stack files are passed over.
        form: How to show the findings.
    """
    catalogue = Catalogue()
    files = [file for path in paths for file in files_below(Path(path)) if not is_stack(file)]
    found = [finding for file in files for finding in _of_file(file, catalogue)]
    show_problems(found, len(files), form=form, noun="finding")
    return found


def _of_file(file: Path, catalogue: Catalogue) -> list[Problem]:
    try:
        return findings(open_subject(file, catalogue))
    except RunbookInvalid as invalid:
        return list(invalid.problems)


def findings(subject: Subject) -> list[Problem]:
    """What every rule finds in a runbook, in the order of the file, without what its comments allow."""
    lines = subject.document.text.splitlines()
    found = ordered(finding for rule in (*DANGERS, *TIDINESS) for finding in rule(subject))
    return [finding for finding in found if finding.code not in _allowed(lines, finding.place.line)]


def _allowed(lines: list[str], line: int) -> set[str]:
    """The codes that comments allow on a line (counted from 1)."""
    near = lines[max(0, line - 2) : line]
    return {code for text in near for match in _ALLOWED.finditer(text) for code in re.findall(r"L\d{3}", match[1])}

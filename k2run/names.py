"""What may be the name of a runbook, a run, a stack, a service or a baseline: whatever can be a file everywhere."""

from __future__ import annotations

import re

from k2run.errors import UsageError

LONGEST, LONGEST_RUN = 128, 192
"""Bytes; a run's id adds its time to the name of its runbook, and most file systems end at 255."""
_NAME = re.compile(r"[^\W_][\w .,+@=~-]*(?<![ .])")


def objection(name: str, longest: int = LONGEST) -> str:
    """Why a text can be no name; empty when it can."""
    if not name:
        return "it is empty"
    if not _NAME.fullmatch(name):
        return "it begins with a letter or a digit, holds letters, digits, spaces and `-_.,+@=~`, and ends in no dot"
    if len(name.encode("utf-8", "replace")) > longest:
        return f"it is longer than {longest} bytes"
    return ""


RUN = "a run"


def checked(name: str, what: str) -> str:
    """A name, right before it becomes a part of a path.

    Args:
        name: The name.
        what: What it names: `a runbook`, `a run`, …

    Raises:
        UsageError: It cannot be one.
    """
    wrong = objection(name, LONGEST_RUN if what == RUN else LONGEST)
    if wrong:
        raise UsageError(f"{name!r} cannot be the name of {what}: {wrong}", hint="give it another name")
    return name

"""Explains the codes of problems and of lint findings: why, a wrong and a right example."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from textwrap import fill, indent
from typing import TYPE_CHECKING

from k2run.errors import UsageError
from k2run.language.problems import explanations, read_explanations

if TYPE_CHECKING:
    from k2run.language.problems import Explanation

LINT_CODES = Path(__file__).with_name("codes.md")
_WIDTH = 100


@cache
def every_explanation() -> dict[str, Explanation]:
    """Every code with its explanation: problems first, then findings of lint."""
    return {**explanations(), **read_explanations(LINT_CODES)}


def show_explanation(code: str) -> None:
    """Explain a code; list every code with its title when none is given.

    Raises:
        UsageError: There is no such code.
    """
    known = every_explanation()
    if not code:
        print("\n".join(f"{entry.code}  {entry.title}" for entry in known.values()))
        return
    entry = known.get(code.upper())
    if entry is None:
        from k2run.language.problems import did_you_mean

        raise UsageError(
            f"unknown code {code}", hint=did_you_mean(code.upper(), known) or "`k2run explain` lists them all"
        )
    print(told(entry))


def told(entry: Explanation) -> str:
    """An explanation as text for a terminal."""
    parts = [f"{entry.code}: {entry.title}"]
    if entry.why:
        parts.append(fill(entry.why, _WIDTH))
    parts += [
        f"{word}:\n\n{indent(example.rstrip(), '    ')}"
        for word, example in (("Wrong", entry.wrong), ("Right", entry.right))
        if example
    ]
    return "\n\n".join(parts)

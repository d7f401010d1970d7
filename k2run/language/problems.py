"""Problems in a runbook or stack file, each with its place, and how they are shown to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.language.place import Place  # noqa: TC001 - msgspec resolves the types of fields at run time

if TYPE_CHECKING:
    from collections.abc import Iterable

_WIDTH = 120
"""Columns of a source line that are shown; a longer line is cut around its caret."""


class Problem(Struct, frozen=True, kw_only=True):
    """One thing that is wrong in a file, and how to put it right.

    Attributes:
        code: Stable code, such as K301; K1 is YAML, K2 structure, K3 actions, K4 expressions and names, K5 references.
        message: What is wrong, in one sentence without a full stop.
        place: Where the wrong token begins.
        length: How many characters the wrong token has.
        expected: What could stand there instead.
        found: What stands there.
        hint: How to put it right.
        line: The source line itself.
    """

    code: str
    message: str
    place: Place
    length: int = 1
    expected: str = ""
    found: str = ""
    hint: str = ""
    line: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.code} {self.message}"


def render(problems: Iterable[Problem]) -> str:
    """Every problem as a compiler would show it, ordered by place: the line, a caret under the token, the way out."""
    return "\n\n".join(_frame(problem) for problem in ordered(problems))


def ordered(problems: Iterable[Problem]) -> list[Problem]:
    """The problems in the order of their places, each once."""
    return sorted(set(problems), key=lambda problem: (problem.place, problem.code, problem.message))


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that was probably meant, or ""."""
    from difflib import get_close_matches

    known = {str(candidate).lower(): str(candidate) for candidate in names}
    close = get_close_matches(name.lower()[:80], known, n=1, cutoff=0.6)
    return known[close[0]] if close else ""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The hint `did you mean …?`, or "" when no name is near."""
    near = nearest(name, names)
    return f"did you mean `{near}`?" if near else ""


def _frame(problem: Problem) -> str:
    number = str(problem.place.line)
    margin = " " * len(number)
    lines = [str(problem)]
    if problem.line:
        shown, caret = _underlined(problem)
        lines += [f"{margin} |", f"{number} | {shown}", f"{margin} | {caret}"]
    remarks = (("expected", problem.expected), ("found", problem.found), ("hint", problem.hint))
    lines += [f"{margin} = {word}: {_printable(text)}" for word, text in remarks if text]
    return "\n".join(lines)


def _underlined(problem: Problem) -> tuple[str, str]:
    """The part of the source line that fits, and the carets below it."""
    line = _printable(problem.line)
    start = min(problem.place.column - 1, len(line))
    length = max(1, min(problem.length, len(line) - start))
    cut = max(0, start - _WIDTH // 2) if len(line) > _WIDTH else 0
    before, token = line[cut:start], line[start : start + length]
    lead = "…" if cut else ""
    shown = lead + line[cut : cut + _WIDTH] + ("…" if len(line) > cut + _WIDTH else "")
    carets = "^" * max(1, min(_columns(token), _WIDTH - _columns(before)))
    return shown, " " * (_columns(before) + len(lead)) + carets


def _printable(text: str) -> str:
    """Tabs and control characters as one blank each, so that columns stay right and no terminal is upset."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text)


def _columns(text: str) -> int:
    """How wide a terminal shows the text."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)

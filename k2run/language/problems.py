"""Problems in a runbook or stack file: place, message, explanation of each code, and how they are shown."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable


class Place(Struct, frozen=True, order=True):
    """Where something stands in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


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
    """Every problem as a compiler would show it, ordered by place: the line, a caret under the token, the hint."""
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


CODES = Path(__file__).with_name("codes.md")
"""What each code means, with a wrong and a right example."""
_HEADING = re.compile(r"^## ([A-Z]\d{3}) (.+)$", re.MULTILINE)
_EXAMPLE = re.compile(r"^```yaml (wrong|right)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


class Explanation(Struct, frozen=True):
    """What a code means.

    Attributes:
        title: In a few words.
        why: Why it is a problem and what to do; may be empty where the examples say it all.
        wrong: A piece of a runbook that has the problem; may be empty.
        right: The same without it; may be empty.
    """

    code: str
    title: str
    why: str
    wrong: str
    right: str


@cache
def explanations() -> dict[str, Explanation]:
    """Every code of a problem with its explanation, in order."""
    return read_explanations(CODES)


def read_explanations(file: Path) -> dict[str, Explanation]:
    """The explanations in a Markdown file, by their codes: a heading, a text, a wrong and a right example."""
    _, *parts = _HEADING.split(file.read_text(encoding="utf-8"))
    return {
        code: _read(code, title, body) for code, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def _read(code: str, title: str, body: str) -> Explanation:
    examples = dict(_EXAMPLE.findall(body))
    why = " ".join(_EXAMPLE.sub("", body).split())
    return Explanation(code, title, why, examples.get("wrong", ""), examples.get("right", ""))

"""Problems in a runbook or stack file: place, message, explanation of each code, and the words for types and values."""

from __future__ import annotations

import re
import types
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Struct

from k2run.language.quantities import Duration, Notation, Rate, Size

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


_SIMPLE: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
    Duration: "a duration such as 30s, 1m30s or 500ms",
    Size: "a size such as 10MiB, 1.5GB or a number of bytes",
    Rate: "a rate such as 500/s or 20/min",
    Any: "anything",
}
_SHOWN = 40


def of_type(kind: Any) -> str:  # noqa: PLR0911 - one line for each form of type
    """What a value of this type looks like: "a whole number", "one of a, b, c", "a list of texts"."""
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return of_type(parts[0])
    if origin is Literal:
        return f"one of {', '.join(str(part) for part in parts)}"
    if origin in (Union, types.UnionType):
        return " or ".join(of_type(part) for part in parts if part is not type(None))
    if origin in (list, tuple, set, frozenset) and parts:
        return f"a list, each item {of_type(parts[0])}"
    if origin is dict and parts:
        return f"a mapping, each value {of_type(parts[1])}"
    if isinstance(kind, type) and issubclass(kind, Notation):
        return kind.says
    if isinstance(kind, type) and issubclass(kind, Struct):
        return f"a mapping with {', '.join(kind.__struct_encode_fields__)}"
    return f"one of {', '.join(str(member.value) for member in kind)}" if hasattr(kind, "__members__") else str(kind)


def of_value(value: Any) -> str:
    """What a value is: `the text "abc"`, "the number 5", "a list"."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        shown = value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…"
        return f'the text "{" ".join(shown.split())}"'
    if isinstance(value, int | float):
        return f"the number {value:.{_SHOWN}g}" if isinstance(value, float) else f"the number {str(value)[:_SHOWN]}"
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else str(type(value))


_TRUE_FALSE = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}


def true_or_false(value: Any) -> bool:
    """`true`, `yes`, `on`, `1` and their opposites, as text or value.

    Raises:
        ValueError: It is none of them.
    """
    word = str(value).strip().lower()
    if word not in _TRUE_FALSE:
        raise ValueError(f"expected true or false, found {value!r}")
    return _TRUE_FALSE[word]

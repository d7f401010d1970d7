"""The codes of problems: why each is one, with a wrong and a right example; the texts are those of codes.md."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from msgspec import Struct

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
    return read_explanations(Path(__file__).with_name("codes.md"))


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

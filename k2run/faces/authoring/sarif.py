"""Problems as SARIF 2.1.0, which editors and CI systems show at their lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import k2run
from k2run.faces.authoring.explain import every_explanation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.language.codes import Explanation
    from k2run.language.problems import Problem

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_DANGER = "L1"


def sarif(problems: Sequence[Problem]) -> dict[str, Any]:
    """One SARIF log with one run: the rules that were broken, and where.

    Args:
        problems: Problems and lint findings of any number of files.
    """
    codes = sorted({problem.code for problem in problems})
    known = every_explanation()
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "k2run",
                        "version": k2run.__version__,
                        "rules": [_rule(code, known.get(code)) for code in codes],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(problem, codes.index(problem.code)) for problem in problems],
            }
        ],
    }


def level(code: str) -> str:
    """How much a code weighs: what is invalid is an error, what is dangerous a warning, style a note."""
    if not code.startswith("L"):
        return "error"
    return "warning" if code.startswith(_DANGER) else "note"


def _rule(code: str, explanation: Explanation | None) -> dict[str, Any]:
    rule: dict[str, Any] = {"id": code, "defaultConfiguration": {"level": level(code)}}
    if explanation is None:
        return rule
    parts = [explanation.why, *(f"{word}:\n{text}" for word, text in _examples(explanation))]
    text = "\n\n".join(part for part in parts if part)
    return {**rule, "shortDescription": {"text": explanation.title}, "help": {"text": text or explanation.title}}


def _examples(explanation: Explanation) -> list[tuple[str, str]]:
    return [(word, text) for word, text in (("Wrong", explanation.wrong), ("Right", explanation.right)) if text]


def _result(problem: Problem, rule: int) -> dict[str, Any]:
    remarks = [problem.message, *(f"{word}: {text}" for word, text in _remarks(problem))]
    region = {
        "startLine": problem.place.line,
        "startColumn": problem.place.column,
        "endColumn": problem.place.column + problem.length,
    }
    location = {"artifactLocation": {"uri": _uri(problem.place.file)}, "region": region}
    return {
        "ruleId": problem.code,
        "ruleIndex": rule,
        "level": level(problem.code),
        "message": {"text": "; ".join(remarks)},
        "locations": [{"physicalLocation": location}],
    }


def _remarks(problem: Problem) -> list[tuple[str, str]]:
    said = (("expected", problem.expected), ("found", problem.found), ("hint", problem.hint))
    return [(word, text) for word, text in said if text]


def _uri(file: str) -> str:
    """Relative to the working directory where it is below it, as CI systems want it."""
    from urllib.parse import quote

    path = Path(file)
    if path.is_absolute():
        here = Path.cwd()
        return quote(str(path.relative_to(here))) if path.is_relative_to(here) else path.as_uri()
    return quote(path.as_posix())

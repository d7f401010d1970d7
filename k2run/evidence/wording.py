"""How times, points and outcomes are written, the same in every output."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from typing import TYPE_CHECKING

from k2run.engine.events import Bound, Outcome, StepFinished

if TYPE_CHECKING:
    from collections.abc import Iterable


_MINUTE = 60
_HOUR = 3600
_SECOND_MS = 1000
NOT_MEASURED = "not measured"


class Standing(StrEnum):
    """The status of a step in the words that people read; a failure says whether it counts."""

    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "FAILED"
    WARNING = "warning"  # it failed, and its severity is not critical
    IGNORED = "ignored"  # it failed, and the runbook continues
    UNKNOWN = "unknown"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "n/a"
    NOT_CONFIRMED = "unconfirmed"
    INTERRUPTED = "interrupted"


MARKS: dict[Standing, str] = {
    Standing.WAITING: "·",
    Standing.RUNNING: "▸",
    Standing.PASSED: "✓",
    Standing.FAILED: "✗",
    Standing.WARNING: "!",
    Standing.IGNORED: "~",
    Standing.UNKNOWN: "?",
    Standing.SKIPPED: "-",
    Standing.NOT_APPLICABLE: "∅",
    Standing.NOT_CONFIRMED: "☐",
    Standing.INTERRUPTED: "■",
}

_PLAIN_STANDING = {
    Outcome.PASSED: Standing.PASSED,
    Outcome.FAILED: Standing.FAILED,
    Outcome.UNKNOWN: Standing.UNKNOWN,
    Outcome.SKIPPED: Standing.SKIPPED,
    Outcome.NOT_APPLICABLE: Standing.NOT_APPLICABLE,
    Outcome.NOT_CONFIRMED: Standing.NOT_CONFIRMED,
    Outcome.INTERRUPTED: Standing.INTERRUPTED,
}

COUNT_ORDER = (
    Standing.PASSED,
    Standing.FAILED,
    Standing.UNKNOWN,
    Standing.WARNING,
    Standing.IGNORED,
    Standing.INTERRUPTED,
    Standing.NOT_CONFIRMED,
    Standing.NOT_APPLICABLE,
    Standing.SKIPPED,
)
"""The order in which counts are read: what went well, what did not, what was left out."""


NOT_DONE = frozenset({Standing.SKIPPED, Standing.NOT_APPLICABLE, Standing.NOT_CONFIRMED})
"""Standings of steps that did not run, and have no time to show."""


def standing_of(step: StepFinished) -> Standing:
    """The standing of an ended step: its outcome, weighed by its severity."""
    if step.outcome in {Outcome.FAILED, Outcome.UNKNOWN} and step.ignored:
        return Standing.IGNORED
    if step.outcome is Outcome.FAILED and step.severity != "critical":
        return Standing.WARNING
    return _PLAIN_STANDING[step.outcome]


def standing(outcome: Outcome) -> Standing:
    """The standing of a section, an undo or a run."""
    return _PLAIN_STANDING[outcome]


def span(seconds: float) -> str:
    """A length of time, short: `<1ms`, `340ms`, `3.1s`, `42s`, `1m05s`, `2h03m`."""
    milliseconds = round(seconds * 1000)
    whole = round(seconds)
    if milliseconds < _SECOND_MS:
        return f"{milliseconds}ms" if milliseconds else "<1ms" if seconds else "0s"
    if whole < _MINUTE:
        tenths = f"{seconds:.1f}".removesuffix(".0")
        return f"{tenths if len(tenths) == len('9.9') else whole}s"
    if whole < _HOUR:
        minutes, rest = divmod(whole, _MINUTE)
        return f"{minutes}m{rest:02}s" if rest else f"{minutes}m"
    hours, rest = divmod(round(seconds / _MINUTE), _MINUTE)
    return f"{hours}h{rest:02}m" if rest else f"{hours}h"


def against(seconds: float, within: float | None, bound: Bound | None = None) -> str:
    """A time beside its objective: `3.1s ≤ 20s` when it was met, `34s > 30s` when it was not.

    What failed in time has missed its objective nevertheless: `3.1s of 20s`.
    """
    if within is None or bound is Bound.NOT_MEASURED:
        return span(seconds)
    late = seconds > within
    spent, limit = span(seconds), span(within)
    if late and spent == limit:
        return f"> {limit}"
    return f"{spent} {'>' if late else 'of' if bound is Bound.MISSED else '≤'} {limit}"


def timed(seconds: float, error: float) -> str:
    """A measured time with the error that its sampling allows: `49.4s ± 0.1s`."""
    return f"{seconds:.1f}s ± {max(error, 0.1):.1f}s" if error else span(seconds)


def points(value: float) -> str:
    """Points with no more decimals than they need: `15`, `12.5`."""
    return f"{value:.1f}".removesuffix(".0")


def percent(share: float) -> str:
    """A share from 0 to 1 as a percentage that never rounds up to 100."""
    whole = round(share * 100)
    return f"{99 if whole == 100 and share < 1 else whole} %"  # noqa: PLR2004 - per cent


def count(number: int, noun: str) -> str:
    """`1 step`, `3 steps`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def counted(standings: Iterable[Standing]) -> str:
    """How many ended how: `31 passed, 1 FAILED, 2 n/a`."""
    found = list(standings)
    return ", ".join(_several(found.count(each), each) for each in COUNT_ORDER if each in found)


def _several(number: int, each: Standing) -> str:
    return f"{number} {each}{'s' if each is Standing.WARNING and number > 1 else ''}"


def moment(at: str) -> str:
    """A journal's time for people: `2026-11-21 09:03:12 UTC`."""
    return f"{at[:10]} {at[11:19]} UTC" if len(at) >= 19 else at  # noqa: PLR2004 - length of a date and a time


def clean(text: str) -> str:
    """One line without anything that could move the cursor, ring, change colours or turn the direction of writing."""
    if text.isascii() and text.isprintable():
        return text
    folded = " ".join(text.split())
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in {"Cc", "Cf", "Cs"} else char for char in folded
    )


def without_id(name: str) -> str:
    """The name of a check without its number: `C11 The key query …` is `The key query …`; `60 % of …` has none."""
    return re.sub(r"^(?:[A-Z]+\d+ +|\d+ +(?=[^\W\d_]))", "", name)


def bounds(expression: str) -> str:
    """An expectation for readers: `p99 < 500 ms, no errors` for `result.p99_ms < 500 and result.errors == 0`."""
    for pattern, words in _BOUNDS:
        expression = re.sub(pattern, words, expression)
    return expression.replace(" and ", ", ")


def without_ids(said: str) -> str:
    """A sentence on a check in words: without its number, templates, and the names that only expressions have."""
    for pattern, words in _WORDS:
        said = re.sub(pattern, words, said)
    return without_id(said)


_GIVEN = r"result\.[\w.]+ is not none and "
_AT_MOST = (r"result\.percentiles\.(\w+)\.at_most_(\w+) ", r"result.\1 (its upper bound)_\2 ")
_UNITS = (r"(\w\)?)_(ms|s|mib) ([<>]=?|=) (\d[\d,.]*)", r"\1 \3 \4 \2")
_WORDS = (
    (r"`\w+` has no value: it is registered by (['\"])(.*?)\1, which does not apply: .*", r"it needs “\2”"),
    (_GIVEN, ""),
    _AT_MOST,
    (r"result\.", ""),
    (r"\{\{.*?\}\}", "…"),
    _UNITS,
)
_BOUNDS = (
    (_GIVEN, ""),
    _AT_MOST,
    (r"result\.per_s > ([\d.]+)", r"more than \1/s"),
    (r"result\.(\w+) == 0\b", r"no \1"),
    (r"result\.(\w+) == (?=\w)", r"\1 = "),
    (r"result\.", ""),
    _UNITS,
    (r"\bmib\b", "MiB"),
    (r"(?<![\d.])\d{5,}\b", lambda found: f"{int(found[0]):,}"),
)

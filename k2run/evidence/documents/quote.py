"""A value taken out of a journal, and the footnote that says where it stands."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from k2run.bench.shown import in_ms, per_second
from k2run.evidence.report_markdown import code, text
from k2run.evidence.wording import NOT_MEASURED, count, moment, percent, points, span

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "number": lambda value: f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}",  # noqa: PLR2004 - digits shown
    "count": lambda value: f"{round(value):,}",
    "ms": in_ms,
    "time": span,
    "per second": per_second,
    "ratio": lambda value: f"{value:.1f} to 1",
    "percent": percent,
    "points": points,
    "moment": moment,
    "MiB": lambda value: f"{value:,.0f} MiB",
}
"""How a value is written: name of the form and what makes it."""
NUMBER = re.compile(r"(?<![\w.])\d[\d,.:]*")
"""A number in a text; digits of a name, such as p99 or C15, are none."""


class Quote(Struct, frozen=True, kw_only=True):
    """A value and its evidence.

    Attributes:
        shown: As people read it.
        raw: As the journal has it.
        run: The run whose journal has it.
        seq: The line there.
        field: Where in the line, such as `result.p99_ms`.
        at: When it was measured.
        form: A name of `FORMS`, which makes `shown` of `raw`.
    """

    shown: str
    raw: Any
    run: str
    seq: int
    field: str
    at: str
    form: str

    def age(self, now: datetime) -> float:
        """Seconds since it was measured."""
        return (now - datetime.fromisoformat(self.at)).total_seconds()


class Footnotes:
    """Collects what a document quotes, and what is wrong with it.

    Args:
        max_age: Seconds after which a measured value is stale.
        now: The moment at which the document is made.
    """

    def __init__(self, max_age: float, now: datetime | None = None) -> None:
        self.quotes: list[Quote] = []
        self.problems: list[str] = []
        self._max_age = max_age
        self._now = now or datetime.now(UTC)

    def cite(self, quote: Quote) -> str:
        """The value with its mark; stale ones say so."""
        if quote not in self.quotes:
            self.quotes.append(quote)
        mark = f"[^{self.quotes.index(quote) + 1}]"
        shown = text(quote.shown)
        if quote.age(self._now) <= self._max_age:
            return f"{shown}{mark}"
        self.problems.append(f"{quote.shown} is stale: measured {moment(quote.at)} ({quote.run} line {quote.seq})")
        return f"{shown} *(stale)*{mark}"

    def missing(self, what: str) -> str:
        """What stands in the place of a value that no run has."""
        self.problems.append(f"{what}: no run has measured it")
        return f"*{NOT_MEASURED}*"

    def written(self) -> list[str]:
        """The footnotes, one line each."""
        return [_footnote(number, quote) for number, quote in enumerate(self.quotes, start=1)]

    def check(self, body: str, longest: int) -> None:
        """Look for numbers that no footnote of their own line vouches for, and for too many lines."""
        lines = body.splitlines()
        for number, line in enumerate(lines, start=1):
            vouched = " ".join(self.quotes[int(mark) - 1].shown for mark in re.findall(r"\[\^(\d+)\]", line))
            known = set(NUMBER.findall(vouched))
            plain = re.sub(r"\[\^\d+\]", " ", line).replace("\\", "")
            self.problems += [
                f"line {number}: {found} has no evidence" for found in NUMBER.findall(plain) if found not in known
            ]
        whole = len(lines) + len(self.quotes)
        if longest and whole > longest:
            self.problems.append(f"{count(whole, 'line')}, and it may have {longest}")


def _footnote(number: int, quote: Quote) -> str:
    raw = quote.raw if isinstance(quote.raw, str) else msgspec.json.encode(quote.raw).decode()
    value = "" if raw == quote.shown else f" = {code(raw)}"
    return f"[^{number}]: {code(quote.field)}{value}, line {quote.seq} of {code(quote.run)}, {moment(quote.at)}"

"""The evidence of a document: each value with a footnote, and with a mark where it does not speak for itself."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from k2run.bench.latency import in_ms, per_second
from k2run.evidence.report_markdown import code, text
from k2run.evidence.wording import NOT_MEASURED, count, moment, percent, points, span
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def without_id(name: str) -> str:
    """The name of a check without its number: `C11 The key query …` is `The key query …`."""
    return re.sub(r"^(?:[A-Z]+\d+|\d+) +", "", name)


def bounds(expression: str) -> str:
    """An expectation for readers: `p99 < 500 ms, no errors` for `result.p99_ms < 500 and result.errors == 0`."""
    for pattern, words in _BOUNDS:
        expression = re.sub(pattern, words, expression)
    return expression.replace(" and ", ", ")


def without_ids(said: str) -> str:
    """A sentence on a check in words: without its number, templates, and the names that only expressions have."""
    return re.sub(r"result\.(\w+) is not none and |result\.|\{\{.*?\}\} ?", "", without_id(said))


_BOUNDS = (
    (r"result\.(\w+) is not none and ", ""),
    (r"result\.per_s > ([\d.]+)", r"more than \1/s"),
    (r"result\.(\w+)_(ms|s|mib) ([<>]=?) ([\d.]+)", r"\1 \3 \4 \2"),
    (r"\bmib\b", "MiB"),
    (r"result\.(\w+) == 0\b", r"no \1"),
    (r"result\.", ""),
)


FORMS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "code": str,
    "words": without_ids,
    "bounds": bounds,
    "target": lambda value: value.rpartition(": ")[2],
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
    "size": lambda value: f"{value / 1024**2:,.1f} MiB" if value >= 1024**2 else f"{value / 1024:,.1f} KiB",
}
"""How a value is written: name of the form and what makes it."""
OF_TEXTS = frozenset({"text", "code", "words", "bounds", "target", "moment"})
"""Forms of values that are no numbers."""
NUMBER = re.compile(r"(?<![\w.])(?<!T\u2212)\d[\d,.:]*")
"""A number in a text; digits of a name, such as p99 or C15, are none, nor are those of a time before the demo (T-2 h,
written with a minus sign)."""


class Quote(Struct, frozen=True, kw_only=True):
    """A measured value and its evidence.

    Attributes:
        shown: As people read it.
        raw: As the journal has it.
        run: The run whose journal has it.
        stack: The stack of that run.
        seq: The line there.
        field: Where in the line, such as `result.p99_ms`.
        at: When it was measured.
        form: A name of `FORMS`, which makes `shown` of `raw`.
        passed: Whether that run passed.
        standing: How the step ended that measured it; empty for what is not of a step.
    """

    shown: str
    raw: Any
    run: str
    stack: str
    seq: int
    field: str
    at: str
    form: str
    passed: bool = True
    standing: str = ""

    def age(self, now: datetime) -> float:
        """Seconds since it was measured."""
        return (now - datetime.fromisoformat(self.at)).total_seconds()


class Declared(Struct, frozen=True, kw_only=True):
    """A value that a runbook or a stack file declares, such as an objective.

    Attributes:
        shown: As people read it.
        raw: As it is declared.
        source: The file by kind and name: `recovery runbook api-down`, `stack sandbox`.
        field: Where in it, such as `objective.rto`.
        form: A name of `FORMS`, which makes `shown` of `raw`.
    """

    shown: str
    raw: Any
    source: str
    field: str
    form: str


class Footnotes:
    """Collect the quotes of a document, and its problems.

    Args:
        max_age: Seconds after which a measured value is stale.
        now: The moment at which the document is made.
        stack: The stack that the document is about; "" when it is about any.
    """

    def __init__(self, max_age: float, now: datetime | None = None, stack: str = "") -> None:
        self.quotes: list[Quote | Declared] = []
        self.problems: list[str] = []
        self.stack = stack
        self._max_age = max_age
        self._now = now or datetime.now(UTC)
        self._marks: set[str] = set()

    def cite(self, quote: Quote | Declared) -> str:
        """The value with the number of its footnote; one that is stale, foreign or of a failed run has a mark."""
        if quote not in self.quotes:
            self.quotes.append(quote)
        number = f"[^{self.quotes.index(quote) + 1}]"
        shown = code(quote.shown) if quote.form == "code" else text(quote.shown)
        marks = self._objections(quote) if isinstance(quote, Quote) else {}
        self._marks |= {*marks}
        self.problems += marks.values()
        return f"{shown}{''.join(marks)}{number}"

    def _objections(self, quote: Quote) -> dict[str, str]:
        """What a reader must know of a value, as a problem of the document, by its mark."""
        found: dict[str, str] = {}
        if quote.age(self._now) > self._max_age:
            found["†"] = f"{quote.shown} is stale: measured {moment(quote.at)} ({quote.run} line {quote.seq})"
        if self.stack and quote.stack != self.stack:
            found["‡"] = f"what {quote.run} measured is of the stack {quote.stack}"
        if not quote.passed and quote.form not in OF_TEXTS:
            found["§"] = f"{quote.run} did not pass: what it measured is marked"
        return found

    def legend(self) -> str:
        """One line that explains the marks in use; empty when there are none."""
        says = {
            "†": f"stale: measured more than {Duration(self._max_age)} before this was written",
            "‡": f"measured on another stack than {code(self.stack)}",
            "§": "its run did not pass; the footnote names it",
        }
        return "; ".join(f"{mark} {said}" for mark, said in says.items() if mark in self._marks)

    def missing(self, what: str, command: str = "", standing: str = "") -> str:
        """The text for a value that there is no evidence for.

        Args:
            what: The value.
            command: What measures it.
            standing: How the step that measures it ended: what does not apply, or was not confirmed, says so.
        """
        if standing == "n/a":
            return "*not applicable here*"
        if standing == "unconfirmed":
            self.problems.append(f"{what}: not confirmed")
            return "*not confirmed*"
        self.problems.append(f"{what}: no run has measured it" + (f"; `{command}` does" if command else ""))
        return f"*{NOT_MEASURED}*" + (f" ({code(command)})" if command else "")

    def written(self) -> list[str]:
        """The footnotes, one line each."""
        return [_footnote(number, quote) for number, quote in enumerate(self.quotes, start=1)]

    def check(self, body: str, longest: int) -> None:
        """Find numbers without a footnote on their line, and too many lines."""
        lines = body.splitlines()
        for number, line in enumerate(lines, start=1):
            vouched = " ".join(self.quotes[int(mark) - 1].shown for mark in re.findall(r"\[\^(\d+)\]", line))
            known = set(_numbers(vouched))
            plain = re.sub(r"\[\^\d+\]", " ", line).replace("\\", "")
            alone = [found for found in _numbers(plain) if found not in known]
            self.problems += [f"line {number}: {found} has no evidence" for found in alone]
        whole = len(lines) + len(self.quotes)
        if longest and whole > longest:
            self.problems.append(f"{count(whole, 'line')}, and it may have {longest}")


def has_number(said: str) -> bool:
    """Whether a text has a number in it, for which there must be evidence."""
    return NUMBER.search(said) is not None


def _numbers(line: str) -> Iterator[str]:
    yield from (found.rstrip(".,:") for found in NUMBER.findall(line))


def _footnote(number: int, quote: Quote | Declared) -> str:
    raw = quote.raw if isinstance(quote.raw, str) else msgspec.json.encode(quote.raw).decode()
    value = "" if raw == quote.shown or quote.form in OF_TEXTS else f" = {code(raw)}"
    said = f"[^{number}]: {code(quote.field)}{value}"
    if isinstance(quote, Declared):
        kind, _, name = quote.source.rpartition(" ")
        return f"{said}, declared by the {kind} {code(name)}"
    how = "" if quote.passed else ", which did not pass"
    step = f", step {quote.standing}" if quote.standing not in {"", "passed"} else ""
    run = f"line {quote.seq} of {code(quote.run)} on {code(quote.stack)}{how}"
    return f"{said}, {run}{step}, {moment(quote.at)}"

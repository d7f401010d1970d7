"""Documents made of templates and journals: every number in them is a quote with a footnote."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from msgspec import Struct

from k2run.bench.formatting import in_ms, per_second
from k2run.errors import UsageError
from k2run.evidence.report_markdown import code, text
from k2run.evidence.wording import NOT_MEASURED, count, moment, percent, points, span
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


SUFFIX = ".md.j2"
WEEK = Duration(7 * 24 * 3600)


class Heading(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The head of a template, between its two `---`.

    Attributes:
        file: Name of the document.
        json: Name of a file with every quoted value, for programs; none when empty.
        max_age: How old a measured value may be before it is stale.
        lines: The most lines it may have, footnotes included; 0 for any.
    """

    file: str
    json: str = ""
    max_age: str = str(WEEK)
    lines: int = 0


class Document(Struct, frozen=True, kw_only=True):
    """A document that has been made.

    Attributes:
        problems: Numbers that are stale or without evidence, values that no run has, too many lines.
    """

    heading: Heading
    text: str
    quotes: list[Quote]
    problems: list[str]


def templates(folders: Sequence[Path]) -> dict[str, Path]:
    """The templates by kind; those of the first folder win."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.glob(f"*{SUFFIX}")):
            found.setdefault(file.name.removesuffix(SUFFIX), file)
    return found


def make(template: Path, sources: Callable[[Footnotes], object], *, max_age: str = "") -> Document:
    """Fill a template in.

    Args:
        template: The file.
        sources: Makes what the template may ask, given the footnotes that collect it.
        max_age: Overrides what the template declares, such as `24h`.

    Raises:
        UsageError: The template is wrong.
    """
    heading, body = _read(template)
    notes = Footnotes(Duration.parse(max_age or heading.max_age))
    said = _fill(template, body, sources(notes)).strip("\n")
    notes.check(said, heading.lines)
    text = "\n".join([said, "", *notes.written(), ""])
    return Document(heading=heading, text=text, quotes=notes.quotes, problems=notes.problems)


def _read(template: Path) -> tuple[Heading, str]:
    _, _, rest = template.read_text(encoding="utf-8").partition("---\n")
    heading, _, body = rest.partition("\n---\n")
    try:
        return msgspec.convert(yaml.safe_load(heading) or {}, Heading), body
    except (msgspec.ValidationError, yaml.YAMLError) as error:
        raise UsageError(f"{template}: {error}", hint="it begins with ---, `file: NAME.md` and ---") from error


def _fill(template: Path, body: str, sources: object) -> str:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    names: dict[str, Any] = {name: getattr(sources, name) for name in ("figure", "last", "known", "ask")}
    try:
        return environment.from_string(body).render(names)
    except (TemplateError, TypeError, KeyError) as error:
        line = getattr(error, "lineno", None)
        raise UsageError(f"{template}{f':{line}' if line else ''}: {error}") from error


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
    """Collect the quotes of a document, and its problems.

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
        """The text for a value that no run has."""
        self.problems.append(f"{what}: no run has measured it")
        return f"*{NOT_MEASURED}*"

    def written(self) -> list[str]:
        """The footnotes, one line each."""
        return [_footnote(number, quote) for number, quote in enumerate(self.quotes, start=1)]

    def check(self, body: str, longest: int) -> None:
        """Find numbers without a footnote on their line, and too many lines."""
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

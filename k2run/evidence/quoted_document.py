"""Documents made of templates: every number in them is a quote with a footnote; as text, or as a page to print."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from msgspec import Struct

from k2run.bench.latency import in_ms, per_second
from k2run.errors import UsageError
from k2run.evidence.html import Html, tag
from k2run.evidence.report_markdown import code, text
from k2run.evidence.wording import NOT_MEASURED, bounds, count, moment, percent, points, span, without_ids
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline

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
_WHY = {"failed": "failed", "skipped": "not reached"}
"""Why a step that ended so has no time and no figures."""
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
            standing: How the step that measures it ended, where that is why there is no value.
        """
        if standing == "n/a":
            return "*not applicable here*"
        if standing == "unconfirmed":
            self.problems.append(f"{what}: not confirmed")
            return "*not confirmed*"
        if standing in _WHY:
            self.problems.append(f"{what}: not measured, {_WHY[standing]}")
            return f"*{NOT_MEASURED}* ({_WHY[standing]})"
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


ASKED = ("figure", "last", "runs", "known", "runbook", "services", "stack", "ask")
"""What a template may ask of its sources."""
SUFFIX = ".md.j2"
WEEK = Duration(7 * 24 * 3600)

_STYLE = Path(__file__).parent / "printed.css"
_MARK = re.compile(r"\[\^(\d+)\]")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_HEADING = re.compile(r"<(h[23])>([^<>\"]+)</\1>")
_BOX = re.compile(r"<li>(\s*<p>)?\[ \] ")


class Heading(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The head of a template, between its two `---`.

    Attributes:
        file: Name of the document.
        json: Name of a file with every quoted value, for programs; none when empty.
        max_age: How old a measured value may be before it is stale.
        lines: The most lines it may have, footnotes included; 0 for any. The footnotes of a document with such a bound
            have a page of their own.
    """

    file: str
    json: str = ""
    max_age: str = str(WEEK)
    lines: int = 0


class Document(Struct, frozen=True, kw_only=True):
    """A document that has been made.

    Attributes:
        body: The text without its footnotes.
        footnotes: One line each.
        problems: Numbers that are stale, foreign, of a failed run or without evidence, values that no run has, too
            many lines.
    """

    heading: Heading
    body: str
    footnotes: list[str]
    quotes: list[Quote | Declared]
    problems: list[str]

    @property
    def text(self) -> str:
        """The whole document as Markdown."""
        return "\n".join([self.body, "", *self.footnotes, ""])

    @property
    def html(self) -> str:
        """The whole document as a page to print."""
        return printed(self.body, self.footnotes, apart=bool(self.heading.lines))


def templates(folders: Sequence[Path]) -> dict[str, Path]:
    """The templates by kind; those of the first folder win."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.glob(f"*{SUFFIX}")):
            found.setdefault(file.name.removesuffix(SUFFIX), file)
    return found


def make(template: Path, sources: Callable[[Footnotes], object], *, max_age: str = "", stack: str = "") -> Document:
    """Fill a template in.

    Args:
        template: The file.
        sources: Makes what the template may ask, given the footnotes that collect it.
        max_age: Overrides what the template declares, such as `24h`.
        stack: The stack that the document is about; measures of another are marked.

    Raises:
        UsageError: The template is wrong.
    """
    heading, body = _read(template)
    notes = Footnotes(Duration.parse(max_age or heading.max_age), stack=stack)
    said = _fill(template, body, sources(notes)).strip("\n")
    notes.check(said, heading.lines)
    legend = notes.legend()
    body = f"{said}\n\n*{legend}.*" if legend else said
    return Document(
        heading=heading,
        body=body,
        footnotes=notes.written(),
        quotes=notes.quotes,
        problems=[*dict.fromkeys(notes.problems)],
    )


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
    names: dict[str, Any] = {name: getattr(sources, name) for name in ASKED}
    try:
        return environment.from_string(body).render(names)
    except UsageError as error:
        raise UsageError(f"{template}: {error.message}", hint=error.hint) from error
    except (TemplateError, TypeError, KeyError) as error:
        line = getattr(error, "lineno", None)
        raise UsageError(f"{template}{f':{line}' if line else ''}: {error}") from error


def printed(body: str, footnotes: Sequence[str], *, apart: bool = False) -> str:
    """The document as HTML.

    Args:
        body: Its text as Markdown, with `[^1]` for footnotes and `- [ ]` for boxes to tick.
        footnotes: One line each: `[^1]: …`.
        apart: They have a page of their own.
    """
    titled = _TITLE.search(body)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", titled[1] if titled is not None else "Document"),
        tag("style", Html(_STYLE.read_text(encoding="utf-8"))),
    )
    made = _HEADING.sub(_with_id, _markdown().render(body))
    main = tag("main", Html(_BOX.sub(r'<li class="box">\1', made)))
    notes = tag("ol", *(_note(number, line) for number, line in enumerate(footnotes, start=1)))
    foot = tag("footer", tag("h2", "Footnotes"), notes, class_="apart" if apart else None) if footnotes else None
    return f"<!doctype html>\n{tag('html', head, tag('body', main, foot), lang='en')}\n"


def _with_id(found: re.Match[str]) -> str:
    """A heading that a link can lead to, by the id that Markdown's readers give it."""
    words = re.sub(r"[^\w\- ]", "", found[2].lower()).replace(" ", "-")
    return f'<{found[1]} id="{words}">{found[2]}</{found[1]}>'


def _note(number: int, line: str) -> Html:
    return tag("li", Html(_markdown().renderInline(line.partition(": ")[2])), id=f"note-{number}")


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    made = MarkdownIt("commonmark", {"html": False}).enable("table")
    made.inline.ruler.before("link", "footnote_mark", _footnote_mark)
    return made


def _footnote_mark(state: StateInline, silent: bool) -> bool:
    """Read `[^1]` as a link to its footnote; an escaped one is text, which markdown-it has seen before."""
    found = _MARK.match(state.src, state.pos)
    if found is None:
        return False
    if not silent:
        token = state.push("html_inline", "", 0)
        token.content = f'<sup><a href="#note-{found[1]}">{found[1]}</a></sup>'
    state.pos = found.end()
    return True

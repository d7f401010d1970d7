"""Documents made of templates and journals: every number in them is a quote with a footnote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from msgspec import Struct

from k2run.errors import UsageError
from k2run.evidence.footnotes import Declared, Footnotes, Quote
from k2run.evidence.html.printed import printed
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

ASKED = ("figure", "last", "runs", "known", "runbook", "services", "stack", "ask")
"""What a template may ask of its sources."""
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
        return printed(self.body, self.footnotes)


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

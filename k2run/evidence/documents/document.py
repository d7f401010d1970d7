"""Makes a document out of a template and the journals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from msgspec import Struct

from k2run.errors import UsageError
from k2run.evidence.documents.quote import Footnotes, Quote
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from k2run.evidence.documents.sources import Sources

SUFFIX = ".md.j2"
WEEK = Duration(7 * 24 * 3600)


class Heading(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands between the two `---` at the top of a template.

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


def make(template: Path, sources: Callable[[Footnotes], Sources], *, max_age: str = "") -> Document:
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


def _fill(template: Path, body: str, sources: Sources) -> str:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    names: dict[str, Any] = {name: getattr(sources, name) for name in ("figure", "last", "known", "ask")}
    try:
        return environment.from_string(body).render(names)
    except (TemplateError, TypeError, KeyError) as error:
        line = getattr(error, "lineno", None)
        raise UsageError(f"{template}{f':{line}' if line else ''}: {error}") from error

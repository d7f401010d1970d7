"""A document as a page to print: self-contained, with its footnotes on a page of their own."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.evidence.html.element import Html, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline

_STYLE = Path(__file__).with_name("printed.css")
_MARK = re.compile(r"\[\^(\d+)\]")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_HEADING = re.compile(r"<(h[23])>([^<>\"]+)</\1>")
_BOX = re.compile(r"<li>(\s*<p>)?\[ \] ")


def printed(body: str, footnotes: Sequence[str]) -> str:
    """The document as HTML.

    Args:
        body: Its text as Markdown, with `[^1]` for footnotes and `- [ ]` for boxes to tick.
        footnotes: One line each: `[^1]: …`.
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
    foot = tag("footer", tag("h2", "Footnotes"), notes) if footnotes else None
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

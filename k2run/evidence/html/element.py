"""HTML elements as text. Whatever is not an element already is escaped: reports quote what systems answered."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ENTITIES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))
# Control characters have no place in XML, and surrogates none in UTF-8.
_NO_TEXT = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff"
_UNWANTED = re.compile(f"[{_NO_TEXT}]")
_TO_ESCAPE = re.compile(f"[&<>{_NO_TEXT}]")
_TO_QUOTE = re.compile(f'[&<>"{_NO_TEXT}]')
_VOID = frozenset({"br", "col", "line", "meta", "path", "rect"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | None
NOTHING = Html()


def escape(text: str) -> Html:
    """The text as it may stand in an element of HTML or XML."""
    if isinstance(text, Html):
        return text
    if _TO_ESCAPE.search(text) is None:
        return Html(text)
    for char, entity in _ENTITIES:
        if char in text:
            text = text.replace(char, entity)
    return Html(text if text.isprintable() else _UNWANTED.sub("\N{REPLACEMENT CHARACTER}", text))


def quoted(text: str) -> str:
    """The text as the value of an attribute, with its quotes."""
    if _TO_QUOTE.search(text) is None:
        return f'"{text}"'
    return f'"{escape(text).replace(chr(34), "&quot;")}"'


def join(children: Iterable[Child]) -> Html:
    """Elements and texts, one after the other."""
    return Html("".join([child if type(child) is Html else escape(child) for child in children if child]))


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Html:
    """An element.

    Args:
        name: Its tag.
        children: Elements, and text that will be escaped; None is left out.
        attributes: `class_` for class, `data_label` for data-label; None is left out.
    """
    if not attributes and name not in _VOID:
        return Html(f"<{name}>{join(children)}</{name}>")
    written = "".join([f" {_key(key)}={quoted(str(value))}" for key, value in attributes.items() if value is not None])
    if name in _VOID:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


@cache
def _key(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Html], *, foot: Html = NOTHING, class_: str = "cards"
) -> Html:
    """A table that stays one for a screen reader, even where a narrow page shows its rows as cards.

    Args:
        caption: What it shows; read aloud, and not drawn where a heading says the same.
        heads: Column heads; an empty one has no text.
        rows: Made by `row`.
        foot: A last row, made by `row`.
        class_: For the style sheet.
    """
    head = tag("tr", *(_head(text) for text in heads), role="row")
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", head, role="rowgroup"),
        tag("tbody", *rows, role="rowgroup"),
        tag("tfoot", foot, role="rowgroup") if foot else None,
        role="table",
        class_=class_ or None,
    )


def _head(text: str) -> Html:
    return tag("th", text, scope="col", role="columnheader", class_=f"c-{text.lower()}" if text else "c-bar")


def row(heads: Sequence[str], cells: Sequence[Child], *, number_of_head: int = 0, **attributes: str | None) -> Html:
    """A row of a table.

    Args:
        heads: The column heads; each cell repeats its own on a narrow page.
        cells: One for each column.
        number_of_head: Which of them names the row.
        attributes: Of the row itself.
    """
    made = [
        frame % (cell if type(cell) is Html else escape(cell or ""))
        for frame, cell in zip(_frames(tuple(heads), number_of_head), cells, strict=True)
    ]
    return tag("tr", Html("".join(made)), role="row", **attributes)


@cache
def _frames(heads: tuple[str, ...], number_of_head: int) -> list[str]:
    """Begin and end of the cells of a row, with a place for what they hold; there are many rows of a kind."""
    return [_frame(label, is_head=number == number_of_head) for number, label in enumerate(heads)]


def _frame(label: str, *, is_head: bool) -> str:
    kind, end = ('th scope="row" role="rowheader"', "th") if is_head else ('td role="cell"', "td")
    named = f" data-label={quoted(label)}" if label else ""
    return f"<{kind}{named}>".replace("%", "%%") + f"%s</{end}>"


def journal_link(seq: int) -> Html:
    """A link to a line of the journal, which the report quotes at its end."""
    return Html(f'<a href="#e{seq}" class="line" title="line {seq} of journal.jsonl">{seq}</a>')

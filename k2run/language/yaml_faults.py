"""What the YAML parser complains of, said so that an operator knows what to change."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from yaml.error import MarkedYAMLError

from k2run.language.nodes import MAX_DEPTH, TooDeep, bare_template

if TYPE_CHECKING:
    from k2run.language.document import Document
    from k2run.language.problems import Problem

_ODD_SPACE = re.compile("(?:(?<=[:,-])|^ *)([\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000\ufeff])", re.MULTILINE)
"""Where YAML expects a space: after a key, an item's dash, a comma, and in the indentation."""
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_RESERVED = "@`%"

_SAYINGS: tuple[tuple[str, str, str, str], ...] = (
    ("unexpected end of stream", "K103", "this quote is never closed", "close it with the same quote"),
    (
        "mapping values are not allowed",
        "K103",
        "a second `:` cannot stand here",
        "quote the text, or indent the lines alike",
    ),
    ("block sequence entries are not allowed", "K103", "a list cannot begin here", "put the `-` on a line of its own"),
    (
        "found undefined alias",
        "K107",
        "there is no anchor of this name above",
        "define it as `&name` before, or quote the text",
    ),
    ("found duplicate anchor", "K107", "duplicate anchor", "give it another name"),
    ("but found another document", "K111", "a second document begins here", "one file holds one document"),
    ("unknown escape character", "K103", "this escape is unknown in double quotes", "use single quotes, or write \\\\"),
    (
        "did not find expected ',' or ']'",
        "K103",
        "this list is not closed with ] or lacks a comma",
        "close it, or quote the text",
    ),
    (
        "did not find expected ',' or '}'",
        "K103",
        "this mapping is not closed with } or lacks a comma",
        "close it, or quote the text",
    ),
    (
        "did not find expected '-' indicator",
        "K103",
        "expected the next `-` of the list above",
        "align it with the items above",
    ),
    (
        "did not find expected key",
        "K103",
        "expected the next key of the mapping above",
        "align it with the keys above; quote a text as a whole",
    ),
    ("could not find expected ':'", "K103", "expected `:` after this key", "write `key: value`"),
    (
        "did not find expected <document start>",
        "K103",
        "this line is outside the document above",
        "align it with the first line",
    ),
)
_AT_CONTEXT = frozenset({"this quote is never closed", "this list is not closed with ] or lacks a comma",
                         "this mapping is not closed with } or lacks a comma"})  # fmt: skip
"""The reader must look where the thing begins, not where the parser gave up."""


def explain(document: Document, error: Exception) -> Problem:
    """The problem behind an error of the parser."""
    if isinstance(error, TooDeep):
        hint = "values this deep are a mistake in the brackets or the indentation"
        return document.problem_at("K112", f"nested deeper than {MAX_DEPTH} levels", error.offset, hint=hint)
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None or error.problem is None:
        return _bad_character(document)
    at = error.problem_mark.index
    if odd := _odd_space(document, at):
        return odd
    if _is_tab(document.text, at) or "tab character" in (error.problem or ""):
        return _tab(document, at)
    if "cannot start any token" in error.problem:
        character = document.text[at : at + 1]
        hint = f"quote the text that begins with {character}" if character in _RESERVED else "quote the text"
        return document.problem_at("K103", f"a value cannot begin with {character!r}", at, hint=hint)
    return _said(document, error, at)


def _said(document: Document, error: MarkedYAMLError, at: int) -> Problem:
    for words, code, message, hint in _SAYINGS:
        if words in f"{error.problem} {error.context}":
            if message in _AT_CONTEXT and error.context_mark is not None:
                if _starts_inside(document.text, error.context_mark.index, at):
                    return _unquoted(document, at)
                at = error.context_mark.index
            elif template := _bare_template(document, at):
                return template
            return document.problem_at(code, message, _visible(document.text, at), _token(document.text, at), hint=hint)
    return document.problem_at("K103", f"not YAML: {error.problem}", _visible(document.text, at))


def _bare_template(document: Document, at: int) -> Problem | None:
    """`key: {{ name }}-more`: the usual reason for a surprise after `}}`."""
    start = document.text.rfind("\n", 0, at) + 1
    bare = re.search(r":\s+(\{\{)", document.text[start:at])
    return None if bare is None else bare_template(document, start + bare.start(1))


def _odd_space(document: Document, at: int) -> Problem | None:
    """A character that looks like a space, on the line of the error or one of the two before it."""
    lines = document.text[:at].rsplit("\n", 3)
    start = len(document.text[:at]) - len("\n".join(lines[-3:]))
    end = document.text.find("\n", at)
    found = _ODD_SPACE.search(document.text, start, len(document.text) if end < 0 else end)
    if found is None:
        return None
    return document.problem_at(
        "K101",
        f"the character U+{ord(found[1]):04X} looks like a space, and YAML takes it for a letter",
        found.start(1),
        hint="put an ordinary space there; it often comes with text that was copied from a page",
    )


def _is_tab(text: str, at: int) -> bool:
    return text[at : at + 1] == "\t"


def _tab(document: Document, at: int) -> Problem:
    at = max(document.text.rfind("\t", 0, at + 1), 0)
    return document.problem_at("K102", "a tab cannot indent YAML", at, hint="indent with spaces")


def _bad_character(document: Document) -> Problem:
    found = _FORBIDDEN.search(document.text)
    if found is None:
        return document.problem_at("K103", "not YAML", 0)
    return document.problem_at(
        "K101",
        f"invalid character U+{ord(found[0]):04X}",
        found.start(),
        hint='remove it, or write it as an escape in double quotes, such as "\\x07"',
    )


def _unquoted(document: Document, at: int) -> Problem:
    hint = "quote the whole text: inside { } and [ ] this character begins something new"
    return document.problem_at("K103", f"`{document.text[at]}` cannot stand here", at, hint=hint)


def _starts_inside(text: str, context: int, at: int) -> bool:
    """`{a: b[0]}`: a bracket or quote in the middle of an unquoted text."""
    return text[at : at + 1] in tuple("[{\"'") and "\n" not in text[context:at]


def _visible(text: str, at: int) -> int:
    """The last character of the text rather than the nothing after it."""
    return min(at, max(len(text.rstrip()) - 1, 0))


def _token(text: str, at: int) -> int:
    token = re.compile(r"[\w.-]+").match(text, at)
    return len(token[0]) if token else 1

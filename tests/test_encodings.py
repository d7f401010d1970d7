"""Every file of text is read and written as UTF-8: what a locale chooses differs from machine to machine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parent.parent / "k2run").rglob("*.py"))
NO_TEXT = {"os", "tarfile", "webbrowser", "new_input", "runs"}
"""Whose `open` opens no text: modules, a file of Iceberg, the runs of the page."""


def name_of(node: ast.expr) -> str:
    """The last word of what a method is called on."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def leaves_it_open(call: ast.Call) -> bool:
    """Whether a call opens a file of text without its encoding."""
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    match call.func:
        case ast.Attribute(attr="read_text"):
            return not call.args
        case ast.Attribute(attr="write_text"):
            return len(call.args) == 1
        case ast.Name(id="open") | ast.Attribute(attr="fdopen"):
            modes = call.args[1:2]
        case ast.Attribute(attr="open", value=whose) if name_of(whose) not in NO_TEXT:
            modes = call.args[:1]
        case _:
            return False
    modes += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    return all(
        isinstance(mode, ast.Constant) and isinstance(mode.value, str) and "b" not in mode.value for mode in modes
    )


def without_encoding(source: str) -> list[int]:
    """The lines of calls that leave the encoding to the locale."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and leaves_it_open(node)]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("path.open()", True),
        ("path.open('a')", True),
        ("path.open(mode='wb')", False),
        ("os.open(path, flags)", False),
        ("os.fdopen(file, 'w')", True),
        ("os.fdopen(file, 'wb')", False),
    ],
)
def test_what_leaves_the_encoding_to_the_locale_is_found(source: str, found: bool) -> None:
    assert bool(without_encoding(source)) is found


def test_no_file_of_text_is_opened_in_the_encoding_of_the_locale() -> None:
    found = [f"{file}:{line}" for file in SOURCES for line in without_encoding(file.read_text(encoding="utf-8"))]
    assert found == []

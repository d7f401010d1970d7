"""Modules and functions of a size that one reads at a sitting."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.no_cover

MODULE, FUNCTION = 400, 45
"""Lines of a module, and of a function's body without its docstring."""
REASON = "Long because"
"""How the second sentence of a module begins that is longer."""
TO_SHORTEN = {"k2/platform/avro_trades.py: _read"}
"""Longer; none is added."""
A_TABLE = {"stack/validation.py: stack_schema"}
"""A function that is one value, written out."""


@cache
def modules() -> dict[str, str]:
    """The text of every module by its path."""
    found = sorted((ROOT / "k2run").rglob("*.py"))
    return {str(path.relative_to(ROOT / "k2run")): path.read_text(encoding="utf-8") for path in found}


def test_a_long_module_says_why() -> None:
    long = {name for name, text in modules().items() if text.count("\n") > MODULE}
    silent = {name for name in long if REASON not in (ast.get_docstring(ast.parse(modules()[name])) or "")}
    assert not silent


def test_no_function_is_long() -> None:
    long = {
        f"{name}: {node.name}": length
        for name, text in modules().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (length := body_lines(node)) > FUNCTION
    }
    assert long.keys() <= TO_SHORTEN | A_TABLE, long


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and docstring, which are its reference."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]

"""Which tests an adapter has of its own: a fault that is not in the matrix of faults has one with its undo."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def is_undone_in_a_test(fault: str, tests: Path) -> bool:
    """Whether a test of the fault's adapter injects it and undoes it.

    Args:
        fault: Its name, `adapter.verb`.
        tests: Where the tests of adapters are.
    """
    adapter, _, verb = fault.partition(".")
    injects = re.compile(rf"\b{re.escape(fault)}\b|\b{verb}_?\(")
    return any(injects.search(text) and re.search("undo", text) for text in _tests(tests, adapter))


def _tests(tests: Path, adapter: str) -> Iterator[str]:
    for file in tests.glob(f"test_{adapter}*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield ast.unparse(node)

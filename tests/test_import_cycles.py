"""No module imports itself through others: at run time never, inside functions included; for types with a reason."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.no_cover

FOR_TYPES = {
    ("engine.sequence", "engine.steps"): "a block is run by what runs its steps, of which it is one",
    ("engine.execution", "engine.prompts"): "a run has its guide, who is told of the run",
    ("engine.outline", "engine.execution"): "steps are selected by the options of a run",
    ("engine.step_record", "engine.sequence"): "the record of a step keeps the leap that it hands on",
    ("language.keywords", "language.step_reader"): "the value of a keyword is read into the draft of its step",
    ("language.nodes", "language.document"): "nodes are built for a document",
    ("language.yaml_faults", "language.document"): "faults are explained with the text of a document",
}
"""Imports for types alone that would close a circle: importer, imported, and why neither can be moved."""


def modules() -> dict[str, Path]:
    """Every module by its name without `k2run.`."""
    found = {}
    for path in sorted((ROOT / "k2run").rglob("*.py")):
        parts = path.relative_to(ROOT / "k2run").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(node: ast.AST, known: dict[str, Path], *, types: bool = False) -> Iterator[tuple[str, bool]]:
    """The modules that a tree imports, and whether for types alone."""
    for child in ast.iter_child_nodes(node):
        inside = types or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and child in node.body
        )
        names: list[str] = []
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and child.module:
            names = [each for alias in child.names for each in (f"{child.module}.{alias.name}", child.module)]
        for name in names:
            module = name.removeprefix("k2run.")
            if name.startswith("k2run.") and module in known:
                yield module, inside
        yield from imports(child, known, types=inside)


@cache
def edges() -> dict[str, list[tuple[str, bool]]]:
    """What every module imports, and whether for types alone."""
    known = modules()
    return {name: [*imports(ast.parse(path.read_text(encoding="utf-8")), known)] for name, path in known.items()}


def graph(*, types: bool) -> dict[str, set[str]]:
    """What every module imports, at run time or for types too."""
    return {
        name: {module for module, for_types in found if module != name and (types or not for_types)}
        for name, found in edges().items()
    }


def cycle(found: dict[str, set[str]]) -> list[str]:
    """The first circle of a graph; empty when there is none."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_through_others_at_run_time() -> None:
    assert not cycle(graph(types=False))


def test_circles_of_types_alone_have_a_reason() -> None:
    found = graph(types=True)
    for importer, imported in FOR_TYPES:
        found[importer].discard(imported)
    assert not cycle(found)


@pytest.mark.parametrize("edge", FOR_TYPES, ids=" ".join)
def test_a_reason_stands_for_a_circle_that_there_is(edge: tuple[str, str]) -> None:
    found = graph(types=True)
    for importer, imported in FOR_TYPES.keys() - {edge}:
        found[importer].discard(imported)
    assert cycle(found), "this import closes no circle any more: take it from the list"

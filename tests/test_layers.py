"""Imports point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "k2run"
pytestmark = pytest.mark.no_cover

LAYERS = ["language", "actions", "stack", "engine", "adapters", "bench", "evidence", "recovery", "faces", "sandbox"]


def imported(path: Path) -> set[str]:
    """The layers that a module imports from, type-only imports too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    ours = (name.split(".") for name in names if name.startswith("k2run."))
    return {parts[1] for parts in ours} & {*LAYERS}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_from_those_above_it(layer: str) -> None:
    allowed = {*LAYERS[: LAYERS.index(layer) + 1]} if layer != "sandbox" else {"sandbox"}
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in sorted((ROOT / layer).rglob("*.py"))
        if (found := imported(path) - allowed)
    }
    assert not wrong


def test_an_adapter_imports_neither_the_engine_nor_another_adapter() -> None:
    wrong = []
    for path in sorted((ROOT / "adapters").glob("[a-z]*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith(("k2run.engine", "k2run.adapters.")):
                private = module.removeprefix("k2run.adapters.").startswith("_")
                if not private:
                    wrong.append(f"{path.name}: {module}")
    assert not wrong

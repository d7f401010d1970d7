"""Imports point one way, inside functions and for types alone too."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent / "k2run"
pytestmark = pytest.mark.no_cover

LAYERS = [
    "language",
    "actions",
    "stack",
    "engine",
    "adapters",
    "bench",
    "evidence",
    "recovery",
    "terminal",
    "app",
    "authoring",
    "daemon",
    "web",
    "cli",
]
"""Each imports only from those before it. `k2` stands apart: it may import anything, and nothing imports it."""


def names_imported(path: Path) -> set[str]:
    """What a module imports, by its full name: modules, and what is taken from them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            package = ["k2run", *path.relative_to(ROOT).parts][: -node.level] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imported(path: Path) -> set[str]:
    """The packages of k2run that a module imports from."""
    names = names_imported(path)
    return {parts[1] for name in names if (parts := name.split("."))[0] == "k2run" and len(parts) > 1}


BY_NAME = ("pyproject.toml", "tasks.py", "k2run/adapters/ansible.py")
"""Files that name modules which nothing imports: entry points, tasks, the plugin that Ansible loads."""


def test_every_module_is_imported_or_found_or_started() -> None:
    """One that is not is a leftover, and what is mended in it is mended nowhere."""
    used = set().union(*map(names_imported, ROOT.rglob("*.py")))
    named = "".join((ROOT.parent / name).read_text(encoding="utf-8") for name in BY_NAME)
    left = []
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(("k2run", *path.relative_to(ROOT).with_suffix("").parts))
        text = path.read_text(encoding="utf-8")
        started = path.stem in {"__init__", "__main__"} or "\n@action(" in text or '__name__ == "__main__"' in text
        if not (started or module in used or module in named or path.stem in named):
            left.append(module)
    assert left == []


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_from_those_before_it(layer: str) -> None:
    allowed = {*LAYERS[: LAYERS.index(layer) + 1]}
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in sorted((ROOT / layer).rglob("*.py"))
        if (found := (imported(path) & {*LAYERS}) - allowed)
    }
    assert not wrong


def test_every_folder_is_a_layer_or_k2() -> None:
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert folders == {*LAYERS, "k2"}


def test_nothing_outside_k2_imports_it() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in outside_k2("*.py")
        if "k2" in imported(path) or re.search(r"\bk2run[./]k2\b", path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "its modules are reached through entry points and stack files alone"


K2S_WORDS = re.compile(r"\w*(?:trade|market|binance)\w*|\biceberg-writer\b|\bk2[-_](?!\{)\w+", re.IGNORECASE)


def test_the_words_of_k2_stand_nowhere_outside_it() -> None:
    wrong = {
        f"{path.relative_to(ROOT)}:{number}": found
        for path in outside_k2("*")
        if path.is_file() and path.suffix not in BINARY
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (found := K2S_WORDS.findall(line))
    }
    assert not wrong, "what is K2's belongs in k2run/k2, in a runbook or a stack file; examples are about a shop"


BINARY = {".pyc", ".png", ".ico", ".woff2"}


def outside_k2(pattern: str) -> Iterator[Path]:
    """Files of k2run, packages and private modules included, but not those of K2."""
    for path in sorted(ROOT.rglob(pattern)):
        place = path.relative_to(ROOT)
        if place.parts[0] != "k2" and "__pycache__" not in place.parts:
            yield path


def test_the_embedded_platform_imports_of_k2run_only_itself_and_signals() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in sorted((ROOT / "k2" / "platform").rglob("*.py"))
        if (found := imported(path) - {"k2", "signals"})
    }
    assert not wrong


def test_an_adapter_imports_neither_the_engine_nor_the_actions_of_another_adapter() -> None:
    systems = {path.stem for path in (ROOT / "adapters").glob("[a-z]*.py")}
    wrong = []
    for path in sorted((ROOT / "adapters").rglob("*.py")):
        own = path.relative_to(ROOT / "adapters").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                _, layer, system, *rest = [*name.split("."), "", ""]
                actions = layer == "adapters" and system != own and (system in systems or "actions" in rest)
                if layer == "engine" or actions:
                    wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert not wrong


def test_the_page_on_the_architecture_names_every_folder() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {
        line.split("/")[0].strip() for line in page.splitlines() if line.startswith("  ") and "/" in line.split()[0]
    }
    assert {*LAYERS, "k2"} <= named


def test_the_page_on_the_architecture_names_modules_that_there_are() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w[\w/]*/\w+\.py)`", page)) - {"tests/test_import_cycles.py"}
    assert named
    assert not [name for name in sorted(named) if not (ROOT / name).is_file()]

"""Every action, of whichever adapter: described, tested, and its adapter on the page of adapters."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from k2run.actions.catalogue import Catalogue

TESTS = Path(__file__).parents[1]
ADAPTERS = TESTS.parent / "k2run" / "adapters"
PAGE = TESTS.parent / "docs" / "adapters.md"
ACTIONS = list(Catalogue().all())
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
ALWAYS = {"jinja2", "msgspec", "yaml"}
"""Libraries of the engine, which every run has loaded."""


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_an_action_describes_itself_and_each_of_its_arguments(action):
    assert action.summary
    for argument in action.arguments.__struct_encode_fields__:
        assert f"{argument}: " in action.doc


def test_every_action_is_called_by_a_test():
    written = {path.relative_to(TESTS).as_posix(): path.read_text() for path in TESTS.rglob("*.py")}
    # Those that undo a fault are called by the name that the fault gives.
    undoing = {name for path in ADAPTERS.rglob("*.py") for name in re.findall(r'action="(\w+\.\w+)"', path.read_text())}
    untested = [action.name for action in ACTIONS if action.name not in undoing and not _called(action.name, written)]
    excused = set(re.findall(r"\*\*`(\w+\.\w+)`\*\*", PAGE.read_text()))
    assert set(untested) <= excused


def _called(name: str, written: dict[str, str]) -> bool:
    """By its whole name, as in a runbook, or by its function in a test whose file is called after its adapter."""
    adapter, _, verb = name.partition(".")
    anywhere, there = re.compile(rf"\b{re.escape(name)}_?\b"), re.compile(rf"\b{verb}_?\(")
    return any(
        (anywhere.search(text) and path != "adapters/test_wrong_ends.py") or (adapter in path and there.search(text))
        for path, text in written.items()
    )


def test_every_adapter_is_on_the_page_of_adapters():
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert listed == {action.name.partition(".")[0] for action in ACTIONS}


def _imported(tree: ast.AST) -> set[str]:
    """The packages that a piece of code imports, of other distributions than this one and Python."""
    found = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in found} - {*sys.stdlib_module_names, "k2run", ""}


def clients() -> set[str]:
    """What adapters import inside of functions, and nothing of k2run imports before."""
    inside = set()
    for path in ADAPTERS.rglob("*.py"):
        functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTIONS))
        inside |= {name for function in functions for name in _imported(function)}
    return inside - ALWAYS


def test_describing_every_action_imports_no_client_library():
    assert {"confluent_kafka", "pyiceberg", "psycopg", "kubernetes", "pika", "nats"} <= clients()
    program = (
        "import sys; from k2run.actions.catalogue import Catalogue; Catalogue().names(); "
        f"print(*[name for name in {sorted(clients())!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

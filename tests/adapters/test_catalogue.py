"""Every action, of whichever adapter: described, tested, and its adapter on the page of adapters."""

from __future__ import annotations

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
CLIENTS = "psycopg fastavro websockets nbclient playwright boto3 confluent_kafka pyiceberg duckdb pyarrow docker httpx"


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_an_action_describes_itself_and_each_of_its_arguments(action):
    assert action.summary
    for argument in action.arguments.__struct_fields__:
        assert f"{argument}: " in action.doc


def test_every_action_is_called_by_a_test():
    written = "\n".join(path.read_text() for path in TESTS.rglob("*.py"))
    # Those that undo a fault are called by the name that the fault gives.
    undoing = {name for path in ADAPTERS.rglob("*.py") for name in re.findall(r'action="(\w+\.\w+)"', path.read_text())}
    untested = [action.name for action in ACTIONS if action.name not in undoing and not _called(action.name, written)]
    excused = set(re.findall(r"\*\*`(\w+\.\w+)`\*\*", PAGE.read_text()))
    assert set(untested) <= excused


def _called(name: str, written: str) -> bool:
    """By its name in a runbook, through its module, or imported from the module of its adapter."""
    verb = name.partition(".")[2]
    imported = rf"^from k2run\.(?:adapters|bench)\.\w+ import [^\n]*\b{verb}\b"
    called = rf"\b{re.escape(name)}\b|\b\w+\.{verb}_?\b"
    return re.search(called, written) is not None or re.search(imported, written, re.MULTILINE) is not None


def test_every_adapter_is_on_the_page_of_adapters():
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert listed == {action.name.partition(".")[0] for action in ACTIONS}


def test_describing_every_action_imports_no_client_library():
    program = (
        "import sys; from k2run.actions.catalogue import Catalogue; Catalogue().names(); "
        f"print(*[name for name in {CLIENTS.split()!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

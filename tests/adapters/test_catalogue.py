"""Every action, of whichever adapter: described, tested, and its adapter on the page of adapters."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from k2run.actions.catalogue import Catalogue

TESTS = Path(__file__).parents[1]
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
    verbs = {action.name: action.name.partition(".")[2] for action in ACTIONS}
    untested = [
        name
        for name, verb in verbs.items()
        if not re.search(rf"\.{verb}_?\(|\b{re.escape(name)}\b|\b(actions|\w+)\.{verb}\b", written)
    ]
    assert untested == []


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

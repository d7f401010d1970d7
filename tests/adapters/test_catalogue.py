"""Every action, of whichever adapter, is described and tested; a new adapter needs no other file to be edited."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from adapter_tests import is_undone_in_a_test

import k2run.adapters
from k2run.actions.catalogue import Catalogue
from k2run.authoring.generated import actions_page, adapter_rows, components_of, connection_rows
from k2run.language.schema import runbook_schema

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


def test_every_adapter_has_a_test_that_says_what_it_is_tested_on():
    assert components_of(TESTS).keys() == {action.name.partition(".")[0] for action in ACTIONS}


WEATHER = re.search(r"```python\n(.*?)```", (TESTS.parent / "CONTRIBUTING.md").read_text(), re.DOTALL)[1]
FLOOD = """

@action("weather.clear", effect=Effect.CHANGES)
def clear(weather: Weather) -> None:
    \"""Let the sun shine again.\"""


@fault("weather.storm", undone_by="weather.clear")
def storm(weather: Weather) -> Striking[None]:
    \"""Make a storm. Blast radius: the city.\"""
    yield Undo(action="weather.clear", args={}, says="clear the sky")
"""


@pytest.fixture
def weather(tmp_path, monkeypatch):
    """The adapter of CONTRIBUTING, with a fault, as one file that was dropped among the others."""
    imports = "from k2run.actions.action import Effect, Striking, Undo, fault\n"
    text = WEATHER.replace("from k2run.actions.connection", f"{imports}from k2run.actions.connection") + FLOOD
    dropped = tmp_path / "adapters"
    dropped.mkdir()
    (dropped / "weather.py").write_text(text)
    monkeypatch.setattr(k2run.adapters, "__path__", [*k2run.adapters.__path__, str(dropped)])
    yield Catalogue()
    sys.modules.pop("k2run.adapters.weather", None)
    vars(k2run.adapters).pop("weather", None)


def test_an_adapter_that_is_dropped_in_is_found_and_documented_and_what_is_untested_of_it_is_told(weather, tmp_path):
    """No other file is edited for it: pages, schema and the tests about tests ask the adapter itself."""
    assert "weather.temperature" in weather.names()
    assert "`result.degrees_c`" in actions_page(weather)
    assert "weather.temperature" in runbook_schema(weather)["$defs"]["step"]["properties"]
    assert ("`weather`", "Weather: an example adapter", "not tested") in adapter_rows(weather, TESTS)
    assert ("`weather`", "`url`: Address of the weather station") in connection_rows(weather)
    assert "weather.storm" in weather.faults()
    assert not is_undone_in_a_test("weather.storm", TESTS / "adapters")
    own = 'TESTED_ON = {"weather": "a station"}\ndef test_a_storm_is_undone(): undone(weather.storm(station))\n'
    (tmp_path / "test_weather.py").write_text(own)
    assert is_undone_in_a_test("weather.storm", tmp_path)
    assert ("`weather`", "Weather: an example adapter", "a station") in adapter_rows(weather, tmp_path)


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

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from k2run.stack.validation import stack_schema

ROOT = Path(__file__).parents[2]


def test_the_committed_schema_is_the_one_that_the_code_gives() -> None:
    committed = json.loads((ROOT / "schemas" / "stack.schema.json").read_text())
    assert committed == stack_schema(), "write it again: see schemas/"


@pytest.mark.parametrize("path", sorted((ROOT / "runbooks" / "stacks").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_stacks_that_ship_follow_the_schema(path: Path) -> None:
    jsonschema.Draft202012Validator(stack_schema()).validate(yaml.safe_load(path.read_text()))


def test_every_setting_is_described() -> None:
    service = stack_schema()["properties"]["services"]["additionalProperties"]["properties"]
    settings = {**service, **service["ready"]["properties"]}
    assert [name for name, schema in settings.items() if "description" not in schema] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"stack": 2},
        {"stack": 1, "servces": {}},
        {"stack": 1, "services": {"api": {"run": "proces"}}},
        {"stack": 1, "services": {"api": {"ports": ["eighty"]}}},
        {"stack": 1, "services": {"api": {"ready": {"tpc": "a:1"}}}},
    ],
)
def test_what_the_loader_refuses_is_wrong_by_the_schema_too(wrong: dict[str, object]) -> None:
    assert not jsonschema.Draft202012Validator(stack_schema()).is_valid(wrong)

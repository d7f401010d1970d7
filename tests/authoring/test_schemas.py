from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from k2run.authoring.generated import schemas

ROOT = Path(__file__).parent.parent.parent


def test_the_committed_schemas_are_what_the_code_says() -> None:
    committed = {path.name: path.read_text() for path in (ROOT / "schemas").glob("*.json")}
    assert committed == schemas(), "run `invoke schema` and commit what it writes"


@cache
def validator(kind: str) -> Draft202012Validator:
    schema = json.loads((ROOT / "schemas" / f"{kind}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.no_cover
@pytest.mark.parametrize("path", sorted((ROOT / "runbooks").rglob("*.yaml")), ids=lambda path: path.stem)
def test_what_ships_fits_the_schema_that_editors_use(path: Path) -> None:
    kind = "stack" if path.parent.name == "stacks" else "runbook"
    assert [error.message for error in validator(kind).iter_errors(yaml.safe_load(path.read_text()))] == []

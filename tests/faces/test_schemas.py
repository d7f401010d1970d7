from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from k2run.faces.schemas import schemas

ROOT = Path(__file__).parent.parent.parent


def test_the_committed_schemas_are_what_the_code_says() -> None:
    committed = {path.name: path.read_text() for path in (ROOT / "schemas").glob("*.json")}
    assert committed == schemas(), "run `invoke schema` and commit what it writes"


@pytest.mark.parametrize("path", sorted((ROOT / "runbooks").rglob("*.yaml")), ids=lambda path: path.stem)
def test_what_ships_fits_the_schema_that_editors_use(path: Path) -> None:
    import json

    kind = "stack" if path.parent.name == "stacks" else "runbook"
    schema = json.loads((ROOT / "schemas" / f"{kind}.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)

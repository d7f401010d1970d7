"""JSON Schemas that runbooks give: checked with the runbook, and every violation told with its JSON path."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.errors import RunbookInvalid
from k2run.language.json_schema import JsonSchema, WrongSchema
from k2run.language.loader import load_runbook

if TYPE_CHECKING:
    from pathlib import Path

RUNBOOK = """\
runbook: 1
kind: readiness
sections:
  - name: Only
    steps:
      - file.json:
          path: trade.json
          conforms_to: {given}
"""


def problems(folder: Path, given: object) -> list[str]:
    """What is wrong with a runbook that gives a schema, or the path of one."""
    file = folder / "runbook.yaml"
    file.write_text(RUNBOOK.format(given=json.dumps(given)))
    try:
        load_runbook(file, Catalogue())
    except RunbookInvalid as error:
        return [
            f"{problem.place.line}:{problem.place.column} {problem.code} {problem.message} ({problem.hint})"
            for problem in error.problems
        ]
    return []


@pytest.mark.parametrize(
    ("schema", "value", "violation"),
    [
        ({"type": "integer"}, "1", '$: is the text "1", not a whole number'),
        ({"type": ["integer", "null"]}, True, "$: is true, not a whole number or null"),
        ({"type": "integer"}, None, "$: is null, not a whole number"),
        ({"required": ["id"]}, {}, "$: lacks `id`"),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}, "$: has `b`, which the schema does not"),
        ({"enum": ["BUY", "SELL"]}, "HOLD", '$: is "HOLD", not one of "BUY", "SELL"'),
        ({"const": True}, 1, "$: is 1, not true"),
        ({"items": {"minimum": 0}}, [1, -1], "$[1]: is -1, less than 0"),
        ({"exclusiveMaximum": 5}, 5, "$: is 5, not less than 5"),
        ({"properties": {"o d": {"pattern": "^a"}}}, {"o d": "b"}, "$['o d']: is \"b\", which does not match ^a"),
        ({"format": "date-time"}, "2024-02-30T00:00:00Z", "which is not in the format date-time"),
        ({"minItems": 2}, [1], "$: has 1 item, fewer than 2"),
        ({"uniqueItems": True}, [1, 1], "$: has an item twice"),
        ({"anyOf": [{"type": "null"}, {"required": ["q"], "type": "object"}]}, {}, "$: is none of 2 possible forms"),
        ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 3, "$: fits more than one of 2 forms"),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"maximum": 1}}}, 2, "$: is 2, more than 1"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": ["b"]}}, {"a": 1}, "$: "),
    ],
)
def test_a_violation_says_where_and_what_in_words(schema, value, violation):
    (said,) = JsonSchema.parse(schema).violations(value)
    assert violation in said


def test_every_violation_is_told_in_the_order_of_the_document():
    schema = JsonSchema.parse({"properties": {"a": {"type": "string"}, "b": {"items": {"type": "string"}}}})
    assert [said.split(":")[0] for said in schema.violations({"b": [1, "x", 2], "a": 3})] == ["$.a", "$.b[0]", "$.b[2]"]
    assert schema.violations({"a": "x", "b": []}) == []


@pytest.mark.parametrize(
    ("schema", "path", "said"),
    [
        ({"type": "strin"}, ("type",), '"strin"'),
        ({"properties": {"a": {"minimum": "x"}}}, ("properties", "a", "minimum"), "not a number"),
        ({"pattern": "("}, ("pattern",), "regex"),
        ({"$schema": "http://nowhere.example/x"}, ("$schema",), "unknown dialect"),
        ({"$ref": "#/$defs/absent"}, (), "leads nowhere"),
        ({"items": {"$ref": "http://nowhere.example/x"}}, (), "leads nowhere"),
        ({"format": "iri"}, (), "'iri' cannot be checked"),
        ({"requird": ["id"]}, (), "unknown keyword of JSON Schema: `requird`"),
    ],
)
def test_a_schema_that_is_wrong_or_would_check_nothing_is_refused(schema, path, said):
    with pytest.raises(WrongSchema) as caught:
        JsonSchema.parse(schema)
    assert caught.value.path == path
    assert said in str(caught.value)


def test_a_property_may_be_called_like_a_keyword():
    schema = JsonSchema.parse({"properties": {"$ref": {"type": "string"}, "format": {"type": "integer"}}, "x-ours": 1})
    assert schema.violations({"$ref": 1, "format": 1}) == ["$['$ref']: is the number 1, not a text"]


def test_a_schema_in_the_runbook_is_checked_with_it(tmp_path):
    assert problems(tmp_path, {"type": "object"}) == []
    (said,) = problems(tmp_path, {"properties": {"id": {"type": "strin"}}})
    assert said.startswith("8:55 K304")  # the word that is wrong
    assert problems(tmp_path, 5)[0].startswith("8:24 K304 a JSON Schema is a mapping")


def test_a_schema_in_a_file_is_taken_from_the_folder_of_the_runbook_and_checked_with_it(tmp_path):
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "trade.json").write_text('{"type": "object"}')
    (tmp_path / "schemas" / "trade.yaml").write_text("type: object\nrequired: [id]\n")
    assert problems(tmp_path, "schemas/trade.json") == problems(tmp_path, "schemas/trade.yaml") == []
    assert "K501 there is no file schemas/absent.json" in problems(tmp_path, "schemas/absent.json")[0]
    (tmp_path / "wrong.json").write_text('{"properties": {"id": {"type": "strin"}}}')
    assert "properties/id/type" in problems(tmp_path, "wrong.json")[0]
    (tmp_path / "broken.json").write_text("{")
    assert "is not JSON" in problems(tmp_path, "broken.json")[0]
    (tmp_path / "list.yaml").write_text("- a\n")
    assert "not a mapping" in problems(tmp_path, "list.yaml")[0]


def test_a_runbook_without_a_schema_does_not_import_the_library(tmp_path):
    (tmp_path / "runbook.yaml").write_text(RUNBOOK.replace("          conforms_to: {given}\n", ""))
    program = (
        "import sys; from pathlib import Path; from k2run.actions.catalogue import Catalogue; "
        "from k2run.language.loader import load_runbook; "
        f"load_runbook(Path({str(tmp_path / 'runbook.yaml')!r}), Catalogue()); print('jsonschema' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

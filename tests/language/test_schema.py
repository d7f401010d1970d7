"""The JSON Schema says the same of a runbook as the loader, as far as a schema can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from k2run.actions.catalogue import Catalogue
from k2run.language.schema import described_arguments, runbook_schema

if TYPE_CHECKING:
    from conftest import Vocabulary

ROOT = Path(__file__).parents[2]
STEP = {"runbook": 1, "kind": "readiness", "sections": [{"steps": [{"wait": {"for": "1s"}}]}]}


@pytest.fixture(scope="module")
def schema(vocabulary: Vocabulary) -> Draft202012Validator:
    made = runbook_schema(vocabulary)
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


def with_step(**step: Any) -> dict[str, Any]:
    return {**STEP, "sections": [{"steps": [step]}]}


@pytest.mark.parametrize(
    "runbook",
    [
        STEP,
        with_step(**{"kafka.lag": {"topic": "a", "group": "{{ b }}", "window": "5s"}, "expect": ["result.total == 0"]}),
        with_step(
            **{"http.get": {"status": "{{ wanted }}"}, "when": True, "points": {"award": ["5 when result.ok", 0]}}
        ),
        with_step(**{"http.get": None}),
        with_step(**{"other.action": {"anything": 1}}),
        with_step(
            block=[{"set": {"a": 1}}], rescue=[{"assert": {"that": "a"}}], always=[{"run": {"runbook": "b.yaml"}}]
        ),
        {**STEP, "inputs": {"a": {"type": "duration", "default": "5s"}}, "objective": {"rto": "1m30s", "rpo": 0}},
        {**STEP, "score": {"categories": {"A": 5, "B": {"title": "B", "points": 3}}, "bands": [], "go": 95}},
    ],
)
def test_a_right_runbook_fits_the_schema(schema: Draft202012Validator, runbook: dict[str, Any]) -> None:
    assert [error.message for error in schema.iter_errors(runbook)] == []


@pytest.mark.parametrize(
    "runbook",
    [
        {**STEP, "kind": "rehersal"},
        {**STEP, "runbook": 2},
        {**STEP, "steps": []},
        {**STEP, "objective": {"rto": "90"}},
        {**STEP, "inputs": {"a-b": {}}},
        with_step(**{"kafka.lag": {"topic": "a"}}),
        with_step(**{"kafka.lag": {"topic": "a", "group": "b", "grup": "c"}}),
        with_step(**{"kafka.lagg": {"topic": "a", "group": "b"}}),
        with_step(**{"http.get": {"method": "PSOT"}}),
        with_step(**{"http.get": {"status": "ok"}}),
        with_step(wait={"for": "1s"}, severity="high"),
        with_step(wait={"for": "1s"}, within="5"),
        with_step(wait={"for": 5}),
        with_step(set={}),
    ],
)
def test_a_wrong_runbook_does_not_fit_the_schema(schema: Draft202012Validator, runbook: dict[str, Any]) -> None:
    assert list(schema.iter_errors(runbook))


def test_the_committed_schema_is_current() -> None:
    committed = json.loads((ROOT / "schemas" / "runbook.schema.json").read_text(encoding="utf-8"))
    assert committed == json.loads(json.dumps(runbook_schema(Catalogue()))), "run `invoke schema`"


def test_arguments_are_described_by_the_docstring() -> None:
    doc = "Count.\n\nArgs:\n    topic: Name of the\n        topic.\n    group: The group.\n\nRaises:\n    No: No.\n"
    assert described_arguments(doc) == {"topic": "Name of the topic.", "group": "The group."}

"""Write the JSON Schemas under `schemas/`, made from the code: runbooks, stack files, and what `--json` prints."""

from __future__ import annotations

import json
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from k2run.actions.catalogue import Catalogue
from k2run.app.runbook_list import Listed
from k2run.app.stack_status import StackStatus
from k2run.engine.events import AnyEvent
from k2run.evidence.history import PastRun
from k2run.language.schema import described_arguments, runbook_schema
from k2run.recovery.diagnosis import Diagnosis
from k2run.stack.validation import stack_schema

OUTPUTS: dict[str, tuple[str, Any]] = {
    "diagnose": ("k2run diagnose --json", Diagnosis),
    "events": ("one line of journal.jsonl and of k2run run --json", AnyEvent),
    "history": ("k2run history --json", list[PastRun]),
    "list": ("k2run list --json", list[Listed]),
    "status": ("k2run status --json", StackStatus),
}
"""What is printed as JSON: the command, and the type."""


def schemas() -> dict[str, str]:
    """The text of each schema file, by its name."""
    made = {"runbook.schema.json": runbook_schema(Catalogue()), "stack.schema.json": stack_schema()}
    made |= {f"output-{name}.schema.json": output_schema(*output) for name, output in OUTPUTS.items()}
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in made.items()}


def output_schema(title: str, kind: Any) -> dict[str, Any]:
    """The schema of an output; fields may be added in later versions, so unknown ones are allowed.

    Args:
        title: Which command prints it.
        kind: The type that is encoded.
    """
    made = msgspec.json.schema(kind)
    for definition in made.get("$defs", {}).values():
        _describe(definition)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **made}


def _describe(definition: dict[str, Any]) -> None:
    """Move what a docstring says of each field to the field."""
    doc = cleandoc(definition.get("description", ""))
    for name, words in described_arguments(doc.replace("Attributes:\n", "Args:\n")).items():
        if name in definition.get("properties", {}):
            definition["properties"][name].setdefault("description", words)
    if doc:
        definition["description"] = " ".join(doc.partition("\nAttributes:")[0].split())


def main() -> None:
    """Write them into `schemas/` of the working directory."""
    for name, text in schemas().items():
        path = Path("schemas") / name
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()

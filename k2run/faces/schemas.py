"""Writes the JSON Schemas of runbooks and stack files, made from the code, under `schemas/`."""

from __future__ import annotations

import json
from pathlib import Path

from k2run.actions.catalogue import Catalogue
from k2run.language.schema import runbook_schema
from k2run.stack.schema import stack_schema


def schemas() -> dict[str, str]:
    """The text of each schema file, by its name."""
    made = {"runbook.schema.json": runbook_schema(Catalogue()), "stack.schema.json": stack_schema()}
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in made.items()}


def main() -> None:
    """Write them into `schemas/` of the working directory."""
    for name, text in schemas().items():
        path = Path("schemas") / name
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()

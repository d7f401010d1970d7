"""The JSON Schema of a stack file, made from the types that read it."""

from __future__ import annotations

import re
from enum import Enum
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from msgspec import Struct

from k2run.language.quantities import Duration
from k2run.stack.form import NAME, VERSION
from k2run.stack.model import Service

TEMPLATE = {"type": "string", "pattern": r"\{\{"}
"""A value that is still to be filled in may stand wherever another kind of value is wanted."""

_ATTRIBUTE = re.compile(r"^ {8}(?P<name>\w+): (?P<words>.+)$", re.MULTILINE)


def stack_schema() -> dict[str, Any]:
    """What editors check and complete a stack file with."""
    service = _struct(Service, leave_out="name")
    for key in ("command", "env", "headers"):  # numbers are taken as text there
        where = "items" if key == "command" else "additionalProperties"
        service["properties"][key][where] = {"type": ["string", "number", "boolean"]}
    text, mapping = {"type": "string"}, {"type": "object"}
    name = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "k2run stack",
        "description": "Where the services of one environment are, and how they are run.",
        "type": "object",
        "required": ["stack"],
        "additionalProperties": False,
        "properties": {
            "stack": {"const": VERSION, "description": "Version of the stack file."},
            "name": {**name, "description": "Name of the stack; the file's name when missing."},
            "title": {**text, "description": "What people call it."},
            "protected": {"type": "boolean", "description": "Refuse faults and destructive actions."},
            "allow": {"type": "array", "items": text, "description": "Runbooks that may break it all the same."},
            "compose": {**text, "description": "Compose file that makes the containers, from this file's folder."},
            "vars": {
                **mapping,
                "propertyNames": {"pattern": r"^[^\W\d]\w*$"},
                "description": "Names for `{{ }}` in this file; `-e NAME=VALUE` wins over them.",
            },
            "connections": {
                **mapping,
                "additionalProperties": mapping,
                "description": "Settings by which actions reach each system, such as `kafka: {bootstrap: HOST:PORT}`.",
            },
            "services": {
                **mapping,
                "propertyNames": {"pattern": f"^{NAME.pattern}$"},
                "additionalProperties": service,
                "description": "The parts of the stack that can be looked at and broken.",
            },
        },
    }


def _struct(kind: type[Struct], leave_out: str = "") -> dict[str, Any]:
    """The schema of a struct, with the descriptions of its docstring."""
    told = {line["name"]: line["words"] for line in _ATTRIBUTE.finditer(kind.__doc__ or "")}
    hints = get_type_hints(kind)
    properties = {
        name: {**_value(hints[name]), **({"description": told[name]} if name in told else {})}
        for name in kind.__struct_fields__
        if name != leave_out
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _value(kind: Any) -> dict[str, Any]:
    """The schema of a field; whatever is no text may still be a template that becomes it."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is list:
        return {"type": "array", "items": _value(inside[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _value(inside[1])}
    if origin is UnionType:
        return _value(inside[0])
    if kind is not Any and issubclass(kind, Struct):
        return _struct(kind)
    return _scalar(kind)


def _scalar(kind: Any) -> dict[str, Any]:
    if kind is Any:
        return {}
    if issubclass(kind, Duration):
        return {"type": "string", "examples": [Duration.example]}
    if issubclass(kind, Enum):
        return {"enum": [member.value for member in kind]}
    return {"type": "string"} if kind is str else {"anyOf": [{"type": "integer"}, TEMPLATE]}

"""What a subject may become: whether a text is an Avro schema, and whether it may follow those that are there.

Both are the words of Apache's own library: its parser, and its check of a reader's schema against a writer's.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.errors import AvroException
from avro.name import Names
from avro.schema import make_avsc_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avro.schema import Schema

LEVELS = ("NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")
MODES = ("READWRITE", "READONLY", "READONLY_OVERRIDE", "IMPORT")

_SAYS = {
    "reader_field_missing_default_value": "the field {what!r} at path {where!r} in the {reader} schema has no default "
    "value and is missing in the {writer} schema",
    "missing_union_branch": "a type inside a union at path {where!r} in the {writer} schema is not in the {reader} "
    "schema: {what}",
    "missing_enum_symbols": "the {reader} schema lacks enum symbols at path {where!r} that the {writer} schema has: "
    "{what}",
    "name_mismatch": "the names of the schemas do not match at path {where!r}: {what}",
    "fixed_size_mismatch": "the sizes do not match at path {where!r}: {what}",
    "type_mismatch": "the types do not match at path {where!r}: {what}",
}


class NotAvroError(Exception):
    """A text is no Avro schema."""


def parse(text: str, referenced: Sequence[str] = ()) -> Schema:
    """Read a schema.

    Args:
        text: JSON, or the bare name of a primitive type.
        referenced: The schemas whose named types it may use.

    Raises:
        NotAvroError: It is none; the message says why.
    """
    try:
        names = Names(validate_names=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown logical type is the type below it, says the specification
            for one in referenced:
                make_avsc_object(json.loads(one), names)
            found = make_avsc_object(json.loads(text), names)
    except (AvroException, ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise NotAvroError(f"{type(problem).__name__}: {problem}") from problem
    _refuse_wrong_defaults(found)
    return found


def objections(level: str, new: Schema, older: Sequence[Schema]) -> list[str]:
    """Why a schema must not follow others by a level; empty when it may.

    Args:
        level: One of LEVELS.
        new: The schema to come.
        older: Those that are there, oldest first; only the transitive levels look beyond the newest.
    """
    if level == "NONE" or not older:
        return []
    compared = older if level.endswith("_TRANSITIVE") else older[-1:]
    rule = level.removesuffix("_TRANSITIVE")
    found: dict[str, None] = {}
    for old in compared:
        if rule in {"BACKWARD", "FULL"}:
            found.update(dict.fromkeys(_objections(new, old, "new", "old")))
        if rule in {"FORWARD", "FULL"}:
            found.update(dict.fromkeys(_objections(old, new, "old", "new")))
    return list(found)


def _objections(reader: Schema, writer: Schema, reads: str, writes: str) -> list[str]:
    judged = ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)  # type: ignore[no-untyped-call]
    if judged.compatibility is not SchemaCompatibilityType.incompatible:
        return []
    kinds = list(dict.fromkeys(kind.value for kind in judged.incompatibilities))
    where = ", ".join(sorted(judged.locations))
    what = "; ".join(sorted(judged.messages))
    if len(kinds) == 1:
        shown = what if kinds != ["reader_field_missing_default_value"] else ", ".join(sorted(judged.messages))
        return [_SAYS[kinds[0]].format(what=shown, where=where, reader=reads, writer=writes)]
    return [f"{' and '.join(kinds)} at {where} between the {reads} schema as reader and the {writes} one: {what}"]


_DEFAULTS: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "int": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "bytes": (str,),
    "string": (str,),
    "enum": (str,),
    "fixed": (str,),
    "array": (list,),
    "map": (dict,),
    "record": (dict,),
}


def _refuse_wrong_defaults(schema: Any, seen: frozenset[int] = frozenset()) -> None:
    """Apache's parser in Java refuses a default that is not of its field's type; the one in Python lets it pass."""
    if id(schema) in seen:
        return
    seen = seen | {id(schema)}
    if schema.type == "record":
        for field in schema.fields:
            if field.has_default and not _may_be_default(field.type, field.default):
                raise NotAvroError(
                    f"Invalid default for field {field.name}: {json.dumps(field.default)} not a {field.type}"
                )
            _refuse_wrong_defaults(field.type, seen)
    for part in (getattr(schema, "items", None), getattr(schema, "values", None), *getattr(schema, "schemas", ())):
        if part is not None and not callable(part):
            _refuse_wrong_defaults(part, seen)


def _may_be_default(schema: Any, value: object) -> bool:
    """Whether a value is a default of a type; that of a union is one of any branch, as Avro 1.12 says."""
    if schema.type == "union":
        return any(_may_be_default(branch, value) for branch in schema.schemas)
    if isinstance(value, bool) and schema.type != "boolean":
        return False
    return isinstance(value, _DEFAULTS.get(schema.type, (object,)))

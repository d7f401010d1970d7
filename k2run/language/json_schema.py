"""JSON Schemas that a runbook gives, inline or as a file, and what a value violates, in words.

A schema is checked when the runbook is read: one that is wrong would let everything through, or nothing. Nothing is
ever fetched; a `$ref` leads into the schema itself or to a dialect of JSON Schema.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.language.problems import did_you_mean, of_value
from k2run.language.quantities import Misread, Notation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jsonschema import FormatChecker, ValidationError
    from jsonschema.protocols import Validator
    from referencing import Resource

MOST = 1000
"""Violations that are looked for in one value."""
LARGEST = 4 * 2**20
"""Bytes of a file with a schema."""
_SHOWN = 60
_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}
_NOTES = frozenset({"int32", "int64", "float", "double", "byte", "binary", "password"})
"""Formats of OpenAPI that say how a value is stored, which no value can violate."""
_NOTED = (
    *("$schema", "$id", "$anchor", "$dynamicAnchor", "$vocabulary", "$comment", "$defs", "definitions", "title"),
    *(
        "description",
        "default",
        "deprecated",
        "readOnly",
        "writeOnly",
        "examples",
        "example",
        "nullable",
        "then",
        "else",
    ),
    *("minContains", "maxContains", "contentEncoding", "contentMediaType", "contentSchema"),
)
"""Keywords that check nothing by themselves."""
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class WrongSchema(Misread):
    """What is given is no JSON Schema; `path` is where inside it."""

    def __init__(self, message: str, *, path: tuple[str | int, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path


class JsonSchema(Notation):
    """A JSON Schema, checked; without `$schema` of draft 2020-12.

    Raises:
        WrongSchema: It is none, or asks for what cannot be checked.
    """

    example = "order.schema.json"
    says = "a JSON Schema, or the path of a file with one"
    pattern = r"\.(json|ya?ml)$"

    def __init__(self, written: dict[str, Any]) -> None:
        self._validator = _validator(written)

    @classmethod
    def parse(cls, value: Any) -> JsonSchema:
        """A schema that is written in the runbook; the runbook's reader has put it in the place of a file's path."""
        if not isinstance(value, dict):
            hint = "the path of a schema is checked before anything is done, so it must be known then"
            raise WrongSchema("a JSON Schema is a mapping", hint=hint if isinstance(value, str) else "")
        return _known(cls, msgspec.json.encode(value))

    def violations(self, value: Any) -> list[str]:
        """What a value violates, each with its JSON path: `$.price: is -1, less than 0`."""
        errors = islice(self._validator.iter_errors(value), MOST)
        return [f"{error.json_path}: {_says(error)}" for error in sorted(errors, key=_position)]


@lru_cache(maxsize=64)
def _known(kind: type[JsonSchema], written: bytes) -> JsonSchema:
    """A schema is checked once, however often its step runs."""
    return kind(msgspec.json.decode(written))


def read_schema_file(file: Path) -> dict[str, Any]:
    """The schema in a JSON or YAML file.

    Raises:
        WrongSchema: It cannot be read, or is none.
    """
    try:
        if file.stat().st_size > LARGEST:
            raise WrongSchema(f"{file} is larger than {LARGEST >> 20} MiB")
        written = _read(file)
    except OSError as error:
        raise WrongSchema(f"{file} cannot be read: {error.strerror}") from error
    if not isinstance(written, dict):
        raise WrongSchema(f"{file} is no JSON Schema: it is {of_value(written)}, not a mapping")
    try:
        _validator(written)
    except WrongSchema as wrong:
        raise WrongSchema(f"{file} is no JSON Schema: {_at(wrong.path)}{wrong}", hint=wrong.hint) from wrong
    return written


def _read(file: Path) -> Any:
    if file.suffix == ".json":
        try:
            return msgspec.json.decode(file.read_bytes())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WrongSchema(f"{file} is not JSON: {error}") from error
    from k2run.errors import RunbookInvalid
    from k2run.language.document import read_file

    try:
        document = read_file(file)
    except RunbookInvalid as error:
        raise WrongSchema(f"{file} is not YAML: {error.problems[0]}") from error
    return document.data


def _at(path: tuple[str | int, ...]) -> str:
    return f"{'/'.join(map(str, path))}: " if path else ""


def _validator(schema: dict[str, Any]) -> Validator:
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
    from referencing import Resource
    from referencing.jsonschema import DRAFT202012

    dialect = schema.get("$schema")
    unknown: Any = None
    kind: Any = Draft202012Validator if dialect is None else validator_for({"$schema": dialect}, default=unknown)
    if kind is None:
        hint = f"leave it out, or write {Draft202012Validator.META_SCHEMA['$id']}"
        raise WrongSchema(f"unknown dialect of JSON Schema: {dialect}", path=("$schema",), hint=hint)
    try:
        kind.check_schema(schema, format_checker=kind.FORMAT_CHECKER)
    except SchemaError as error:
        raise WrongSchema(_says(error), path=tuple(error.path)) from error
    formats = _formats(kind.FORMAT_CHECKER)
    resource: Resource[Any] = Resource.from_contents(schema, default_specification=DRAFT202012)
    registry = REGISTRY.with_resource("", resource)
    _check_parts(resource, registry.resolver_with_root(resource), formats, {*kind.VALIDATORS, *_NOTED})
    made: Validator = kind(schema, registry=registry, format_checker=formats)
    return made


def _check_parts(part: Resource[Any], resolver: Any, formats: FormatChecker, known: set[str]) -> None:
    """Every `$ref` leads somewhere, every `format` can be checked, and no keyword is mistyped."""
    from referencing.exceptions import Unresolvable

    written = part.contents if isinstance(part.contents, dict) else {}
    for key in written:
        if key not in known and (hint := did_you_mean(key, known)):
            raise WrongSchema(f"unknown keyword of JSON Schema: `{key}`", hint=hint)
    for key in ("$ref", "$dynamicRef"):
        if key in written:
            try:
                resolver.lookup(written[key])
            except Unresolvable as error:
                hint = "put what it means under `$defs`: a $ref leads into the schema itself, and nothing is fetched"
                raise WrongSchema(f"`{key}: {written[key]}` leads nowhere", hint=hint) from error
    name = written.get("format")
    if name is not None and name not in {*formats.checkers, *_NOTES}:
        raise WrongSchema(f"the format {name!r} cannot be checked", hint="write a `pattern` instead")
    for inner in part.subresources():
        _check_parts(inner, resolver.in_subresource(inner), formats, known)


def _formats(known: FormatChecker) -> FormatChecker:
    """What the library checks on its own, and moments, which it leaves to another library."""
    from jsonschema import FormatChecker

    checker = FormatChecker(formats=())
    checker.checkers = {**known.checkers}
    checker.checks("date-time", ValueError)(_is_moment)
    return checker


def _is_moment(value: object) -> bool:
    """RFC 3339, section 5.6."""
    if not isinstance(value, str):
        return True
    return bool(_MOMENT.fullmatch(value)) and datetime.fromisoformat(value.upper()) is not None


def _position(error: ValidationError) -> list[tuple[bool, str | int]]:
    return [(isinstance(part, str), part) for part in error.absolute_path]


def _says(error: ValidationError | Any) -> str:
    """What is wrong, about the value at the error's path."""
    say = _WORDS.get(str(error.validator))
    return say(error.instance, error.validator_value, error) if say is not None else str(error.message)


def _json(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _listed(values: Any) -> str:
    return ", ".join(map(_json, values))


def _type(value: Any, wanted: Any, _: Any) -> str:
    kinds = [wanted] if isinstance(wanted, str) else wanted
    return f"is {of_value(value) if value is not None else 'null'}, not {' or '.join(_TYPES.get(k, k) for k in kinds)}"


def _required(value: Any, wanted: Any, error: Any) -> str:
    name = next((name for name in wanted if name not in value and repr(name) in error.message), "")
    return f"lacks `{name}`"


def _additional(value: Any, _: Any, error: Any) -> str:
    schema = error.schema
    allowed = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    names = [name for name in value if name not in allowed and not any(re.search(each, name) for each in patterns)]
    return f"has {', '.join(f'`{name}`' for name in names)}, which the schema does not allow"


def _choice(_: Any, wanted: Any, error: Any) -> str:
    """Of `anyOf` and `oneOf`: the form that comes nearest is told."""
    from jsonschema.exceptions import best_match

    nearest = best_match(error.context or ())
    if nearest is None:
        return f"fits more than one of {len(wanted)} forms that exclude each other"
    inner = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in nearest.path)
    return f"is none of {len(wanted)} possible forms; of the nearest, {inner or 'it'} {_says(nearest)}"


def _count(what: str, word: str) -> Callable[[Any, Any, Any], str]:
    def say(value: Any, wanted: Any, _: Any) -> str:
        named = {"items": "item", "entries": "entry", "characters": "character"}[what] if len(value) == 1 else what
        return f"has {len(value):,} {named}, {word} than {wanted:,}"

    return say


_WORDS: dict[str, Callable[[Any, Any, Any], str]] = {
    "type": _type,
    "required": _required,
    "additionalProperties": _additional,
    "unevaluatedProperties": lambda _value, _wanted, error: str(error.message),
    "enum": lambda value, wanted, _: f"is {_json(value)}, not one of {_listed(wanted)}",
    "const": lambda value, wanted, _: f"is {_json(value)}, not {_json(wanted)}",
    "minimum": lambda value, wanted, _: f"is {_json(value)}, less than {wanted}",
    "maximum": lambda value, wanted, _: f"is {_json(value)}, more than {wanted}",
    "exclusiveMinimum": lambda value, wanted, _: f"is {_json(value)}, not more than {wanted}",
    "exclusiveMaximum": lambda value, wanted, _: f"is {_json(value)}, not less than {wanted}",
    "multipleOf": lambda value, wanted, _: f"is {_json(value)}, not a multiple of {wanted}",
    "pattern": lambda value, wanted, _: f"is {_json(value)}, which does not match {wanted}",
    "format": lambda value, wanted, _: f"is {_json(value)}, which is not in the format {wanted}",
    "minLength": _count("characters", "fewer"),
    "maxLength": _count("characters", "more"),
    "minItems": _count("items", "fewer"),
    "maxItems": _count("items", "more"),
    "minProperties": _count("entries", "fewer"),
    "maxProperties": _count("entries", "more"),
    "uniqueItems": lambda _value, _wanted, _error: "has an item twice",
    "contains": lambda _value, _wanted, _error: "has no such item as the schema asks for",
    "not": lambda value, _wanted, _error: f"is {_json(value)}, which the schema forbids",
    "anyOf": _choice,
    "oneOf": _choice,
}

"""Reads the arguments of a step's action: names, presence and types, against the action's own signature."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from k2run.language.json_schema import JsonSchema, WrongSchema, read_schema_file
from k2run.language.problems import did_you_mean, of_type, of_value
from k2run.language.quantities import QUANTITIES, Duration, Misread, Notation, decode_quantity, encode_quantity
from k2run.language.vocabulary import ASSERT, SET, WAIT

if TYPE_CHECKING:
    from k2run.language.document import Trail
    from k2run.language.reading import Reading
    from k2run.language.vocabulary import ActionForm, Scope

_AT = re.compile(r"(.*?)(?: - at `\$(.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def read_arguments(reading: Reading, form: ActionForm, value: Any, path: Trail, scope: Scope) -> dict[str, Any]:
    """The arguments as the engine takes them: literal values checked, texts with `{{ }}` as templates.

    Args:
        reading: Where problems go.
        form: The action.
        value: What stands below its name; nothing means no arguments.
        path: Where that stands.
        scope: The names that templates may use.
    """
    written = {} if value is None else value
    if not isinstance(written, dict):
        _not_a_mapping(reading, form, value, path)
        return {}
    if form.name == SET.name:
        return _read_set(reading, written, path, scope)
    if form.name == ASSERT.name:
        return _read_assert(reading, written, path, scope)
    kinds = argument_types(form.arguments)
    schemas = _schemas(reading, kinds, written, path)
    rest = {name: item for name, item in written.items() if name not in schemas} if schemas else written
    args: dict[str, Any] = reading.rendered(rest, path, scope)
    literal = args is rest
    if schemas:
        args = {**args, **schemas}
    if literal and _fits(args, form.arguments):
        return {"for": Duration.parse(args["for"])} if form.name == WAIT.name else args
    _check_names(reading, form, args, path, kinds)
    for name, item in args.items():
        noted = _notation(kinds[name].type) if name in kinds else None
        if noted is not None and isinstance(written[name], list):
            _check_notes(reading, noted, written[name], (*path, name))
        elif name in kinds and item is written[name] and not _is_schema(kinds[name].type):
            _check_value(reading, kinds[name].type, item, written[name], (*path, name))
    if form.name == WAIT.name and isinstance(args.get("for"), str):
        args = {"for": Duration(0)}  # a problem already
    return args


class Argument(Struct, frozen=True):
    """One argument of an action."""

    type: Any
    required: bool


@lru_cache(maxsize=1024)
def argument_types(arguments: type[Struct]) -> dict[str, Argument]:
    """The arguments of an action by the names a runbook writes."""
    from msgspec.structs import fields

    return {field.encode_name: Argument(field.type, field.required) for field in fields(arguments)}


def as_declared(arguments: type[Struct], args: dict[str, Any]) -> dict[str, Any]:
    """Computed arguments in the form that their types ask for.

    Where a text is asked for, a number, a truth value or a quantity is the text that it would be inside of one; where
    a plain number is asked for, a quantity is that number in base units.
    """
    kinds = argument_types(arguments)
    return {name: _declared(kinds[name].type, value) if name in kinds else value for name, value in args.items()}


def _declared(kind: Any, value: Any) -> Any:
    if isinstance(value, str) or value is None:
        return value
    members = _members(kind)
    if isinstance(value, list | dict):
        return _each_declared(members, value)
    if not isinstance(value, int | float) or type(value) in members or object in members:
        return value
    if isinstance(value, QUANTITIES):
        value = encode_quantity(value) if {int, float} & members.keys() else value
    return value if {int, float} & members.keys() or str not in members else _text(value)


def _each_declared(members: dict[Any, Any], value: list[Any] | dict[Any, Any]) -> Any:
    kind = members.get(type(value))
    if kind is None or not get_args(kind):
        return value
    inner = get_args(kind)[-1]
    if isinstance(value, list):
        return [_declared(inner, item) for item in value]
    return {key: _declared(inner, item) for key, item in value.items()}


@lru_cache(maxsize=1024)
def _members(kind: Any) -> dict[Any, Any]:
    """The types that a value may have, each with its arguments: `str | list[str]` is `{str: str, list: list[str]}`."""
    parts = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    return {get_origin(part) or (object if part is Any else part): part for part in parts}


def _text(value: Any) -> str:
    from k2run.language.filters import as_text

    return as_text(value)


def _fits(args: dict[str, Any], kind: Any) -> bool:
    try:
        msgspec.convert(args, kind, dec_hook=decode_quantity)
    except (msgspec.ValidationError, ValueError, TypeError):
        return False
    return True


def _check_names(
    reading: Reading, form: ActionForm, args: dict[str, Any], path: Trail, kinds: dict[str, Argument]
) -> None:
    for name in args:
        if name not in kinds:
            hint = did_you_mean(str(name), kinds)
            expected = "" if hint else f"one of {', '.join(kinds)}" if kinds else "no arguments"
            message = f"{form.name} has no argument `{name}`"
            reading.problem("K302", message, (*path, name), key=True, hint=hint, expected=expected)
    for name, kind in kinds.items():
        if kind.required and name not in args:
            message = f"{form.name} needs the argument `{name}`"
            reading.problem("K303", message, path, key=True, expected=of_type(kind.type))


def _notation(kind: Any) -> type[Notation] | None:
    """The notation of a list of texts that have one."""
    part = get_args(kind)[0] if get_origin(kind) is list else None
    return part if isinstance(part, type) and issubclass(part, Notation) else None


def _check_notes(reading: Reading, kind: type[Notation], written: list[Any], path: Trail) -> None:
    """Every text of the list on its own, so that each problem is told, at its column; computed ones wait."""
    for number, item in enumerate(written):
        if not (isinstance(item, str) and "{{" in item):
            _check_note(reading, kind, item, (*path, number))


def _check_note(reading: Reading, kind: type[Notation], item: Any, path: Trail) -> None:
    """Tell what is wrong with a text in a notation, in the words of the notation."""
    try:
        kind.parse(item)
    except Misread as wrong:
        where = {"at": wrong.at, "length": wrong.length} if wrong.length else {}
        expected = "" if wrong.hint else kind.says
        reading.problem("K304", str(wrong), path, hint=wrong.hint, expected=expected, **where)


def _is_schema(kind: Any) -> bool:
    return JsonSchema in _members(kind)


def _schemas(
    reading: Reading, kinds: dict[str, Argument], written: dict[str, Any], path: Trail
) -> dict[str, dict[str, Any]]:
    """The JSON Schemas among the arguments, read from their files and checked; computed ones wait."""
    return {
        name: _schema(reading, written[name], (*path, name))
        for name, kind in kinds.items()
        if name in written and _is_schema(kind.type) and not _is_computed(written[name])
    }


def _schema(reading: Reading, value: Any, path: Trail) -> dict[str, Any]:
    try:
        if not isinstance(value, str):
            JsonSchema.parse(value)
            return dict(value)
        home = reading.home or Path.cwd()
        file = next((file for file in (home / value, Path(value)) if file.is_file()), None)
        if file is not None:
            return read_schema_file(file)
        reading.problem("K501", f"there is no file {value}", path, hint=f"the path is taken from {home}")
    except WrongSchema as wrong:
        expected = "" if wrong.hint else JsonSchema.says
        reading.problem("K304", str(wrong), (*path, *wrong.path), hint=wrong.hint, expected=expected)
    return {}


def _is_computed(value: Any) -> bool:
    """Whether a part of a value is a template."""
    if isinstance(value, dict):
        return any(map(_is_computed, value.values()))
    return any(map(_is_computed, value)) if isinstance(value, list) else isinstance(value, str) and "{{" in value


def _check_value(reading: Reading, kind: Any, value: Any, written: Any, path: Trail) -> None:
    try:
        msgspec.convert(value, kind, dec_hook=decode_quantity)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        said, inner = _split(str(error))
        noted = [part for part in _members(kind) if isinstance(part, type) and issubclass(part, Notation)]
        if noted and isinstance(value, str):
            _check_note(reading, noted[0], value, path)
            return
        deeper = (*path, *inner)
        found = _value_at(written, inner)
        expected = of_type(kind) if not inner else ""
        message = f"`{path[-1]}` does not fit" if not inner else f"`{path[-1]}` does not fit: {_plain(said)}"
        hint = "quote it" if expected == "a text" and isinstance(value, int | float) else _near(value, kind)
        reading.problem("K304", message, deeper, expected=expected, found=of_value(found), hint=hint)


def _near(value: Any, kind: Any) -> str:
    """The choice that was probably meant."""
    expected = of_type(kind)
    if not isinstance(value, str) or not expected.startswith("one of "):
        return ""
    return did_you_mean(value, expected.removeprefix("one of ").split(", "))


def _split(message: str) -> tuple[str, Trail]:
    """The message of msgspec, and the path inside the value that it tells of."""
    found = _AT.match(message)
    if found is None:
        return message, ()
    steps = _STEP.findall(found[2] or "")
    return found[1], tuple(key or int(index) for key, index in steps)


def _plain(said: str) -> str:
    words = {"`int`": "a whole number", "`str`": "a text", "`float`": "a number", "`bool`": "true or false"}
    words |= {"`object`": "a mapping", "`array`": "a list", "`null`": "nothing"}
    for name, phrase in words.items():
        said = said.replace(name, phrase)
    return said[:1].lower() + said[1:]


def _value_at(value: Any, path: Trail) -> Any:
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return value
    return value


def _not_a_mapping(reading: Reading, form: ActionForm, value: Any, path: Trail) -> None:
    if form.name == SET.name:
        example = "name: value"
    else:
        names = [name for name, kind in argument_types(form.arguments).items() if kind.required]
        names = names or list(argument_types(form.arguments))
        example = f"{names[0]}: …" if names else ""
    message = f"the arguments of {form.name} are a mapping"
    hint = f"write {form.name}: {{{example}}}"
    reading.problem("K305", message, path, found=of_value(value), hint=hint)


def _read_set(reading: Reading, written: dict[str, Any], path: Trail, scope: Scope) -> dict[str, Any]:
    if not written:
        reading.problem("K303", "set needs at least one name", path, key=True, hint="write set: {name: value}")
    for name in written:
        reading.name(name, (*path, name), "what set sets", key=True)
    rendered: dict[str, Any] = reading.rendered(written, path, scope)
    return rendered


def _read_assert(reading: Reading, written: dict[str, Any], path: Trail, scope: Scope) -> dict[str, Any]:
    _check_names(reading, ASSERT, written, path, argument_types(ASSERT.arguments))
    if "that" not in written:
        return {"that": ()}
    return {"that": reading.conditions(written["that"], (*path, "that"), "`that`", scope)}

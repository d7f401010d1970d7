"""The names that an expression may use at its place, what is known of their types, and where later ones are defined."""

from __future__ import annotations

import types
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union, get_args, get_origin

from msgspec import Struct

from k2run.language.syntax import ITEM

if TYPE_CHECKING:
    from k2run.language.document import Trail


_SCALARS = (str, int, float, bool)


class Absent(Exception):
    """A type has no such attribute.

    Attributes:
        index: Which attribute of the path is wrong.
        names: Those there are.
    """

    def __init__(self, index: int, names: tuple[str, ...]) -> None:
        super().__init__(index, names)
        self.index = index
        self.names = names


def follow(shape: Any, path: tuple[str, ...]) -> Any:
    """The type at the end of a path of attributes; Any where nothing is known.

    Raises:
        Absent: The type on the way has no such attribute.
    """
    for index, name in enumerate(path):
        if shape is Any:
            return Any
        try:
            shape = _step(shape, name)
        except LookupError as error:
            raise Absent(index, tuple(error.args[0])) from None
    return shape


def _step(shape: Any, name: str) -> Any:  # noqa: PLR0911 - one for each form of type
    """The type one attribute further; raises LookupError with the names that there are."""
    if isinstance(shape, type):
        if issubclass(shape, Struct):
            return _of_struct(shape, name)
        if issubclass(shape, _SCALARS) and name != ITEM:
            raise LookupError(())
        return Any
    origin, parts = get_origin(shape), get_args(shape)
    if origin is Annotated:
        return _step(parts[0], name)
    if origin in (Union, types.UnionType):
        return _of_union(parts, name)
    if origin is dict and len(parts) == 2:  # noqa: PLR2004 - key and value
        return parts[1]
    if origin in (list, tuple) and parts and name == ITEM:
        return parts[0]
    return Any


def _of_union(parts: tuple[Any, ...], name: str) -> Any:
    names: list[str] = []
    for part in parts:
        if part is type(None):
            continue
        try:
            return _step(part, name)
        except LookupError as error:
            names += error.args[0]
    raise LookupError(tuple(names))


def _of_struct(shape: type[Struct], name: str) -> Any:
    fields = fields_of(shape)
    if name in fields:
        return fields[name]
    if name != ITEM and isinstance(getattr(shape, name, None), property):
        return Any
    raise LookupError(tuple(fields))


@lru_cache(maxsize=512)
def fields_of(shape: type[Struct]) -> dict[str, Any]:
    """The fields of a struct with their types; Any for those that cannot be resolved."""
    from msgspec.structs import fields

    try:
        return {field.name: field.type for field in fields(shape)}
    except NameError:
        return dict.fromkeys(shape.__struct_fields__, Any)


FACTS = ("stack", "run", "figures")
"""Names that the engine gives to every expression."""

RESERVED = frozenset({*FACTS, "result", "attempt", "self", "true", "false", "none", "True", "False", "None"})
"""Names that a runbook cannot give to its own values."""

ABSENT = "k2run absent"
"""Where the names of a run keep why some have no value; it cannot be written by a runbook."""


class NoValue(NamedTuple):
    """Why a name has no value.

    Attributes:
        why: In a clause, for people.
        applies: Whether the step that would have given it applies to the stack; what uses it does not, either.
    """

    why: str
    applies: bool = True


class Scope:
    """Names and their types: those that all later steps see too, and those of one step alone.

    Args:
        shared: Inputs, variables and registered results; grows as steps are read.
        own: Names of the step: its variables, the loop variable, `result`.
    """

    __slots__ = ("own", "shared")

    def __init__(self, shared: dict[str, Any], own: dict[str, Any] | None = None) -> None:
        self.shared = shared
        self.own = own or {}

    def knows(self, name: str) -> bool:
        """Whether the name can be used."""
        return name in self.own or name in self.shared

    def shape(self, name: str) -> Any:
        """The type of a known name."""
        return self.own[name] if name in self.own else self.shared[name]

    def names(self) -> list[str]:
        """Every name, for suggestions."""
        return [*self.own, *self.shared]

    def inside(self, names: dict[str, Any]) -> Scope:
        """This scope with more names of the step."""
        return Scope(self.shared, {**self.own, **names}) if names else self

    def apart(self) -> Scope:
        """A scope whose shared names no longer reach this one: for steps that run at once."""
        return Scope(dict(self.shared), self.own)


MAX_VISITS = 100_000


def registrations(data: Any) -> dict[str, Trail]:
    """By name, the path of the first `register: name` (or `set: {name: …}`)."""
    found: dict[str, Trail] = {}
    waiting: list[tuple[Any, Trail]] = [(data, ())]
    for _ in range(MAX_VISITS):
        if not waiting:
            break
        value, path = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("register"), str):
                found.setdefault(value["register"], (*path, "register"))
            if isinstance(value.get("set"), dict):
                for name in value["set"]:
                    found.setdefault(name, (*path, "set", name))
            waiting += [(item, (*path, key)) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(item, (*path, index)) for index, item in reversed(list(enumerate(value)))]
    return found

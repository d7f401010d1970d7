"""What the type of a result allows an expression to take from it."""

from __future__ import annotations

import types
from functools import lru_cache
from typing import Annotated, Any, Union, get_args, get_origin

from msgspec import Struct

from k2run.language.syntax import ITEM

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

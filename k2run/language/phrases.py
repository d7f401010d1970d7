"""Types and values in the words of an operator, for messages."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Struct

from k2run.language.quantities import Duration, Notation, Rate, Size

_SIMPLE: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
    Duration: "a duration such as 30s, 1m30s or 500ms",
    Size: "a size such as 10MiB, 1.5GB or a number of bytes",
    Rate: "a rate such as 500/s or 20/min",
    Any: "anything",
}
_SHOWN = 40


def of_type(kind: Any) -> str:  # noqa: PLR0911 - one line for each form of type
    """What a value of this type looks like: "a whole number", "one of a, b, c", "a list of texts"."""
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return of_type(parts[0])
    if origin is Literal:
        return f"one of {', '.join(str(part) for part in parts)}"
    if origin in (Union, types.UnionType):
        return " or ".join(of_type(part) for part in parts if part is not type(None))
    if origin in (list, tuple, set, frozenset) and parts:
        return f"a list, each item {of_type(parts[0])}"
    if origin is dict and parts:
        return f"a mapping, each value {of_type(parts[1])}"
    if isinstance(kind, type) and issubclass(kind, Notation):
        return kind.says
    if isinstance(kind, type) and issubclass(kind, Struct):
        return f"a mapping with {', '.join(kind.__struct_encode_fields__)}"
    return f"one of {', '.join(str(member.value) for member in kind)}" if hasattr(kind, "__members__") else str(kind)


def of_value(value: Any) -> str:
    """What a value is: `the text "abc"`, "the number 5", "a list"."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        shown = value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…"
        return f'the text "{" ".join(shown.split())}"'
    if isinstance(value, int | float):
        return f"the number {value:.{_SHOWN}g}" if isinstance(value, float) else f"the number {str(value)[:_SHOWN]}"
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else str(type(value))


_TRUE_FALSE = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}


def true_or_false(value: Any) -> bool:
    """`true`, `yes`, `on`, `1` and their opposites, as text or value.

    Raises:
        ValueError: It is none of them.
    """
    word = str(value).strip().lower()
    if word not in _TRUE_FALSE:
        raise ValueError(f"expected true or false, found {value!r}")
    return _TRUE_FALSE[word]

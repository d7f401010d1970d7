"""Plain YAML scalars to values, by the core schema of YAML 1.2.

Unlike YAML 1.1, `yes`, `on`, `1:30` and `2026-01-01` are text: values never change their type by surprise.
"""

from __future__ import annotations

import re
from typing import Any

Plain = str | int | float | bool | None

_WORDS: dict[str, Plain] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
_NUMBER_STARTS = frozenset("0123456789+-.")
_INTEGER = re.compile(r"[-+]?[0-9]{1,300}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,300}|[0-9]{1,300}(?:\.[0-9]{0,300})?)(?:[eE][-+]?[0-9]{1,5})?", re.ASCII)
_BASED = re.compile(r"0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}", re.ASCII)
_PADDED = re.compile(r"[-+]?0[0-9]+", re.ASCII)


def plain_value(text: str) -> Plain:
    """The value of an unquoted scalar."""
    if text[:1] in _NUMBER_STARTS:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
    return _WORDS.get(text, text)


def is_padded_number(text: str) -> bool:
    """`012`: decimal to some, octal to others, and an identifier to most."""
    return _PADDED.fullmatch(text) is not None


def tagged_value(tag: str, text: str) -> Any:
    """The value of a scalar with one of YAML's own tags, such as `!!str 12`.

    Raises:
        KeyError: The tag is not one of YAML's scalar tags.
        ValueError: The text is no such value.
    """
    kind: type = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}[
        tag.removeprefix("tag:yaml.org,2002:")
    ]
    if kind is str:
        return text
    value = plain_value(text)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        msg = f"{text!r} is not {tag}"
        raise ValueError(msg)
    return value

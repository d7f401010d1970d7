"""Reads what stands above the sections of a runbook: inputs and objective."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from k2run.language.model import Input, Objective
from k2run.language.phrases import of_value, true_or_false
from k2run.language.problems import did_you_mean
from k2run.language.quantities import Duration, Size
from k2run.language.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.language.document import Trail
    from k2run.language.reading import Reading

INPUT_TYPES: tuple[str, ...] = ("string", "integer", "number", "boolean", "duration", "size", "enum", "secret")
SECRET_SOURCES = ("env:", "file:", "keyring:", "cmd:")
_SHAPES: dict[str, Any] = {
    "string": str,
    "secret": str,
    "enum": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "duration": Duration,
    "size": Size,
}
_INPUT_KEYS = ("type", "default", "required", "help", "choices")
_OBJECTIVE_KEYS = ("within", "rto", "rpo", "figures")
_RECORDED = ("rto", "rpo", "figures")
"""Figures that the engine records itself."""


def read_inputs(reading: Reading, value: Any, path: Trail) -> tuple[Input, ...]:
    """The `inputs` of a runbook."""
    return tuple(
        _input(reading, name, item, (*path, name)) for name, item in reading.mapping(value, path, "`inputs`").items()
    )


def shape_of(entry: Input) -> Any:
    """The type of an input's value in expressions."""
    return _SHAPES[entry.type]


def _input(reading: Reading, name: str, value: Any, path: Trail) -> Input:
    reading.name(name, path, "an input", key=True)
    fields = reading.fields(value, path, "an input", _INPUT_KEYS)
    kind = fields.get("type", "string")
    if kind not in INPUT_TYPES:
        hint = did_you_mean(str(kind), INPUT_TYPES)
        message = f"`type` is one of {', '.join(INPUT_TYPES)}"
        reading.problem("K205", message, (*path, "type"), found=of_value(kind), hint=hint)
        kind = "string"
        fields.pop("default", None)
    choices = reading.texts(fields.get("choices", []), (*path, "choices"), "`choices`")
    if kind == "enum" and not choices:
        reading.problem("K203", "an input of type enum needs `choices`", path, key=True)
    if "choices" in fields and kind not in ("enum", "string"):
        reading.problem("K209", f"an input of type {kind} takes no `choices`", (*path, "choices"), key=True)
    required = reading.boolean(fields.get("required", False), (*path, "required"), "`required`")
    if required and "default" in fields:
        reading.problem(
            "K209", "a required input has no default", (*path, "default"), key=True, hint="remove one of them"
        )
    default = fields.get("default")
    if default is not None:
        default = _default(reading, kind, default, choices, (*path, "default"))
    return Input(
        name=name,
        type=kind,
        default=default,
        required=required,
        help=reading.text(fields.get("help", ""), (*path, "help"), "`help`"),
        choices=choices,
    )


def _default(reading: Reading, kind: str, value: Any, choices: tuple[str, ...], path: Trail) -> Any:
    """The default as a value of its type; quantities keep the form in which they are written."""
    if isinstance(value, str) and "{{" in value:
        reading.problem("K216", "a default is a plain value, not a template", path, hint="compute it in `vars`")
    elif kind == "secret":
        if not str(value).startswith(SECRET_SOURCES):
            hint = f"say where it is: {', '.join(SECRET_SOURCES)} and a name"
            reading.problem("K217", "a secret does not stand in a runbook", path, hint=hint)
    elif choices and value not in choices:
        hint = did_you_mean(str(value), choices)
        reading.problem("K216", f"the default is one of {', '.join(choices)}", path, found=of_value(value), hint=hint)
    elif kind in ("duration", "size"):
        try:
            _SHAPES[kind].parse(value)
        except ValueError as error:
            reading.problem("K216", f"the default does not fit: {error}", path)
    elif not _is(kind, value):
        message = f"the default is not of type {kind}"
        hint = "quote it" if _SHAPES[kind] is str and isinstance(value, int | float) else ""
        reading.problem("K216", message, path, found=of_value(value), hint=hint)
    return value


def input_value(entry: Input, value: Any) -> Any:
    """What is given for an input, by `run` or by hand, as a value of its type.

    Raises:
        ValueError: It does not fit; the message says why.
    """
    try:
        converted = _CONVERT[entry.type](value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"not of type {entry.type}: {error}") from error
    if entry.choices and converted not in entry.choices:
        raise ValueError(f"not one of {', '.join(entry.choices)}")
    return converted


def _integer(value: Any) -> int:
    """A whole number; nothing is cut off to make one."""
    made = int(value)
    if isinstance(value, bool) or (not isinstance(value, str) and made != value):
        raise ValueError(f"expected a whole number, found {value!r}")
    return made


def _number(value: Any) -> float:
    made = float(value)
    if isinstance(value, bool) or not math.isfinite(made):
        raise ValueError(f"expected a number, found {value!r}")
    return made


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "string": str,
    "secret": str,
    "enum": str,
    "integer": _integer,
    "number": _number,
    "boolean": true_or_false,
    "duration": Duration.parse,
    "size": Size.parse,
}


def _is(kind: str, value: Any) -> bool:
    expected = _SHAPES[kind]
    if isinstance(value, bool):
        return expected is bool
    return isinstance(value, expected) or (expected is float and isinstance(value, int))


def read_objective(reading: Reading, value: Any, path: Trail) -> Objective:
    """The `objective` of a runbook; read after the steps, whose figures it may name."""
    fields = reading.fields(value, path, "`objective`", _OBJECTIVE_KEYS)
    scope = Scope({**reading.figures, **dict.fromkeys(_RECORDED, Any)})
    times = {
        key: reading.duration(fields[key], (*path, key), f"`{key}`") if key in fields else None
        for key in ("within", "rto")
    }
    return Objective(
        within=times["within"],
        rto=times["rto"],
        rpo=reading.number(fields["rpo"], (*path, "rpo"), "`rpo`") if "rpo" in fields else None,
        figures=(
            reading.conditions(fields["figures"], (*path, "figures"), "`figures`", scope) if "figures" in fields else ()
        ),
    )

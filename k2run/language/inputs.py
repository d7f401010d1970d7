"""Reads what a runbook says beside its sections: inputs, objective, what steps are worth, and the score."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal, cast

from k2run.language.model import Award, Band, Category, Input, Objective, Points, Score
from k2run.language.problems import did_you_mean, of_value, true_or_false
from k2run.language.quantities import Duration, Size
from k2run.language.vocabulary import Scope

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


_AWARD = re.compile(r"\s*(\d+(?:\.\d+)?)(?:\s+when\s+(.+))?\s*", re.DOTALL)
_LIGHTS = ("green", "yellow", "red")


class PointsReader:
    """Reads `points` of steps and remembers the categories they name."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._named: list[tuple[str, Trail]] = []
        self._uncategorised: list[Trail] = []

    def read(self, value: Any, path: Trail, scope: Scope, category: str) -> Points:
        """`15`, or `{category, max, award}`.

        Args:
            value: What stands below `points`.
            path: Where.
            scope: Names of the conditions, `result` among them.
            category: The section's category, for a step that names none.
        """
        reading = self._reading
        if not isinstance(value, dict):
            points = Points(maximum=reading.number(value, path, "`points`"), category=category)
        else:
            fields = reading.fields(value, path, "`points`", ("category", "max", "award"))
            if "category" in fields:
                category = self.category(fields["category"], (*path, "category"))
            awards = self._awards(fields["award"], (*path, "award"), scope) if "award" in fields else ()
            if "max" in fields:
                maximum = reading.number(fields["max"], (*path, "max"), "`max`")
            elif awards:
                maximum = max(award.points for award in awards)
            else:
                maximum = 0.0
                reading.problem("K203", "`points` needs `max` or `award`", path, hint="write {max: 5}, or points: 5")
            points = Points(maximum=maximum, awards=awards, category=category)
        if not category:
            self._uncategorised.append(path)
        return points

    def category(self, value: Any, path: Trail) -> str:
        """The name of a category; that it exists is checked once the score is known."""
        name = self._reading.text(value, path, "`category`")
        self._named.append((name, path))
        return name

    def check(self, score: Score | None) -> None:
        """Note every category that the score does not have."""
        if score is None:
            return
        names = [category.name for category in score.categories]
        for name, path in self._named:
            if name not in names:
                hint = did_you_mean(name, names) or f"it has {', '.join(names)}"
                self._reading.problem("K215", f"the score has no category `{name}`", path, hint=hint)
        for path in self._uncategorised:
            hint = "give the section a `category`, or write points: {category: …, max: …}"
            self._reading.problem("K215", "these points count under no category", path, key=True, hint=hint)

    def _awards(self, value: Any, path: Trail, scope: Scope) -> tuple[Award, ...]:
        if not isinstance(value, list):
            return (self._award(value, path, scope),)
        if not value:
            self._reading.problem("K213", "`award` is empty", path)
        return tuple(self._award(item, (*path, index), scope) for index, item in enumerate(value))

    def _award(self, value: Any, path: Trail, scope: Scope) -> Award:
        reading = self._reading
        if isinstance(value, int | float) and not isinstance(value, bool):
            return Award(points=reading.number(value, path, "an award"))
        match = _AWARD.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            hint = 'write "15 when result.up == 10", or "0" as the last one'
            reading.problem(
                "K214", "an award is points, then `when` and an expression", path, found=of_value(value), hint=hint
            )
            return Award(points=0)
        if match[2] is None:
            return Award(points=float(match[1]))
        from k2run.language.expressions import Expression

        text = match[2].rstrip()
        reading.check(text, path, match.start(2), scope)
        return Award(points=float(match[1]), when=Expression(text, reading.document.place(path)))


def read_score(reading: Reading, value: Any, path: Trail) -> Score:
    """The `score` of a runbook."""
    fields = reading.fields(value, path, "`score`", ("categories", "bands", "go", "coverage"))
    if isinstance(value, dict) and "categories" not in fields:
        reading.problem("K203", "`score` needs `categories`", path, key=True)
    written = fields.get("categories", {})
    named = reading.mapping(written, (*path, "categories"), "`categories`")
    categories = tuple(_category(reading, name, item, (*path, "categories", name)) for name, item in named.items())
    bands = reading.listed(fields.get("bands", []), (*path, "bands"), "`bands`")
    return Score(
        categories=categories,
        bands=_bands(reading, bands, (*path, "bands")),
        go=reading.number(fields["go"], (*path, "go"), "`go`") if "go" in fields else None,
        coverage=_coverage(reading, fields["coverage"], (*path, "coverage")) if "coverage" in fields else None,
    )


def _coverage(reading: Reading, value: Any, path: Trail) -> float:
    share = reading.number(value, path, "`coverage`")
    if share > 100:  # noqa: PLR2004 - per cent
        reading.problem("K204", "`coverage` is at most 100 percent", path)
    return share


def _category(reading: Reading, name: str, value: Any, path: Trail) -> Category:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Category(name=name, title=name, points=reading.number(value, path, "the points of a category"))
    fields = reading.fields(value, path, "a category", ("title", "points"))
    if isinstance(value, dict) and "points" not in fields:
        reading.problem("K203", f"the category {name} needs `points`", path, key=True)
    return Category(
        name=name,
        title=reading.text(fields.get("title", name), (*path, "title"), "`title`"),
        points=reading.number(fields.get("points", 0), (*path, "points"), "`points`"),
    )


def _bands(reading: Reading, items: list[Any], path: Trail) -> tuple[Band, ...]:
    bands = [_band(reading, item, (*path, index)) for index, item in enumerate(items)]
    return tuple(sorted(bands, key=lambda band: -band.at_least))


def _band(reading: Reading, value: Any, path: Trail) -> Band:
    fields = reading.fields(value, path, "a band", ("at_least", "name", "light"))
    if isinstance(value, dict):
        for key in ("at_least", "name"):
            if key not in fields:
                reading.problem("K203", f"a band needs `{key}`", path)
    light = fields.get("light", "green")
    if light not in _LIGHTS:
        hint = did_you_mean(str(light), _LIGHTS)
        message = "`light` is one of green, yellow, red"
        reading.problem("K205", message, (*path, "light"), found=of_value(light), hint=hint)
        light = "green"
    return Band(
        at_least=reading.number(fields.get("at_least", 0), (*path, "at_least"), "`at_least`"),
        name=reading.text(fields.get("name", ""), (*path, "name"), "`name`"),
        light=cast('Literal["green", "yellow", "red"]', light),
    )

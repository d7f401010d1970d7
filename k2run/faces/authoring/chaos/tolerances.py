"""Tolerances of an experiment's probes as expectations of a step."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2run.language.patterns import search

if TYPE_CHECKING:
    from k2run.faces.authoring.chaos.notes import Notes
    from k2run.faces.authoring.chaos.texts import Texts

_STEP = re.compile(r"\.(\*|[\w-]+)|\[(\*|-?\d+|'[^']*'|\"[^\"]*\")\]")
_BOUNDS = 2


@dataclass(frozen=True)
class Output:
    """What a provider hands to its tolerance, in the words of the step that takes its place.

    Attributes:
        whole: The expression of the whole value, where it is one.
        status: The expression of its status, where it has one.
        parts: The expressions of its named parts, as text.
    """

    whole: str = ""
    status: str = ""
    parts: tuple[tuple[str, str], ...] = ()

    def part(self, name: str) -> str:
        """The expression of a part, or of the whole value when there is no such part."""
        return dict(self.parts).get(name) or self.whole


class Tolerances:
    """Writes tolerances as expressions.

    Args:
        texts: Writes their values.
        notes: Where remarks go.
    """

    def __init__(self, texts: Texts, notes: Notes) -> None:
        self._texts = texts
        self._notes = notes

    def expression(self, tolerance: Any, output: Output, about: str) -> str:
        """What must be true of `result`; "" where it cannot be said.

        Args:
            tolerance: As the experiment has it.
            output: What the probe gives.
            about: The name of the probe, for remarks.
        """
        if isinstance(tolerance, dict):
            return self._declared(tolerance, output, about)
        if isinstance(tolerance, list):
            return self._among(tolerance, output)
        if isinstance(tolerance, int) and not isinstance(tolerance, bool) and output.status:
            return f"{output.status} == {tolerance}"
        if not output.whole:
            self._notes.say(
                about, f"the tolerance {json.dumps(tolerance)} compares a whole answer: say what of it counts"
            )
            return ""
        return f"{output.whole} == {self._texts.expression(tolerance)}"

    def _among(self, tolerance: list[Any], output: Output) -> str:
        if output.status:
            return f"{output.status} in {self._texts.expression(tolerance)}"
        if len(tolerance) == _BOUNDS:
            low, high = map(self._texts.expression, tolerance)
            return f"{low} <= {output.whole} <= {high}"
        return f"{output.whole} in {self._texts.expression(tolerance)}"

    def _declared(self, tolerance: dict[str, Any], output: Output, about: str) -> str:
        kind, target = tolerance.get("type"), str(tolerance.get("target") or "")
        if kind == "jsonpath":
            return self._json_path(tolerance, output, about)
        value = output.part(target)
        if kind == "range" and value:
            low, high = map(self._texts.expression, tolerance.get("range", [0, 0]))
            return f"{low} <= ({value}) | float <= {high}"
        if kind == "regex" and value:
            return self._regex(str(tolerance.get("pattern", "")), value, about)
        self._notes.say(about, f"its tolerance of type {kind} could not be carried over: write an `expect`")
        return ""

    def _regex(self, pattern: str, value: str, about: str) -> str:
        try:
            search("", pattern)
        except ValueError as error:
            self._notes.say(about, f"the pattern {pattern!r} is not one of k2run's: {error}")
            return ""
        return f"{value} | search({self._texts.expression(pattern)})"

    def _json_path(self, tolerance: dict[str, Any], output: Output, about: str) -> str:
        path = str(tolerance.get("path", ""))
        steps = _steps(path)
        if steps is None:
            self._notes.say(about, f"the JSON path {path} has filters, slices or `..` in it: write an `expect`")
            return ""
        base, steps = self._base(steps, output, str(tolerance.get("target") or ""))
        if not base:
            self._notes.say(about, f"the JSON path {path} looks at the whole answer: write an `expect`")
            return ""
        return self._found(base, steps, tolerance)

    def _base(self, steps: list[Any], output: Output, target: str) -> tuple[str, list[Any]]:
        """Where a path begins: in a part of the answer, read as JSON, or in the whole of it."""
        if not target and output.parts and steps and steps[0] in dict(output.parts):
            target, steps = str(steps[0]), steps[1:]
            if not steps:
                return dict(output.parts)[target], steps
        if target and output.parts:
            part = dict(output.parts).get(target, "")
            return (part if target in ("status", "headers") else f"({part} | from_json)") if part else "", steps
        return output.whole, steps

    def _found(self, base: str, steps: list[Any], tolerance: dict[str, Any]) -> str:
        before, star, after = _around_star(steps)
        value = base + "".join(f"[{self._texts.expression(step)}]" for step in before)
        if star:
            names = ".".join(map(str, after))
            value = f"{value} | map(attribute='{names}') | list" if after else f"{value} | list"
        conditions = []
        if "expect" in tolerance:
            expected = tolerance["expect"]
            listed = expected if isinstance(expected, list) else [expected]
            given = f"({value})" if star else f"[{value}]"
            conditions.append(f"{given} == {self._texts.expression(listed)}")
        elif star:
            count = tolerance.get("count")
            conditions.append(f"({value}) | length " + ("> 0" if count is None else f"== {count}"))
        else:
            conditions.append(f"{value} is {'not ' if tolerance.get('count') == 0 else ''}defined")
        return " and ".join(conditions)


def _steps(path: str) -> list[Any] | None:
    """The steps of a JSON path: names, indexes and at most one `*`; None when it has others."""
    rest = path.strip().removeprefix("$")
    if rest and rest[0] not in ".[":
        rest = f".{rest}"
    steps: list[Any] = []
    while rest:
        match = _STEP.match(rest)
        if match is None:
            return None
        word = match[1] or match[2]
        steps.append(int(word) if match[2] and word.lstrip("-").isdigit() else word.strip("'\""))
        rest = rest[match.end() :]
    plain_after = all(isinstance(step, str) for step in _around_star(steps)[2])
    return steps if steps.count("*") <= 1 and plain_after else None


def _around_star(steps: list[Any]) -> tuple[list[Any], bool, list[Any]]:
    if "*" not in steps:
        return steps, False, []
    at = steps.index("*")
    return steps[:at], True, steps[at + 1 :]

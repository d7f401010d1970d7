"""Reads the sections of a runbook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.language.keywords import KEYWORDS
from k2run.language.model import AfterFailure, Kind, Section
from k2run.language.problems import did_you_mean

if TYPE_CHECKING:
    from k2run.language.document import Trail
    from k2run.language.reading import Reading
    from k2run.language.scope import Scope
    from k2run.language.scoring import PointsReader
    from k2run.language.steps import StepReader

SECTION_KEYS = (
    "name",
    "steps",
    "when",
    "within",
    "timeout",
    "parallel",
    "clock",
    "category",
    "after_failure",
    "tags",
    "vars",
    "requires",
)
CLOCKS = ("rto", "detect")
_STOPPING = (Kind.SCENARIO, Kind.RECOVERY)
"""Kinds of which a failed section ends the run: what follows would break or repair the wrong thing."""


class SectionReader:
    """Reads sections in order.

    Args:
        reading: Where problems go.
        steps: Reads their steps.
        points: Knows the categories.
        kind: The runbook's kind; says what a failure does unless a section says it.
    """

    def __init__(self, reading: Reading, steps: StepReader, points: PointsReader, kind: Kind) -> None:
        self._reading = reading
        self._steps = steps
        self._points = points
        self._after_failure = AfterFailure.END_RUN if kind in _STOPPING else AfterFailure.CONTINUE

    def read_all(self, value: Any, path: Trail, scope: Scope) -> tuple[Section, ...]:
        """The `sections` of a runbook."""
        items = self._reading.listed(value, path, "`sections`")
        if isinstance(value, list) and not value:
            self._reading.problem("K213", "`sections` is empty", path)
        return tuple(self._section(item, (*path, index), index, scope) for index, item in enumerate(items))

    def _section(self, value: Any, path: Trail, index: int, scope: Scope) -> Section:
        reading = self._reading
        fields = self._fields(value, path)
        address = f"sections[{index}]"
        category = self._points.category(fields["category"], (*path, "category")) if "category" in fields else ""
        variables = self._vars(fields.get("vars"), (*path, "vars"), scope)
        steps = fields.get("steps", [])
        workers = reading.workers(fields.get("parallel", 0), (*path, "parallel"), len(steps) if steps else 0)
        return Section(
            path=address,
            name=reading.text(fields.get("name", f"Section {index + 1}"), (*path, "name"), "`name`"),
            place=reading.document.place(path),
            when=(reading.expression(fields["when"], (*path, "when"), "`when`", scope) if "when" in fields else None),
            within=reading.duration(fields["within"], (*path, "within"), "`within`") if "within" in fields else None,
            timeout=(
                reading.duration(fields["timeout"], (*path, "timeout"), "`timeout`") if "timeout" in fields else None
            ),
            parallel=workers,
            clock=self._clock(fields.get("clock", ""), (*path, "clock")),
            category=category,
            after_failure=(
                reading.choice(AfterFailure, fields["after_failure"], (*path, "after_failure"), "`after_failure`")
                if "after_failure" in fields
                else self._after_failure
            ),
            tags=frozenset(reading.texts(fields.get("tags", []), (*path, "tags"), "`tags`")),
            vars=variables,
            requires=self._requires(fields.get("requires", []), (*path, "requires")),
            steps=(
                self._steps.read_all(steps, (*path, "steps"), f"{address}.steps", scope, category, apart=workers > 1)
                if "steps" in fields
                else ()
            ),
        )

    def _fields(self, value: Any, path: Trail) -> dict[str, Any]:
        fields = self._reading.mapping(value, path, "a section")
        for key in fields:
            if key in SECTION_KEYS:
                continue
            if key in KEYWORDS or "." in key:
                hint = "it belongs to a step: put it below `steps`"
                self._reading.problem("K202", f"a section has no key `{key}`", (*path, key), key=True, hint=hint)
            else:
                self._reading.unknown_key(key, path, "a section", SECTION_KEYS)
        if isinstance(value, dict) and "steps" not in fields:
            self._reading.problem("K203", "a section needs `steps`", path)
        return fields

    def _vars(self, value: Any, path: Trail, scope: Scope) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, item in self._reading.mapping(value or {}, path, "`vars`").items():
            self._reading.name(name, (*path, name), "a variable", key=True)
            made[name] = self._reading.rendered(item, (*path, name), scope)
            scope.shared[name] = self._reading.shape(made[name], scope)
        return made

    def _clock(self, value: Any, path: Trail) -> str:
        if value and value not in CLOCKS:
            hint = did_you_mean(str(value), CLOCKS) or "there are rto (recovered) and detect (first seen)"
            self._reading.problem("K205", f"there is no clock `{value}`", path, hint=hint)
        return str(value)

    def _requires(self, value: Any, path: Trail) -> tuple[str, ...]:
        found = self._reading.texts(value, path, "`requires`")
        self._reading.uses_stack = self._reading.uses_stack or bool(found)
        return found

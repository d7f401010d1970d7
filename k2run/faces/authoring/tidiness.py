"""Lint rules on style: what makes a runbook hard to read at three in the morning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from k2run.language.expressions import Template

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.faces.authoring.subject import Placed, Subject
    from k2run.language.document import Trail
    from k2run.language.expressions import Expression
    from k2run.language.problems import Problem

_ADDRESS = re.compile(r"https?://[^{\s]+")


def unused_value(subject: Subject) -> Iterator[Problem]:
    """L201."""
    book, used = subject.runbook, subject.used_names
    given: list[tuple[str, Trail]] = [(entry.name, ("inputs", entry.name)) for entry in book.inputs]
    given += [(name, ("vars", name)) for name in book.vars]
    for index, section in enumerate(book.sections):
        given += [(name, ("sections", index, "vars", name)) for name in section.vars]
    given += [(name, (*placed.trail, "vars", name)) for placed in subject.steps for name in placed.step.vars]
    for name, trail in given:
        if name not in used:
            yield subject.finding("L201", f"`{name}` is never used", trail, key=True, hint="remove it")


def unused_result(subject: Subject) -> Iterator[Problem]:
    """L202."""
    for placed in subject.steps:
        name = placed.step.register
        if name and name not in subject.used_names:
            message = f"the result `{name}` is never used"
            yield subject.finding("L202", message, (*placed.trail, "register"), hint="remove `register`")


def step_without_name(subject: Subject) -> Iterator[Problem]:
    """L203."""
    for placed in subject.steps:
        if not subject.has((*placed.trail, "name")) and placed.step.action not in ("set", "assert", "wait", ""):
            hint = "add `name:` with what is true when the step has passed"
            message = f"this step is shown as `{placed.step.action}`"
            yield subject.finding("L203", message, (*placed.trail, placed.step.action), key=True, hint=hint)


def name_twice(subject: Subject) -> Iterator[Problem]:
    """L204."""
    seen: dict[tuple[Trail, str], Placed] = {}
    for placed in subject.steps:
        if isinstance(placed.step.name, Template) or not subject.has((*placed.trail, "name")):
            continue
        first = seen.setdefault((placed.trail[:-1], placed.step.name), placed)
        if first is not placed:
            message = "another step beside this one has the same name"
            hint = f"the first one is in line {first.step.place.line}"
            yield subject.finding("L204", message, (*placed.trail, "name"), hint=hint)


def section_without_name(subject: Subject) -> Iterator[Problem]:
    """L205."""
    for index, section in enumerate(subject.runbook.sections):
        if not subject.has(("sections", index, "name")):
            yield subject.finding(
                "L205", f"this section is shown as `{section.name}`", ("sections", index), hint="add `name:`"
            )


def nobody_to_ask(subject: Subject) -> Iterator[Problem]:
    """L206."""
    missing = [key for key in ("title", "owner") if not subject.has((key,))]
    if missing:
        what = " and no ".join(missing)
        yield subject.finding(
            "L206", f"this runbook has no {what}", ("runbook",), key=True, hint="whoever reads it wants both"
        )


def constant_condition(subject: Subject) -> Iterator[Problem]:
    """L207."""
    for placed in subject.steps:
        step = placed.step
        single: list[tuple[str, Expression | None]] = [("when", step.when), ("until", step.until)]
        for key, condition in [*single, *(("expect", item) for item in step.expect)]:
            if condition is not None and not condition.syntax.references:
                message = f"`{condition.text}` is the same whatever happens"
                yield subject.finding(
                    "L207", message, (*placed.trail, key), hint="compare something with it, or remove it"
                )


def points_without_score(subject: Subject) -> Iterator[Problem]:
    """L208."""
    if subject.runbook.score is not None:
        return
    for placed in subject.steps:
        if placed.step.points is not None:
            hint = "add `score:` with its categories, or remove the points"
            yield subject.finding("L208", "these points count nowhere", (*placed.trail, "points"), key=True, hint=hint)


def address_in_the_runbook(subject: Subject) -> Iterator[Problem]:
    """L209."""
    for placed in subject.steps:
        url = placed.step.args.get("url")
        if isinstance(url, str) and _ADDRESS.match(url):
            hint = "name a service of the stack: {service: api, path: /health}"
            message = "this address ties the runbook to one environment"
            yield subject.finding("L209", message, (*placed.trail, placed.step.action, "url"), hint=hint)


def input_without_help(subject: Subject) -> Iterator[Problem]:
    """L210."""
    for entry in subject.runbook.inputs:
        if not entry.help:
            hint = "add `help:` with its unit"
            yield subject.finding(
                "L210", f"nothing says what `{entry.name}` is", ("inputs", entry.name), key=True, hint=hint
            )


TIDINESS = (
    unused_value,
    unused_result,
    step_without_name,
    name_twice,
    section_without_name,
    nobody_to_ask,
    constant_condition,
    points_without_score,
    address_in_the_runbook,
    input_without_help,
)

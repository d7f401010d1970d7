"""The outline of a run as its first event tells it, so that every view knows what is to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import OutlineBand, OutlineCategory, OutlineSection, OutlineStep
from k2run.language.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.language.model import Runbook, Section, Step


STEADY_BEFORE, STEADY_AFTER, ALWAYS = "steady_state", "steady_state_after", "always"
"""Paths of the sections that a runbook has beside its own."""


def outline(runbook: Runbook) -> list[OutlineSection]:
    """The sections of a runbook in the order in which they run."""
    sections = [_section(section.path, section.name, section.steps, section) for section in runbook.sections]
    first = () if runbook.kind is Kind.RECOVERY else runbook.steady_state  # a recovery ends with it
    before = [_section(STEADY_BEFORE, "Steady state", first)] if first else []
    after = [_section(ALWAYS, "Always", runbook.always)] if runbook.always else []
    return [*before, *sections, *after]


def categories(runbook: Runbook) -> list[OutlineCategory]:
    """The categories of the runbook's score."""
    found = runbook.score.categories if runbook.score else ()
    return [OutlineCategory(name=entry.name, title=entry.title, points=entry.points) for entry in found]


def bands(runbook: Runbook) -> list[OutlineBand]:
    """The bands of the runbook's score."""
    found = runbook.score.bands if runbook.score else ()
    return [OutlineBand(at_least=band.at_least, name=band.name, light=band.light) for band in found]


def all_steps(runbook: Runbook) -> Iterator[Step]:
    """Every step of a runbook, those inside blocks and in the runbooks that it runs too."""
    top = (runbook.steady_state, *(section.steps for section in runbook.sections), runbook.always)
    for steps in top:
        yield from steps_within(steps)
    for inner in runbook.runs.values():
        yield from all_steps(inner)


def steps_within(steps: Sequence[Step]) -> Iterator[Step]:
    """Steps, each followed by those inside of it."""
    for step in steps:
        yield step
        for inner in (step.block, step.rescue, step.always):
            yield from steps_within(inner)


def _section(path: str, name: str, steps: Sequence[Step], section: Section | None = None) -> OutlineSection:
    return OutlineSection(
        path=path,
        name=name,
        within=section.within if section else None,
        steps=[_step(step, section.category if section else "") for step in steps],
    )


def _step(step: Step, category: str) -> OutlineStep:
    points = step.points
    return OutlineStep(
        path=step.path,
        name=str(step.name),
        action=step.action or "block",
        severity=step.severity.value,
        points=points.maximum if points else 0.0,
        category=(points.category or category) if points else "",
    )

"""A runbook for lint: its steps in order, each with section, trail and action."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict

from k2run.actions.action import Effect
from k2run.language.document import read_document, read_text
from k2run.language.expressions import Expression, Template
from k2run.language.loader import parse_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from k2run.actions.catalogue import Catalogue
    from k2run.language.document import Document, Trail
    from k2run.language.model import Runbook, Section, Step
    from k2run.language.problems import Problem

_PART = re.compile(r"([a-z_]+)|\[(\d+)\]")


@dataclass(frozen=True)
class PlacedStep:
    """A step and where it stands.

    Attributes:
        trail: The way to it in the document.
        section: The section it is in, if any.
    """

    step: Step
    trail: Trail
    section: Section | None

    @property
    def is_fault(self) -> bool:
        """Whether it breaks something."""
        return self.step.effect is Effect.BREAKS


@dataclass(frozen=True)
class Subject:
    """A valid runbook with its document, so that a finding has a place."""

    runbook: Runbook
    document: Document

    @cached_property
    def steps(self) -> tuple[PlacedStep, ...]:
        """Every step that is written, those inside blocks too, in the order of the file's parts."""
        book = self.runbook
        parts: list[tuple[Section | None, tuple[Step, ...]]] = [
            (None, book.steady_state),
            (None, book.preconditions),
            (None, book.symptoms),
        ]
        parts += [(section, section.steps) for section in book.sections]
        parts.append((None, book.always))
        return tuple(placed for section, steps in parts for step in steps for placed in self._placed(step, section))

    @cached_property
    def faults(self) -> tuple[PlacedStep, ...]:
        """The steps that break something."""
        return tuple(placed for placed in self.steps if placed.is_fault)

    @cached_property
    def used_names(self) -> frozenset[str]:
        """Every name that an expression of the runbook takes."""
        return frozenset(names_in({**asdict(self.runbook), "inputs": ()}))

    def finding(self, code: str, message: str, trail: Trail, **more: Any) -> Problem:
        """A finding at a place of the document; `more` is what `Document.problem` takes."""
        return self.document.problem(code, message, trail, **more)

    def has(self, trail: Trail) -> bool:
        """Whether something is written there."""
        value = self.document.data
        for part in trail:
            if not isinstance(value, dict | list) or (isinstance(value, dict) and part not in value):
                return False
            value = value[part]  # type: ignore[index]
        return True

    def _placed(self, step: Step, section: Section | None) -> Iterator[PlacedStep]:
        yield PlacedStep(step, trail_of(step.path), section)
        for inner in (*step.block, *step.rescue, *step.always):
            yield from self._placed(inner, section)


def open_subject(path: Path, catalogue: Catalogue) -> Subject:
    """Read a runbook for lint.

    Raises:
        RunbookInvalid: It has problems; they come first.
    """
    text = read_text(path)
    return Subject(parse_runbook(text, str(path), catalogue, home=path.parent), read_document(text, str(path)))


def trail_of(path: str) -> Trail:
    """`sections[1].steps[0]` as the keys and indexes that lead there."""
    return tuple(int(index) if index else name for name, index in _PART.findall(path))


def names_in(value: Any) -> Iterator[str]:
    """The names that the expressions inside a value take from their scope."""
    if isinstance(value, Expression | Template):
        yield from value.names
    elif isinstance(value, Struct):
        yield from names_in(asdict(value))
    elif isinstance(value, dict):
        yield from names_in(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from names_in(item)

"""A runbook as boxes and arrows: what Mermaid and the SVG show alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from k2run.actions.action import Effect

if TYPE_CHECKING:
    from k2run.language.model import Runbook, Section, Step
    from k2run.language.quantities import Duration


class BoxKind(StrEnum):
    """What a box is about."""

    CHECK = "check"
    CHANGE = "change"
    FAULT = "fault"
    PERSON = "person"
    WAIT = "wait"
    GROUP = "group"


@dataclass(frozen=True)
class Box:
    """One step.

    Attributes:
        key: Unique in the flow: letters, digits, `_`.
        title: What the step is called.
        action: Its action, or how its block is made up.
        marks: Loop, condition, limits, in a few words each.
        undo: What puts a fault right again; "" where nothing is broken.
    """

    key: str
    title: str
    action: str
    kind: BoxKind
    marks: tuple[str, ...] = ()
    undo: str = ""


@dataclass(frozen=True)
class Lane:
    """A section.

    Attributes:
        at_once: Its steps run side by side.
        clock: The clock that it stops, such as `rto 1m30s`; "" for none.
    """

    key: str
    title: str
    boxes: tuple[Box, ...]
    marks: tuple[str, ...] = ()
    at_once: bool = False
    clock: str = ""


@dataclass(frozen=True)
class Flow:
    """A whole runbook."""

    title: str
    kind: str
    promises: tuple[str, ...]
    lanes: tuple[Lane, ...] = field(default=())


UNDOS = {"service.kill": "service.start", "service.stop": "service.start", "service.pause": "service.resume"}
"""What the undo of a fault is called, where its name says it; others undo themselves."""


def flow_of(runbook: Runbook) -> Flow:
    """What there is to draw of a runbook."""
    promised = runbook.objective
    bounds = (("within", promised.within), ("rto", promised.rto), ("rpo", promised.rpo))
    promises = [f"{name} {_plain(value)}" for name, value in bounds if value is not None]
    promises += [str(figure) for figure in promised.figures]
    draw = _Drawing()
    lanes = [
        draw.lane("preconditions", "Preconditions", runbook.preconditions),
        draw.lane("symptoms", "Symptoms", runbook.symptoms),
        draw.lane("steady", "Steady state", runbook.steady_state),
    ]
    lanes += [draw.section(index, section, promised.rto) for index, section in enumerate(runbook.sections)]
    if runbook.steady_state and draw.broken:
        lanes.append(draw.lane("again", "Steady state again", runbook.steady_state))
    lanes.append(draw.lane("always", "Always", runbook.always))
    return Flow(runbook.title, runbook.kind.value, tuple(promises), tuple(lane for lane in lanes if lane.boxes))


class _Drawing:
    """Makes lanes of sections.

    Attributes:
        broken: Whether a fault was met.
    """

    def __init__(self) -> None:
        self.broken = False

    def lane(self, key: str, title: str, steps: tuple[Step, ...]) -> Lane:
        return Lane(key, title, self._boxes(key, steps))

    def section(self, index: int, section: Section, rto: Duration | None) -> Lane:
        at_once = section.parallel > 1
        marks = [f"within {section.within}"] if section.within is not None else []
        marks += [f"when {section.when}"] if section.when is not None else []
        marks += ["at once"] if at_once else []
        clock = f"{section.clock} {rto}" if section.clock and rto is not None else section.clock
        key = f"s{index}"
        return Lane(key, section.name, self._boxes(key, section.steps), tuple(marks), at_once, clock)

    def _boxes(self, key: str, steps: tuple[Step, ...]) -> tuple[Box, ...]:
        return tuple(box for index, step in enumerate(steps) for box in self._of_step(f"{key}_{index}", step))

    def _of_step(self, key: str, step: Step) -> list[Box]:
        """A step's box; a block's own, then those of the steps in it."""
        marks = tuple(_marks(step))
        if step.block:
            parts = [("block", step.block), ("rescue", step.rescue), ("always", step.always)]
            named = [f"{name} of {len(steps)}" for name, steps in parts if steps]
            inner = [box for name, steps in parts for box in self._boxes(f"{key}_{name}", steps)]
            return [Box(key, str(step.name), ", ".join(named), BoxKind.GROUP, marks), *inner]
        kind = _kind(step)
        self.broken = self.broken or kind is BoxKind.FAULT
        undo = UNDOS.get(step.action, "its own undo") if kind is BoxKind.FAULT else ""
        return [Box(key, str(step.name), step.action, kind, marks, undo)]


def _kind(step: Step) -> BoxKind:
    if step.action.startswith("manual."):
        return BoxKind.PERSON
    if step.action in ("wait", "set", "assert"):
        return BoxKind.WAIT if step.action == "wait" else BoxKind.CHECK
    if step.effect is None:
        return BoxKind.GROUP
    return {Effect.BREAKS: BoxKind.FAULT, Effect.OBSERVES: BoxKind.CHECK}.get(step.effect, BoxKind.CHANGE)


def _marks(step: Step) -> list[str]:
    marks = [f"when {step.when}"] if step.when is not None else []
    if isinstance(step.loop, tuple):
        marks.append(f"{len(step.loop)} times")
    elif step.loop is not None:
        marks.append("for each")
    marks += [f"within {step.within}"] if step.within is not None else []
    marks += [f"until {step.until}"] if step.until is not None else []
    return marks


def _plain(value: float) -> str:
    return f"{value:g}" if type(value) is float else str(value)

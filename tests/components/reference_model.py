"""A reference model: what docs/language.md says of blocks, loops, sections, runbooks, leaps, failures and signals.

It knows nothing of the engine. A plan is data; `expect` says how each of its steps ends, and the run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PASSED, FAILED, SKIPPED, NOTHING, CUT = "passed", "failed", "skipped", "not_applicable", "interrupted"
WORST_FIRST = (FAILED, PASSED, NOTHING, SKIPPED)


@dataclass(frozen=True)
class Node:
    """One step.

    Attributes:
        kind: pass, fail, signal, skip_section, stop, stop_passed, block, run.
        weight: critical, warning or ignored.
        only: It is left out but for this item of the loop around it.
        loop: Number of turns; 0 is no loop.
    """

    name: str
    kind: str
    weight: str = "critical"
    when: bool = True
    only: int | None = None
    loop: int = 0
    parallel: bool = False
    block: tuple[Node, ...] = ()
    rescue: tuple[Node, ...] = ()
    always: tuple[Node, ...] = ()
    book: Book | None = None


@dataclass(frozen=True)
class Part:
    """One section."""

    steps: tuple[Node, ...]
    after: str = ""
    parallel: bool = False


@dataclass(frozen=True)
class Book:
    """One runbook."""

    name: str
    kind: str
    parts: tuple[Part, ...]
    always: tuple[Node, ...] = ()


class Leap(Exception):
    """`skip_section` (0), `stop: {passed: true}` (1), `stop` (2), with the outcome of the step that it leaves."""

    def __init__(self, strength: int, outcome: str = PASSED) -> None:
        super().__init__()
        self.strength, self.outcome = strength, outcome


class Cut(Exception):
    """The run was asked to end: no step begins any more, but those of `always`."""


@dataclass
class World:
    """One run of a plan.

    Attributes:
        ended: Every step that has a record, with its outcome.
        loose: Steps that may as well have been left out: beside them, at the same time, something left.
    """

    signals: bool
    ended: list[tuple[str, str]] = field(default_factory=list)
    loose: set[str] = field(default_factory=set)
    asked: bool = False
    checked: int = 0

    def end(self, name: str, outcome: str) -> str:
        self.ended.append((name, outcome))
        return outcome


@dataclass
class Said:
    """How several steps ended together."""

    outcome: str = SKIPPED
    failed: bool = False
    leap: Leap | None = None


def of_all(outcomes: Sequence[str]) -> str:
    return next((each for each in WORST_FIRST if each in outcomes), SKIPPED)


def weighed(node: Node, outcome: str) -> str:
    return PASSED if outcome == FAILED and node.weight != "critical" else outcome


def several(  # noqa: PLR0913 - the one rule for all
    world: World,
    items: Sequence[Any],
    do: Callable[[Any], str],
    *,
    weigh: Callable[[Any, str], str],
    ends: bool,
    leave: Callable[[Any], object],
    ending: bool,
) -> Said:
    """Steps in order; a leap, or a failure where that ends them, leaves out those that follow."""
    outcomes, said, left = [], Said(), False
    for item in items:
        if world.asked and not ending:
            raise Cut
        if left:
            leave(item)
            continue
        leap = None
        try:
            outcome = do(item)
        except Leap as caught:
            leap, outcome = caught, caught.outcome
        outcome = weigh(item, outcome)
        outcomes.append(outcome)
        said.failed = said.failed or outcome == FAILED
        left = leap is not None or (ends and outcome == FAILED)
        said.leap = max(filter(None, (said.leap, leap)), key=lambda each: each.strength, default=None)
    said.outcome = of_all(outcomes)
    return said


def hand_on(leap: Leap | None, outcome: str) -> str:
    if leap is not None:
        raise Leap(leap.strength, outcome)
    return outcome


def step(world: World, node: Node, item: int | None, *, ending: bool) -> str:
    if not node.when:
        return world.end(node.name, SKIPPED)
    if node.only is not None and node.only != item:
        return world.end(node.name, SKIPPED)
    if not node.loop:
        return turn(world, node, node.name, item, ending=ending)
    said = several(
        world,
        range(1, node.loop + 1),
        lambda number: turn(world, node, f"{node.name} {number}", number, ending=ending),
        weigh=lambda _number, outcome: outcome,
        ends=False,
        leave=lambda number: world.end(f"{node.name} {number}", SKIPPED),
        ending=ending,
    )
    return hand_on(said.leap, said.outcome)


def turn(world: World, node: Node, name: str, item: int | None, *, ending: bool) -> str:
    match node.kind:
        case "pass" | "fail":
            world.checked += 1
            return world.end(name, PASSED if node.kind == "pass" else FAILED)
        case "signal":
            world.checked += 1
            world.asked = world.asked or world.signals
            return world.end(name, PASSED)
        case "block":
            return block(world, node, name, item, ending=ending)
        case "run":
            assert node.book is not None
            try:
                return world.end(name, run(world, node.book, ending=ending))
            except Cut:
                world.end(name, CUT)
                raise
    world.end(name, PASSED)
    raise Leap({"skip_section": 0, "stop_passed": 1, "stop": 2}[node.kind])


def block(world: World, node: Node, name: str, item: int | None, *, ending: bool) -> str:
    """Its steps until one fails, then `rescue`; `always` whatever happened; a leap leaves out the rescue."""
    try:
        outcome, leap = _block_and_rescue(world, node, item, ending=ending)
    except Cut:
        _steps(world, node.always, item, ending=True)
        world.end(name, CUT)
        raise
    last = _steps(world, node.always, item, ending=True)
    outcome = FAILED if last.failed else outcome
    leap = max(filter(None, (leap, last.leap)), key=lambda each: each.strength, default=None)
    return hand_on(leap, world.end(name, outcome))


def _block_and_rescue(world: World, node: Node, item: int | None, *, ending: bool) -> tuple[str, Leap | None]:
    first = _steps(world, node.block, item, ending=ending)
    if not first.failed:
        return PASSED if first.leap else first.outcome, first.leap
    if first.leap or not node.rescue:
        return FAILED, first.leap
    again = _steps(world, node.rescue, item, ending=ending)
    return (FAILED if again.failed or again.leap else PASSED), again.leap


def _steps(world: World, nodes: Sequence[Node], item: int | None, *, ending: bool) -> Said:
    return several(
        world,
        nodes,
        lambda node: step(world, node, item, ending=ending),
        weigh=weighed,
        ends=True,
        leave=lambda _node: None,
        ending=ending,
    )


def run(world: World, book: Book, *, ending: bool = False) -> str:
    """A whole runbook, and its outcome."""
    checked, mine = world.checked, len(world.ended)
    early: list[str] = []
    try:
        for part in book.parts:
            if world.asked and not ending:
                raise Cut
            if not early:
                _part(world, part, book.kind, early, ending=ending)
    finally:
        _part(world, Part(book.always, after="continue"), book.kind, early, ending=True)
    top = {node.name: node for node in (*(n for part in book.parts for n in part.steps), *book.always)}
    failed = any(outcome == FAILED and _is_critical(top, name) for name, outcome in world.ended[mine:])
    if failed or {"stop", "end_run"} & set(early):
        return FAILED
    if world.checked == checked and "stop_passed" not in early:
        return NOTHING
    return PASSED


def _is_critical(top: dict[str, Node], name: str) -> bool:
    node = top.get(name) or top.get(name.rpartition(" ")[0])
    return node is not None and node.weight == "critical"


def _part(world: World, part: Part, kind: str, early: list[str], *, ending: bool) -> None:
    """A section: a failed critical step ends it, or the run, as its kind or `after_failure` says."""
    after = part.after or ("end_run" if kind == "scenario" else "continue")
    if part.parallel and any(node.kind not in {"pass", "block"} for node in part.steps):
        world.loose |= {node.name for node in part.steps if node.kind == "pass"}
    said = several(
        world,
        part.steps,
        lambda node: step(world, node, None, ending=ending),
        weigh=weighed,
        ends=after != "continue",
        leave=lambda node: world.end(node.name, SKIPPED),
        ending=ending,
    )
    if said.failed and after == "end_run":
        early.append("end_run")
    if said.leap is not None and said.leap.strength:
        early.append("stop_passed" if said.leap.strength == 1 else "stop")


def expect(book: Book, *, signals: bool) -> tuple[Counter[tuple[str, str]], str, set[str]]:
    """How every step ends, how the run ends, and which steps may as well have been left out."""
    world = World(signals)
    try:
        outcome = run(world, book)
    except Cut:
        outcome = CUT
    return Counter(world.ended), CUT if world.asked else outcome, world.loose

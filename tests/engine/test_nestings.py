"""Generated nestings of blocks, loops, parallel sections, runbooks, leaps, failures and signals, beside a model."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from killed_run import killed_at
from reference_model import Book, Node, Part, expect

from k2run.engine.events import (
    RunFinished,
    SectionFinished,
    SectionStarted,
    StepFinished,
    StepStarted,
)
from k2run.engine.replay import latest
from k2run.engine.run import resume

if TYPE_CHECKING:
    from conftest import Bench

SEEDS = range(200)
TRIED = 0.25
"""Share of the blocks and runbooks that are tried again when they fail."""
HEARD_S = 0.03
"""The signal's own thread has heard it by then."""
LEAPS = {"skip_section": "{because: enough}", "stop_passed": "{because: done, passed: true}", "stop": "{because: no}"}


class Writer:
    """Makes up plans, and writes them as runbooks.

    Args:
        seed: The same seed makes the same plan.
        bench: Where the runbooks that are run are written.
    """

    def __init__(self, seed: int, bench: Bench) -> None:
        self.random = random.Random(seed)
        self.again = random.Random(f"tries of {seed}")
        self.bench = bench
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def book(self, depth: int, *, leaps: bool = True) -> Book:
        parts = tuple(self.part(depth, leaps=leaps) for _ in range(self.random.randint(1, 3)))
        if any(part.parallel for part in parts):  # whether the steps beside one that leaves were checked is open
            parts = (Part((Node(self.name(), "pass"),)), *parts)
        always = tuple(self.node(1, leaps=False, end=True) for _ in range(self.random.randint(0, 2)))
        return Book(self.name(), self.random.choice(["readiness", "scenario"]), parts, always)

    def part(self, depth: int, *, leaps: bool) -> Part:
        after = self.random.choice(["", "", "continue", "end_section", "end_run"])
        if self.random.random() < 0.3:
            return self.at_once(after, leaps=leaps)
        return Part(tuple(self.node(depth, leaps=leaps) for _ in range(self.random.randint(1, 3))), after)

    def at_once(self, after: str, *, leaps: bool) -> Part:
        """Steps at once: none leaves, or one does and the others may or may not have begun."""
        if after == "continue" and self.random.random() < 0.5:
            return Part(tuple(self.node(1, leaps=False, end=True) for _ in range(3)), after, parallel=True)
        beside = [Node(self.name(), "pass") for _ in range(2)]
        leaves = Node(self.name(), self.random.choice(["fail", *(LEAPS if leaps else ())]))
        return Part(tuple(self.random.sample([*beside, leaves], 3)), after, parallel=True)

    def node(self, depth: int, *, leaps: bool, end: bool = False, item: int = 0) -> Node:
        """One step; one in an `always` or beside others sends no signal."""
        kinds = ["pass"] * 4 + ["fail"] * 2 + ([] if end else ["signal"]) * (self.random.random() < 0.15)
        kinds += list(LEAPS) if leaps and self.random.random() < 0.35 else []
        kinds += ["block"] * 5 + ["run"] * (depth > 1 and not end) if depth > 0 else []
        kind = self.random.choice(kinds)
        node = Node(
            self.name(),
            kind,
            weight=self.random.choice(["critical"] * 4 + ["warning", "ignored"]),
            when=self.random.random() > 0.1,
            only=self.random.randint(1, item) if item and self.random.random() < 0.5 else None,
        )
        if kind == "run":
            return replace(node, book=self.book(depth - 2))
        if kind != "block":
            return node
        loop = self.random.choice([0, 0, 2, 3]) if not item else 0
        parallel = bool(loop) and self.random.random() < 0.3
        inside = {"leaps": leaps and not parallel, "end": end or parallel, "item": item or loop}
        return replace(
            node,
            loop=loop,
            parallel=parallel,
            only=None if loop else node.only,
            block=self.nodes(depth - 1, 1, 3, **inside),
            rescue=self.nodes(depth - 1, 0, 2, **inside),
            always=self.nodes(depth - 1, 0, 2, **inside),
        )

    def nodes(self, depth: int, least: int, most: int, **inside: Any) -> tuple[Node, ...]:
        count = self.random.randint(least, most) if least or self.random.random() < 0.5 else 0
        return tuple(self.node(depth, **inside) for _ in range(count))

    def write(self, book: Book) -> str:
        """A plan as a runbook, and those that it runs beside it."""
        lines = ["runbook: 1", f"kind: {book.kind}", f"name: {book.name}", "sections:"]
        for part in book.parts:
            lines.append("  - name: Part")
            lines += ["    parallel: true"] * part.parallel + [f"    after_failure: {part.after}"] * bool(part.after)
            lines += ["    steps:", *self._steps(part.steps, 6)]
        if book.always:
            lines += ["always:", *self._steps(book.always, 2)]
        text = "\n".join(lines) + "\n"
        self.bench.write(text, book.name)
        return text

    def _steps(self, nodes: tuple[Node, ...], indent: int) -> list[str]:
        return [line for node in nodes for line in self._step(node, " " * indent)]

    def _step(self, node: Node, space: str) -> list[str]:
        name = f"{node.name} {{{{ item }}}}" if node.loop else node.name
        lines = [f"{space}- name: '{name}'"]
        more = {"warning": ["severity: warning"], "ignored": ["ignore_failure: true"], "critical": []}[node.weight]
        more += [] if node.when else ["when: 1 == 2"]
        more += [f"when: item == {node.only}"] if node.when and node.only is not None else []
        more += [f"loop: {list(range(1, node.loop + 1))}"] if node.loop else []
        more += ["parallel: true"] if node.parallel else []
        if node.kind in {"block", "run"} and self.again.random() < TRIED:  # the last try is what it would be alone
            more += ["retries: 2", "every: 1ms"]
        match node.kind:
            case "pass" | "signal":
                more.append("assert: {that: true}")
            case "fail":
                more.append("assert: {that: false}")
            case "run":
                assert node.book is not None
                self.write(node.book)
                more.append(f"run: {{runbook: {node.book.name}.yaml}}")
            case "skip_section" | "stop" | "stop_passed":
                more.append(f"{node.kind.removesuffix('_passed')}: {LEAPS[node.kind]}")
        lines += [f"{space}  {line}" for line in more]
        for part in ("block", "rescue", "always"):
            inner = getattr(node, part)
            lines += [f"{space}  {part}:", *self._steps(inner, len(space) + 4)] if inner else []
        return lines


def signalling(book: Book) -> set[str]:
    """The names of the steps after which the run is asked to end."""

    def within(nodes: tuple[Node, ...]) -> set[str]:
        found = {node.name for node in nodes if node.kind == "signal"}
        for node in nodes:
            found |= within((*node.block, *node.rescue, *node.always))
            found |= signalling(node.book) if node.book else set()
        return found

    return within((*(node for part in book.parts for node in part.steps), *book.always))


def without_end(events: list[Any]) -> set[str]:
    began = {e.step for e in events if isinstance(e, StepStarted)}
    began |= {f"section {e.section}" for e in events if isinstance(e, SectionStarted)}
    ended = {e.step for e in events if isinstance(e, StepFinished)}
    return began - ended - {f"section {e.section}" for e in events if isinstance(e, SectionFinished)}


def ends(events: list[Any]) -> Counter[tuple[str, str]]:
    """How the steps ended; the sections of runbooks that are run are told as blocks, and are no steps of the plan."""
    steps = [step for step in latest(events) if step.name != "Part"]
    return Counter((step.name.removesuffix(" …"), step.outcome.value) for step in steps)


def differences(seen: Counter[tuple[str, str]], expected: Counter[tuple[str, str]], loose: set[str]) -> list[str]:
    """Where the record is not what the model says; a loose step may also have been left out."""
    either = {"passed", "skipped"}
    return [
        f"{name}: {seen[name, outcome]} {outcome} instead of {expected[name, outcome]}"
        for name, outcome in sorted(seen.keys() | expected.keys())
        if seen[name, outcome] != expected[name, outcome] and not (name in loose and outcome in either)
    ]


@pytest.mark.parametrize("seeds", [range(first, first + 50) for first in range(0, 200, 50)], ids=str)
def test_generated_nestings_end_as_the_model_says_and_all_that_began_has_an_end(bench: Bench, seeds: range) -> None:
    wrong: list[Any] = []
    for seed in seeds:
        writer = Writer(seed, bench)
        book = writer.book(4)
        expected, outcome, loose = expect(book, signals=True)
        signals = signalling(book)

        def see(event: Any, signals: set[str] = signals) -> None:
            bench.seen.append(event)
            if isinstance(event, StepFinished) and event.name in signals and event.outcome.value == "passed":
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(HEARD_S)
                signals.clear()

        bench.see = see  # type: ignore[method-assign]
        finished = bench.run(writer.write(book))
        problems = differences(ends(bench.seen), expected, loose) + sorted(without_end(bench.seen))
        if finished.outcome.value != outcome or problems:
            wrong.append((seed, finished.outcome.value, outcome, problems))
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_nesting_that_was_killed_and_resumed_ends_as_if_it_had_not_been(bench: Bench, seed: int) -> None:
    writer = Writer(seed, bench)
    book = writer.book(4)
    expected, outcome, loose = expect(book, signals=False)
    text = writer.write(book)
    last = writer.random.randint(2, 3 + 2 * expected.total())
    killed = killed_at(last, bench.folder / f"{book.name}.yaml", stack_file=bench.stack_file, home=bench.store.home)
    finished = bench.journal()[-1]
    if killed and not isinstance(finished, RunFinished):
        finished = resume(bench.request(text), bench.store.find_run("last"))
    assert finished.outcome.value == outcome
    assert not differences(ends(bench.journal()), expected, loose)
    assert not without_end(bench.journal())

"""What the parts of a running run share: its journal, its undos, its variables, and whether it is to end."""

from __future__ import annotations

import threading
from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from k2run.engine.choice import steps_before
from k2run.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from k2run.engine.caller import Caller
    from k2run.engine.delegates import Delegates
    from k2run.engine.events import Outcome
    from k2run.engine.guide import Guided
    from k2run.engine.journal import Journal
    from k2run.engine.past import Past
    from k2run.engine.undo import UndoStack
    from k2run.engine.variables import Variables
    from k2run.language.model import Runbook
    from k2run.stack.loading import Stack

T = TypeVar("T")


class Options(Struct, frozen=True, kw_only=True):
    """How a run was asked for.

    Attributes:
        tags: Only steps with one of these tags.
        skip_tags: No step with one of these tags.
        extra: Values given with `-e`.
        keep: Leave up what the run started.
        max_blast: How far its faults may reach (`service`, `data`, `host`); no limit when empty.
        start_at: The step (its name, id or path) at which the run begins; those before it are left out.
        check: `resolve` calls nothing, `probe` calls what only observes; "" is a real run.
        yes: Destructive steps are approved in advance.
        guided: Somebody decides before each step.
        attended: Somebody is there to answer.
        inbox: They answer from another process, through the run's folder.
        by: Who asked for it, where that is known.
        known_for: Seconds for which the failure was known before a recovery of it began; its clocks count them.
    """

    tags: frozenset[str] = frozenset()
    skip_tags: frozenset[str] = frozenset()
    extra: dict[str, Any] = {}
    keep: bool = False
    max_blast: str = ""
    start_at: str = ""
    check: str = ""
    yes: bool = False
    guided: bool = False
    attended: bool = False
    inbox: bool = False
    by: str = ""
    known_for: float = 0.0


class Execution:
    """One run while it runs.

    Args:
        folder: The run's folder.
        runbook: What is run.
        stack: What it is run on.
        journal: Where everything is recorded.
        caller: Calls actions.
        undos: What is to be put back.
        variables: What expressions see.
        options: How the run was asked for.
        stop: Set when the run is asked to end.
        past: What an earlier part of this run has done.

        cleanup: Set when even what runs at the end is asked to end.
        delegates: Finds other stacks.

    Attributes:
        figures: Figures recorded so far.
        facts: Names that the engine gives to every expression.
        ended_early: Why no further section is run, where that speaks against the run.
        ended_well: The same, where it does not.
        prefix: What stands before the paths of its steps; not empty for a runbook that a step runs.
        section: The section that this step belongs to.
        around: The execution that this step belongs to.
        before: Paths of the steps before the one at which the run begins.
        results: What the turns of the loops under way gave, by their paths.
    """

    def __init__(  # noqa: PLR0913 - the parts of a run meet here and nowhere else
        self,
        *,
        folder: Path,
        runbook: Runbook,
        stack: Stack,
        journal: Journal,
        caller: Caller,
        undos: UndoStack,
        variables: Variables,
        options: Options,
        stop: threading.Event,
        past: Past,
        cleanup: threading.Event | None = None,
        delegates: Delegates | None = None,
    ) -> None:
        self.folder = folder
        self.runbook = runbook
        self.stack = stack
        self.journal = journal
        self.caller = caller
        self.undos = undos
        self.variables = variables
        self.options = options
        self.stop = stop
        self.cleanup = cleanup or threading.Event()
        self.delegates = delegates
        self.past = past
        self.figures = past.figures()
        self.facts = {
            "stack": stack.facts(),
            "run": {"id": folder.name, "folder": str(folder)},
            "figures": self.figures,
        }
        variables.know(self.facts)
        self.results: dict[str, Any] = {}
        self.first_fault = past.first_fault
        self.ended_early = ""
        self.ended_well = ""
        self.prefix = ""
        self.section = ""
        self.around: Execution | None = None
        self.before = steps_before(runbook, options.start_at)
        self.guided: Guided | None = None

    def stand_on(self, past: Past) -> None:
        """Some of what an earlier part has done does not count any more: this does."""
        self.past = past
        self.figures.clear()
        self.figures.update(past.figures())
        self.first_fault = past.first_fault

    def check_stop(self) -> None:
        """Raise when the run has been asked to end.

        Raises:
            Interrupted: It has.
        """
        if self.stop.is_set():
            raise Interrupted("the run was asked to end")

    def fault_began(self, at: float) -> None:
        """A fault is let go; the first one starts the recovery clock."""
        if self.first_fault is None:
            self.first_fault = at
        if self.around is not None:
            self.around.fault_began(at)

    def inside(self, runbook: Runbook, variables: Variables, path: str, section: str) -> Execution:
        """The execution of a runbook that a step runs: the same run, with names, figures and a clock of its own.

        Args:
            runbook: What the step runs.
            variables: What its expressions see.
            path: Path of the step.
            section: Path of the step's section.
        """
        child = copy(self)
        child.around, child.runbook, child.variables = self, runbook, variables
        child.prefix, child.section = f"{path}.run.", section
        child.options = replace(self.options, tags=frozenset(), start_at="")
        child.past = self.past.below(child.prefix)
        child.figures = child.past.figures()
        child.facts = {**self.facts, "figures": child.figures}
        variables.know(child.facts)
        child.first_fault = child.past.first_fault
        child.ended_early = child.ended_well = ""
        child.before = frozenset()
        return child

    @property
    def runner(self) -> str:
        """Who undoes what it broke: the engine, or the step that runs its runbook."""
        return self.prefix.removesuffix(".run.") or "engine"

    def on(self, stack: str) -> Execution:
        """The same execution for a step that is done on another stack.

        Raises:
            StackInvalid: There is no such stack, or its file is wrong.
        """
        assert self.delegates is not None  # noqa: S101 - whoever runs a runbook gives them
        other = copy(self)
        other.stack, other.caller = self.delegates.find(stack, self.stack)
        return other

    def ending(self) -> Execution:
        """The same execution for what runs although the run was asked to end."""
        last = copy(self)
        last.stop = self.cleanup
        return last

    def missing(self, services: Sequence[str]) -> str:
        """Why a step that requires these services does not apply to this stack; empty when it does."""
        for name in services:
            reason = self.stack.absent(name)
            if reason:
                return reason
        return ""

    def debug(self, text: str) -> None:
        """Keep a traceback beside the journal, for whoever repairs the action."""
        with (self.folder / "debug.log").open("a") as file:
            file.write(self.stack.redact(text) + "\n")

    def each(self, turns: Sequence[T], do: Callable[[T], Outcome], *, at_once: int) -> list[Outcome]:
        """Do something for each of several turns, one after the other or several at once.

        Raises:
            Exception: The first error that ended a turn, after all of them are over.
        """
        if at_once <= 1:
            outcomes = []
            for turn in turns:
                self.check_stop()
                outcomes.append(do(turn))
            return outcomes
        return _at_once(turns, do, at_once)


def _at_once(turns: Sequence[T], do: Callable[[T], Outcome], at_once: int) -> list[Outcome]:
    """A few threads share the turns; results stay in the order of the turns."""
    waiting = iter(enumerate(turns))
    lock = threading.Lock()
    outcomes: dict[int, Outcome] = {}
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            with lock:
                number, turn = next(waiting, (None, None))
            if number is None:
                return
            try:
                outcomes[number] = do(turn)  # type: ignore[arg-type]
            except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits for all
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(turns)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [outcomes[number] for number in sorted(outcomes)]

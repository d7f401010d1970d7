"""What the parts of a running run share: its journal, its undos, its variables, and whether it is to end."""

from __future__ import annotations

import threading
import time
from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from k2run.engine.events import ValueKept
from k2run.engine.journal import plain
from k2run.engine.outline import steps_before
from k2run.engine.variables import Sources
from k2run.errors import Interrupted, K2runError
from k2run.language.model import Kind
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from k2run.engine.attempt import Attempt
    from k2run.engine.dispatch import Caller, Delegates
    from k2run.engine.journal import Journal
    from k2run.engine.prompts import Guided
    from k2run.engine.replay import Past, UndoStack
    from k2run.engine.variables import Variables
    from k2run.language.model import Runbook
    from k2run.stack.stack import Stack


class Limit:
    """The end of the time of one block or runbook.

    Args:
        seconds: How long it may take from now.
        name: Whose it is, for people.
    """

    __slots__ = ("_at", "name", "seconds")

    def __init__(self, seconds: Duration, name: str) -> None:
        self.seconds = seconds
        self.name = name
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left; none or less when it has passed."""
        return self._at - time.monotonic()

    @property
    def says(self) -> str:
        """What to tell of whatever did not end in time."""
        return f"not done within {self.seconds}"


class OutOfTime(K2runError):
    """The time of what is around a step has run out; it ends what is inside, up to the owner of the limit."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(f"{limit.says}, the limit of {limit.name!r}", hint="raise its timeout, or find what is slow")
        self.limit = limit


def within(limits: tuple[Limit, ...], seconds: Duration) -> Duration:
    """A step's own time, or what is left of the time around it where that is less."""
    return Duration(max(0.0, min([seconds, *(limit.left() for limit in limits)]))) if limits else seconds


T = TypeVar("T")
_NONE_LEFT = object()


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
        guided: An operator decides before each step.
        attended: An operator is there to answer.
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
        sources: Where its secrets are read again.
        nested: Runs the runbook of a step.

    Attributes:
        asks_nobody: Set when the run ends before its time: there are no more prompts.
        figures: Figures recorded so far.
        facts: Names that the engine gives to every expression.
        ended_early: Why no further section is run, where that speaks against the run.
        ended_well: The same, where it does not.
        late: Sections that were not done within their hard limits, in sentences.
        absences: Why steps do not apply, by their paths.
        untimed: Paths of the steps that waited for a person while none was there, and of those that could not be seen:
            the time of a section with such a step says nothing. With each stands whether it would fail a block.
        changes: Paths of the steps that may have changed the stack; the probes that prove a recovery are none.
        lacking: Why what its faults and changes were to show does not apply; empty when it does.
        unproven: What failed of that which was to prove a recovery; empty when nothing did.
        prefix: What stands before the paths of its steps; not empty for a runbook that a step runs.
        section: The section that this step belongs to.
        around: The execution that this step belongs to.
        before: Paths of the steps before the one at which the run begins.
        results: What the turns of the loops under way gave, by their paths.
        failures: What a rescue may know of the steps that failed, by their paths.
        limits: Hard limits of what is around, the outermost first.
        tags: What its sections inherit from the step that runs its runbook.
        guided: Who decides before each step of a guided run.
    """

    tags: frozenset[str] = frozenset()
    limits: tuple[Limit, ...] = ()
    ended_early = ended_well = unproven = lacking = ""
    prefix = section = ""
    around: Execution | None = None
    guided: Guided | None = None

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
        sources: Sources | None = None,
        nested: Callable[..., Attempt],
    ) -> None:
        self.nested = nested
        self.folder = folder
        self.runbook = runbook
        self.stack = stack
        self.journal = journal
        self.caller = caller
        self.undos = undos
        self.variables = variables
        self.options = options
        self.stop = self.asks_nobody = stop
        self.cleanup = cleanup or threading.Event()
        self.delegates = delegates
        self.sources = sources or Sources(runbook.source, runbook.home, stack, {})
        self.past = past
        self.figures = past.figures()
        self.facts = {
            "stack": stack.facts(),
            "roles": stack.roles,
            "run": {"id": folder.name, "folder": str(folder)},
            "figures": self.figures,
        }
        variables.know(self.facts)
        self.results: dict[str, Any] = {}
        self.failures: dict[str, dict[str, Any]] = {}
        self.absences: dict[str, str] = {}
        self.changes: set[str] = set()
        self.untimed: dict[str, bool] = {}
        self.first_fault = past.first_fault
        self.late: list[str] = []
        self.before = steps_before(runbook, options.start_at)

    def stand_on(self, past: Past) -> None:
        """Some of what an earlier part has done does not count any more: this does."""
        self.past = past
        self.figures.clear()
        self.figures.update(past.figures())
        if self.runbook.kind is not Kind.RECOVERY:  # what a recovery finds broken was broken before it began
            self.first_fault = past.first_fault

    def keep(self, of: str, value: T) -> T:
        """A value as the first start of this run computed it; the journal keeps it for a resume.

        Args:
            of: Path of what it belongs to.
            value: As it is computed now; what is no longer the same gives way to what is kept.
        """
        try:
            now = plain(value)
        except NotImplementedError:  # it has no plain form
            return value
        if of not in self.past.kept:
            self.journal.record(ValueKept(of=of, value=value))
            return value
        known: T = self.past.kept[of]
        return value if self.journal.same(now, known) else known

    def check_stop(self) -> None:
        """Raise when the run has been asked to end.

        Raises:
            Interrupted: It has.
            OutOfTime: An enclosing hard limit has run out.
        """
        if self.stop.is_set():
            raise Interrupted("the run was asked to end")
        for limit in self.limits:
            if limit.left() <= 0:
                raise OutOfTime(limit)

    def fault_began(self, at: float) -> None:
        """A fault is injected; the first one starts the recovery clock."""
        if self.first_fault is None:
            self.first_fault = at
        if self.around is not None:
            self.around.fault_began(at)

    def inside(
        self, runbook: Runbook, variables: Variables, path: str, section: str, tags: frozenset[str]
    ) -> Execution:
        """The execution of a runbook that a step runs: the same run, with names, figures and a clock of its own.

        `path` and `section` are the paths of the step and of its section, `tags` its own with what it inherits.
        """
        child = copy(self)
        child.around, child.runbook, child.variables = self, runbook, variables
        child.prefix, child.section = f"{path}.run.", section
        child.options, child.tags = replace(self.options, start_at=""), tags
        child.past = self.past.below(child.prefix)
        child.figures = child.past.figures()
        child.facts = {**self.facts, "figures": child.figures}
        variables.know(child.facts)
        child.first_fault = child.past.first_fault
        child.ended_early = child.ended_well = child.unproven = child.lacking = ""
        child.before, child.late = frozenset(), []
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
        last.stop, last.limits = self.cleanup, ()
        last.around = self  # a fault in there starts the clock of this one
        return last

    def limited(self, seconds: Duration, name: str) -> Execution:
        """The same execution for what has to end within some time: its last limit is that one."""
        inner = copy(self)
        inner.around = self  # a fault in there starts the clock of this one
        inner.limits = (*self.limits, Limit(seconds, name))
        return inner

    @property
    def against(self) -> list[str]:
        """What speaks against the run beside its steps."""
        ended = [self.ended_early] if self.ended_early and self.ended_early not in self.late else []
        return [*self.late, *ended]

    @property
    def changed(self) -> bool:
        """Whether a step of this runbook, or of one that it runs, may have changed the stack."""
        return any(path.startswith(self.prefix) for path in self.changes)

    def missing(self, services: Sequence[str]) -> str:
        """Why a step that requires these services does not apply to this stack; empty when it does."""
        for name in services:
            reason = self.stack.absent(name)
            if reason:
                return reason
        return ""

    def each(self, turns: Sequence[T], do: Callable[[T], None], *, at_once: int) -> None:
        """Do something for each of several turns, one after the other or several at once.

        Raises:
            Exception: The first error that ended a turn, after all of them are over.
        """

        def unless_stopped(turn: T) -> None:
            self.check_stop()
            do(turn)

        if at_once > 1:
            _at_once(turns, unless_stopped, at_once)
            return
        for turn in turns:
            unless_stopped(turn)


def _at_once(turns: Sequence[T], do: Callable[[T], None], at_once: int) -> None:
    """A few threads share the turns."""
    waiting = iter(turns)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            with lock:
                turn = next(waiting, _NONE_LEFT)
            if turn is _NONE_LEFT:
                return
            try:
                do(turn)  # type: ignore[arg-type]
            except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits for all
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(turns)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]

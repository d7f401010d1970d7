"""What an action is: one Python function, marked, whose signature and docstring say everything; the person it may ask.

    @action("kafka.lag")
    def lag(kafka: Kafka, deadline: Deadline, topic: str, group: str) -> Lag:
        '''Messages that a consumer group still has to read; each argument follows under `Args:`.'''

Parameters whose type is a `Connection` come from the stack, a `Deadline` from the engine, the rest from the step.

A fault is a generator: it yields each `Undo` first, then injects the fault and returns its result. The engine writes
the undo to disk before it resumes the generator.

    @fault("service.pause")
    def pause(services: Services, deadline: Deadline, service: str) -> Striking[Paused]:
        process = services.find(service)
        yield Undo(action="service.resume", args={"service": service}, says=f"resume {service}")
        process.suspend()
        return Paused(...)
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from msgspec import Struct, structs, to_builtins

from k2run.language.quantities import encode_quantity
from k2run.language.vocabulary import Effect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.actions.deadline import Deadline

__all__ = ["Answer", "Blast", "Effect", "Judged", "Mark", "Person", "Result", "Striking", "Undo", "action", "fault"]

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


class Blast(StrEnum):
    """How far a fault, or a change of data, reaches at most, from the least to the most."""

    SERVICE = "service"  # one service, or one connection, and whoever depends on it
    DATA = "data"  # what the stack keeps: every service that reads it
    HOST = "host"  # the machine, and all that runs on it

    def reaches_past(self, most: Blast) -> bool:
        """Whether this is more than `most`."""
        order = list(Blast)
        return order.index(self) > order.index(most)


class Undo(Struct, frozen=True, kw_only=True):
    """How to put back what a fault is about to break, as data.

    Attributes:
        action: Name of the action that undoes it; must be safe to run twice and when nothing is broken.
        args: Its arguments, all plain values.
        says: What it does, for people: "resume consumer".
    """

    action: str
    args: dict[str, Any]
    says: str


Striking = Generator[Undo, None, R]
"""The return type of a fault: yields undos, returns the result."""


class Judged(Struct, frozen=True, kw_only=True):
    """An objective that an action was given, compared with what it measured.

    Attributes:
        objective: As the runbook writes it: `p99 < 500ms`.
        met: None when it was not measured.
        says: What was measured, with the margin: `412 ms, 18 % to spare`.
        excused: That it could not be measured is no failure: there was nothing to compare it with yet.
    """

    objective: str
    met: bool | None
    says: str
    excused: bool = False


class Result(Struct, frozen=True, kw_only=True):
    """Base of every action's result: plain values that `expect` can judge and the journal can keep.

    Units stand in the field names (`p99_ms`, `age_s`, `bytes`). `source` says where the values came from.
    """

    unknowable: ClassVar[frozenset[str]] = frozenset()
    """Fields that are none where the value cannot be known: what is expected of them is then unknown, not false."""

    source: str = ""

    @property
    def outcome(self) -> str:
        """What is registered of a step that did not pass says otherwise."""
        return "passed"

    @property
    def message(self) -> str:
        """Why the step did not pass."""
        return ""

    def headline(self) -> str:
        """The measured value in a few words, shown beside the expectation."""
        shown = [
            f"{name} {value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{name} {value}"
            for name, value in structs.asdict(self).items()
            if name != "source" and isinstance(value, str | int | float) and value != ""
        ]
        return ", ".join(shown[:3])

    def judged(self) -> list[Judged]:
        """The objectives that the action was given by its arguments; the engine records them."""
        return []

    def beside(self) -> dict[str, str]:
        """Texts that are too long for the journal, by the field that they belong to: each gets a file beside it."""
        return {}

    def plain(self) -> dict[str, Any]:
        """The result as JSON types, for the journal."""
        built: dict[str, Any] = to_builtins(self, enc_hook=encode_quantity, str_keys=True)
        return built


class Mark(Struct, frozen=True):
    """What a decorator leaves on a function; a catalogue reads it.

    Attributes:
        punctual: It never outlives its deadline by more than a fraction of a second, and hears a request to stop.
        undone_by: The only actions that a fault may plan as its undo; those of its own adapter when there are none.
    """

    name: str
    effect: Effect
    blast: Blast | None = None
    punctual: bool = False
    undone_by: tuple[str, ...] = ()


def action(
    name: str, *, effect: Effect = Effect.OBSERVES, blast: Blast | None = None, punctual: bool = False
) -> Callable[[F], F]:
    """Mark a function as an action; importing it changes nothing else.

    Args:
        name: `adapter.verb`, where the verb is the function's own name.
        effect: What it does to the stack; faults use `fault` instead.
        blast: How far a change reaches: `data` where it writes what others read, which a protected stack refuses.
        punctual: It waits in short slices and looks at its deadline in each, so it needs no thread that it could be
            left behind in.
    """

    def mark(function: F) -> F:
        function.__k2run__ = Mark(name, effect, blast, punctual)  # type: ignore[attr-defined]
        return function

    return mark


def fault(name: str, *, blast: Blast = Blast.SERVICE, undone_by: str | tuple[str, ...] = ()) -> Callable[[F], F]:
    """Mark a generator function as a fault: it yields its `Undo` before it injects the fault.

    Args:
        name: `adapter.verb`.
        blast: How far it reaches; `--max-blast` limits what a run may do.
        undone_by: The only actions that it may plan as its undo; any of its own adapter when it does not say. `k2run
            undo` plays nothing else from a journal.
    """
    names = (undone_by,) if isinstance(undone_by, str) else undone_by

    def mark(function: F) -> F:
        function.__k2run__ = Mark(name, Effect.BREAKS, blast, undone_by=names)  # type: ignore[attr-defined]
        return function

    return mark


def beginning(text: str, most: int) -> str:
    """The first characters of a text, at most so many before the `…`."""
    return text if len(text) <= most else f"{text[:most]}…"


def ending(text: str, most: int) -> str:
    """The last characters of a text, at most so many after the `…`."""
    return text if len(text) <= most else f"…{text[-most:]}"


class Answer(Struct, frozen=True, kw_only=True):
    """What was answered.

    Attributes:
        text: The answer itself.
        by: Who gave it; empty when no operator answered and the default was taken.
    """

    text: str
    by: str = ""


class Person(ABC):
    """Someone who can be asked; the engine supplies it to the actions that want one.

    Attributes:
        is_there: An operator is there; without one, defaults are taken.
    """

    is_there: bool = True

    def about(self, folder: Path, question: int) -> Person:  # noqa: ARG002 - for those who are not asked face to face
        """The person, told where the run keeps its files and which line of its journal the question will be."""
        return self

    @abstractmethod
    def ask(self, question: str, *, choices: Sequence[str], default: str | None, deadline: Deadline) -> Answer | None:
        """Ask, and wait for an answer until the deadline.

        Args:
            question: What to show.
            choices: The possible answers; empty for free text.
            default: Taken when no operator is there, or none answers in time.
            deadline: How long to wait.

        Returns:
            The answer, or None when no operator is there and no default is declared.
        """


def open_on_desktop(address: str) -> bool:
    """Open an address in the browser of the desktop; whether there is one.

    A browser inside the terminal is none: it would take the terminal away from the run.
    """
    has_desktop = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not has_desktop:
        return False
    import webbrowser

    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False

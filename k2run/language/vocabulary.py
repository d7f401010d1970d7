"""The actions that a runbook may use, as the language needs to know them.

The language does not know any adapter: it is handed a `Vocabulary`. Six words are its own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import Struct

from k2run.language.quantities import Duration  # noqa: TC001 - msgspec resolves the types of fields at run time

if TYPE_CHECKING:
    from collections.abc import Sequence


class Effect(StrEnum):
    """What an action does to the stack."""

    OBSERVES = "observes"
    CHANGES = "changes"
    DESTROYS = "destroys"
    BREAKS = "breaks"


ONLY_LOOKS = frozenset({None, Effect.OBSERVES})
"""Effects of steps that change nothing themselves: observing actions, blocks, and the words of the language."""
HARMS = frozenset({Effect.BREAKS, Effect.DESTROYS})
"""Effects that a stack is protected from."""


class ActionForm(Protocol):
    """The form of one action: what may be written below its name."""

    @property
    def name(self) -> str:
        """`adapter.verb`."""
        ...

    @property
    def arguments(self) -> type[Struct]:
        """A struct of its arguments."""
        ...

    @property
    def result(self) -> Any:
        """The type of its result."""
        ...

    @property
    def effect(self) -> Effect | None:
        """What it does to the stack; None for a word of the language."""
        ...

    @property
    def connections(self) -> tuple[type, ...]:
        """Not empty when it needs a stack."""
        ...


class Vocabulary(Protocol):
    """Finds actions by name."""

    def find(self, name: str) -> ActionForm | None:
        """The action of that name, or None."""
        ...

    def names(self) -> Sequence[str]:
        """Every name, for suggestions."""
        ...


class AssertArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`assert`: all expressions must be true."""

    that: str | list[str]


class WaitArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`wait`: do nothing for a while."""

    for_: Duration = msgspec.field(name="for")


class Word(Struct, frozen=True):
    """An action that belongs to the language itself."""

    name: str
    arguments: Any
    result: Any = None
    connections: tuple[type, ...] = ()
    effect: Effect | None = None


class RunArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`run`: another runbook, with its inputs."""

    runbook: str
    inputs: dict[str, Any] = {}


class StopArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`stop`: end the run here; `always` and undos still run."""

    because: str
    passed: bool = False


class SkipArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """`skip_section`: leave out what is left of this section."""

    because: str = ""


ASSERT = Word("assert", AssertArguments)
WAIT = Word("wait", WaitArguments)
SET = Word("set", dict[str, Any])
RUN = Word("run", RunArguments)
STOP = Word("stop", StopArguments)
SKIP_SECTION = Word("skip_section", SkipArguments)
WORDS = {word.name: word for word in (ASSERT, WAIT, SET, RUN, STOP, SKIP_SECTION)}

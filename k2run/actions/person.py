"""The person in the loop, as an action sees one, and their desktop."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.actions.deadline import Deadline


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

"""What each recovery of a stack came to, and whether it is worth another try."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.recovery.diagnosis import Diagnosis, Suspect

PAUSES_S = (2.0, 5.0, 10.0, 20.0)
"""Seconds before the second try, the third, and so on: a cause that lasts is given time to end."""
PATIENCE_S = 60.0
"""Seconds for which a recovery without a recovery time objective is tried."""


class Help(StrEnum):
    """What a recovery did for the stack."""

    RECOVERED = "recovered"
    GONE = "changed nothing; its failure is gone"
    UNCONFIRMED = "was not started: its symptoms were not confirmed"
    BACK = "recovered, and its failure is back"
    BETTER = "made it better"
    NOTHING = "changed nothing"
    NONE = "did not help"


class Try(Struct, kw_only=True):
    """One run of a recovery.

    Attributes:
        problems: How much was wrong with the stack before it.
        passed: Whether the run passed.
        changed: Whether a step of it may have changed the stack.
        started: Whether it ran: its symptoms were still there at that moment.
        ended: When, in seconds of the monotonic clock.
        help: What it did; None until the stack was diagnosed after it.
    """

    runbook: str
    problems: int
    passed: bool = False
    changed: bool = False
    started: bool = True
    ended: float = 0.0
    help: Help | None = None

    def judge(self, after: Diagnosis) -> None:
        """Say what it did, from the diagnosis that follows it."""
        still = self.runbook in {suspect.runbook for suspect in after.matches}
        if not self.started:
            self.help = Help.UNCONFIRMED
        elif self.passed and not self.changed:
            self.help = Help.NOTHING if still else Help.GONE
        elif self.passed:
            self.help = Help.BACK if still else Help.RECOVERED
        elif not still or problems_of(after) < self.problems:
            self.help = Help.BETTER
        else:
            self.help = Help.NONE if self.changed else Help.NOTHING


def problems_of(found: Diagnosis) -> int:
    """How much is wrong with a stack."""
    return len(found.matches) + len(found.ailing)


class Tries:
    """The recoveries of one stack so far."""

    def __init__(self) -> None:
        self._all: list[Try] = []

    def begin(self, runbook: str, before: Diagnosis) -> None:
        """A recovery is about to run."""
        self._all.append(Try(runbook=runbook, problems=problems_of(before)))

    def end(self, now: float, *, passed: bool, changed: bool) -> None:
        """The recovery that was begun last has run."""
        last = self._all[-1]
        last.ended, last.passed, last.changed = now, passed, changed

    def leave(self, now: float) -> None:
        """The recovery that was begun last was not started."""
        self.end(now, passed=False, changed=False)
        self._all[-1].started = False

    def judge(self, after: Diagnosis) -> None:
        """The stack was diagnosed: what the recoveries before it did can be said."""
        for one in self._all:
            if one.help is None:
                one.judge(after)

    @property
    def names(self) -> list[str]:
        """The recoveries, each once, in the order of their first try."""
        return list(dict.fromkeys(one.runbook for one in self._all))

    def pause(self, suspect: Suspect, known: float, now: float) -> float | None:
        """Seconds until a recovery is worth another try; None when its objective would be over by then.

        Args:
            suspect: The failure, still recognised after its recovery.
            known: When it was recognised first.
            now: The time, as `known` is read.
        """
        mine = [one for one in self._all if one.runbook == suspect.runbook]
        pause = PAUSES_S[min(len(mine), len(PAUSES_S)) - 1]
        wait = max(0.0, mine[-1].ended + pause - now)
        return wait if now + wait < known + (suspect.rto or PATIENCE_S) else None

    def lines(self) -> Iterator[str]:
        """What each recovery did, for people."""
        for name in self.names:
            mine = [one for one in self._all if one.runbook == name]
            times = f" (tried {len(mine)} times)" if len(mine) > 1 else ""
            said = mine[-1].help
            yield f"  {name}: {said.value if said is not None else 'interrupted'}{times}"

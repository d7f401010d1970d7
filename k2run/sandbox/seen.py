"""Which messages were written lately: the window in which a repeated message id is recognised."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WINDOW = 200_000  # at least this many of the last ids are known, at most twice as many; about 100 bytes each


class Seen:
    """The ids of the last messages, in two generations: when the younger is full it becomes the older."""

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._young: set[str] = set()
        self._old: set[str] = set()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def fresh(self, ids: Sequence[str]) -> list[int] | None:
        """Positions of the ids that are new, both to the window and among themselves; None when all are."""
        distinct = set(ids)
        if len(distinct) == len(ids) and self._young.isdisjoint(distinct) and self._old.isdisjoint(distinct):
            return None
        positions = []
        for position, one in enumerate(ids):
            if one in distinct and one not in self._young and one not in self._old:
                distinct.remove(one)
                positions.append(position)
        return positions

    def remember(self, ids: Iterable[str]) -> None:
        """Take in ids that are now in the table."""
        self._young.update(ids)
        if len(self._young) >= self._window:
            self._old, self._young = self._young, set()

"""Long loops in a report, folded: passed turns beyond the first become one row; the journal has them all."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.evidence.wording import Standing, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.evidence.step_view import StepView

SHOWN_TURNS = 25
"""Passed turns of one loop that a report shows one by one; turns that did not pass are all shown."""


class MoreTurns(Struct, frozen=True, kw_only=True):
    """The folded turns of one loop; all passed.

    Attributes:
        count: How many.
        shortest: Seconds that the shortest took.
        longest: Seconds that the longest took.
        first: Line of the journal on which the first of them ended.
        last: Line of the journal on which the last of them ended.
    """

    count: int
    shortest: float
    longest: float
    first: int
    last: int

    @property
    def says(self) -> str:
        """`901 more turns passed, each in <1ms to 3ms`."""
        return f"{self.count:,} more turns passed, each in {span(self.shortest)} to {span(self.longest)}"


def listed(steps: Iterable[StepView]) -> Iterator[StepView | MoreTurns]:
    """Steps in order; of a long loop the first turns, all that did not pass, and the rest as one."""
    for _, group in groupby(steps, key=attrgetter("base")):
        turns = list(group)
        if len(turns) <= SHOWN_TURNS + 1 or turns[0].is_block:
            yield from turns
            continue
        left, more = SHOWN_TURNS, []
        for turn in turns:
            if turn.standing is not Standing.PASSED:
                yield turn
            elif left:
                left -= 1
                yield turn
            else:
                more.append(turn)
        if more:
            yield _folded(more)


def _folded(turns: list[StepView]) -> MoreTurns:
    ends = [turn.finished for turn in turns if turn.finished is not None]
    seconds = [end.seconds for end in ends]
    return MoreTurns(
        count=len(ends), shortest=min(seconds), longest=max(seconds), first=ends[0].seq, last=max(e.seq for e in ends)
    )

"""How a backlog goes down: the offsets that a group has committed, and the rows of the table it writes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.adapters._iceberg.catalog import Iceberg, judged, open_catalog, open_table
from k2run.adapters._kafka import offsets
from k2run.errors import TimedOut, Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyiceberg.catalog import Catalog

    from k2run.actions.deadline import Deadline
    from k2run.adapters._kafka.link import Link


class Moment(Struct, frozen=True):
    """The pipeline at one moment.

    Attributes:
        at: Monotonic seconds, after both were read.
        left: Messages before the target that the group has not committed.
        rows: Of the table.
        commits: Snapshots of the table.
    """

    at: float
    left: int
    rows: int
    commits: int


class Drained(Struct, frozen=True):
    """From the first moment to the one at which nothing was left.

    Attributes:
        gap: The longest time between two looks, in seconds: the error of every time.
        most_left: The most messages that were left at any of them.
    """

    first: Moment
    last: Moment
    gap: float
    most_left: int


class Pipeline:
    """A topic, the group that reads it, and the table that the group writes."""

    def __init__(self, link: Link, topic: str, group: str, iceberg: Iceberg, table: str) -> None:
        self._link, self._topic, self._group = link, topic, group
        self._iceberg, self._table = iceberg, iceberg.full_name(table)
        open_table(iceberg, link.deadline, table)  # says what there is, when there is no such table
        self._catalog: Catalog = open_catalog(iceberg, link.deadline)

    def ends(self) -> dict[int, int]:
        """Where each partition ends now."""
        return {number: span.high for number, span in offsets.spans(self._link, self._topic).items()}

    def look(self, target: Mapping[int, int]) -> Moment:
        """How far it has come: first the offsets, then the rows, which were committed before them."""
        at = offsets.committed(self._link, self._group, self._topic, target)
        left = sum(max(0, end - (at[number] or 0)) for number, end in target.items())
        with judged(self._iceberg, f"count {self._table}"):
            table = self._catalog.load_table(self._table)
        snapshot = table.current_snapshot()
        total = snapshot.summary["total-records"] if snapshot is not None and snapshot.summary is not None else 0
        if total is None:
            raise Unknown(f"the snapshots of {self._table} do not tell how many rows it has")
        return Moment(time.monotonic(), left, int(total), len(table.metadata.snapshots))

    def drain(self, target: Mapping[int, int], every: float, deadline: Deadline) -> Drained:
        """Look until nothing before the target is left.

        Raises:
            TimedOut: The deadline passed first; the message says how far it came.
        """
        first = last = self.look(target)
        gap, most = 0.0, first.left
        while last.left:
            try:
                deadline.sleep(max(0.001, last.at + every - time.monotonic()))
                before, last = last, self.look(target)
            except TimedOut as error:
                done = f"{last.rows - first.rows:,} rows came, {last.left:,} messages are left"
                raise TimedOut(f"{error.message}: {done}", hint=error.hint) from error
            gap, most = max(gap, last.at - before.at), max(most, last.left)
        return Drained(first, last, gap, most)

"""One topic's way into its table: rows, ledger and spill files change together or not at all."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException

from k2run.sandbox import ledger as ledgers
from k2run.sandbox import rows
from k2run.sandbox.program import log
from k2run.sandbox.seen import WINDOW, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table, Transaction

    from k2run.sandbox.dead_letters import DeadLetters
    from k2run.sandbox.ledger import Deferred, Ledger
    from k2run.sandbox.rows import Form, Record
    from k2run.sandbox.spill import Spill, Taken

_ATTEMPTS = 3
_FIRST_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Written:
    """What one commit did."""

    records: list[Record]
    rows: int
    duplicates: int
    rejected: int
    duration_s: float


class Sink:
    """Writes one table, as its only writer. Safe to use from the consumer's and the upkeep's threads."""

    def __init__(self, form: Form, table: Table, spill: Spill, dead: DeadLetters) -> None:
        self.form = form
        self.table = table
        self.spill = spill
        self._dead = dead
        self.ledger = ledgers.read(table.properties)
        self._lock = threading.Lock()
        self._seen = Seen()
        self._seen.remember(_latest_ids(table, WINDOW))
        spill.keep_only(self.ledger.deferred)

    def begin(self, life: str) -> None:
        """Read the topic's life `life` from where its ledger says."""
        self.ledger = self.ledger.begin(life)

    def write(
        self, kept: Sequence[Taken], shed: Sequence[Taken], offsets: Mapping[int, int], names: Mapping[str, str]
    ) -> Written:
        """Put the kept messages into the table and the shed ones aside, and advance to `offsets`, in one commit.

        Raises:
            OSError, CommitFailedException: the table could not be written in three attempts.
        """
        target = self.ledger.advance(offsets)
        if shed:
            target = target.defer(self.spill.save(shed))
        return self._put(kept, target, names)

    def restore(self, spilled: Deferred, names: Mapping[str, str]) -> Written:
        """Put a spill file's messages into the table and the file out of the ledger, in one commit."""
        written = self._put(self.spill.load(spilled), self.ledger.restore(spilled), names)
        self.spill.keep_only(self.ledger.deferred)
        return written

    def look(self) -> Table:
        """The table as it is now, as a copy for another thread.

        Reading fills caches inside a table's metadata, which a commit in the consumer's thread may be copying.
        """
        return self.table.catalog.load_table(self.form.table)

    def change(self, apply: Callable[[Transaction], None]) -> None:
        """Commit another change of the table, such as a rewrite of its files."""
        with self._lock, self.table.transaction() as transaction:
            apply(transaction)

    def forget(self, snapshots: list[int]) -> None:
        """Expire these snapshots of the table."""
        with self._lock:
            self.table.maintenance.expire_snapshots().by_ids(snapshots).commit()
            self.table.refresh()

    def _put(self, messages: Sequence[Taken], target: Ledger, names: Mapping[str, str]) -> Written:
        started = time.monotonic()
        found = rows.read(self.form, messages)
        fresh = self._seen.fresh([record.message_id for record in found.records])
        new = found if fresh is None else found.only(fresh)
        laid_out = rows.lay_out(self.form, new, names)
        self._dead.add(self.form.topic, new.rejected)  # before the commit: after it nobody would read them again
        self._commit(laid_out, target)
        self._seen.remember(laid_out["message_id"].to_pylist())
        return Written(
            new.records,
            laid_out.num_rows,
            len(found.records) - len(new.records),
            len(new.rejected),
            time.monotonic() - started,
        )

    def _commit(self, laid_out: pa.Table, target: Ledger) -> None:
        """Commit rows and ledger, trying three times; an attempt whose end is unknown is found out from the ledger."""
        with self._lock:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    with self.table.transaction() as transaction:
                        transaction.set_properties(ledgers.write(target))
                        if laid_out.num_rows:
                            transaction.append(laid_out)
                    break
                except (OSError, CommitFailedException, CommitStateUnknownException) as problem:
                    log("iceberg_commit_failed", "warning", table=self.form.table, attempt=attempt, error=problem)
                    time.sleep(_FIRST_RETRY_S * 2 ** (attempt - 1))
                    self.table.refresh()
                    if ledgers.read(self.table.properties) == target:
                        break
                    if attempt == _ATTEMPTS:
                        raise
            self.ledger = target


def data_files(table: Table) -> Iterator[DataFile]:
    """The table's current data files, newest first."""
    snapshot = table.current_snapshot()
    manifests = snapshot.manifests(table.io) if snapshot else []
    entries = [entry for manifest in manifests for entry in manifest.fetch_manifest_entry(table.io)]
    for entry in sorted(entries, key=lambda entry: entry.sequence_number or 0, reverse=True):
        yield entry.data_file


def _latest_ids(table: Table, count: int) -> Iterator[str]:
    """The message ids of at least the newest `count` rows."""
    for file in data_files(table):
        if count <= 0:
            return
        ids = pq.read_table(file.file_path.removeprefix("file://"), columns=["message_id"])
        count -= ids.num_rows
        yield from ids["message_id"].to_pylist()

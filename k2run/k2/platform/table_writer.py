"""One topic's way into its table: rows, ledger and spill files change together or not at all.

Long because the upkeep commits to the table between the writer's commits: a table that is committed to every second
falls to pieces without it (few files, few snapshots, no litter).
"""

from __future__ import annotations

import base64
import ctypes
import gc
import re
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NoSuchNamespaceError,
    NoSuchTableError,
    RESTError,
)
from pyiceberg.io.pyarrow import _dataframe_to_data_files

from k2run.k2.platform import rows, topics
from k2run.k2.platform.program import log
from k2run.k2.platform.store_files import is_local, store_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pyarrow.fs import FileSystem
    from pyiceberg.io.pyarrow import PyArrowFileIO
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table, Transaction
    from pyiceberg.table.snapshots import Snapshot

    from k2run.k2.platform.rows import Form, Record, Rejected, SpillFile, Taken
    from k2run.k2.platform.topics import Deferred, Ledger

EVERY_S = 5.0
SWEEP_EVERY_S = 60.0
LITTER_AGE_S = 300.0  # an unreferenced file may still be open in a reader, or be about to be committed

_ROTATE_BYTES = 100 * 1024 * 1024


class DeadLetters:
    """The dead-letter files of one process. After a kill a message may be found in them twice, never not at all."""

    def __init__(self, directory: Path, group: str) -> None:
        self._directory = directory
        self._group = group
        self._file: Path | None = None

    def add(self, topic: str, rejected: Iterable[Rejected]) -> None:
        """Append the messages to the current file; bodies that are not UTF-8 are kept as base64."""
        lines = [msgspec.json.encode(self._entry(topic, one)) + b"\n" for one in rejected]
        if not lines:
            return
        if self._file is None or self._file.stat().st_size > _ROTATE_BYTES:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = self._directory / f"dlq_{datetime.now(UTC):%Y%m%d_%H%M%S_%f}.jsonl"
        with self._file.open("ab") as file:
            file.writelines(lines)

    def _entry(self, topic: str, one: Rejected) -> dict[str, object]:
        at = {"consumer_group": self._group, "topic": topic, "schema_version": "v2"}
        return {
            "timestamp": datetime.now(UTC).isoformat(),
            "error": str(one.error),
            "error_type": type(one.error).__name__,
            **_body(one.message.value),
            "metadata": {**at, "partition": one.message.partition, "offset": one.message.offset},
        }


def _body(value: bytes) -> dict[str, str]:
    try:
        return {"message": value.decode()}
    except UnicodeDecodeError:
        return {"message_base64": base64.b64encode(value).decode()}


WINDOW = 200_000  # at least this many of the last ids are known, at most a quarter more; about 150 bytes each
_GENERATIONS = 4


class Seen:
    """The ids of the last messages, in generations: when the youngest is full, the oldest is forgotten."""

    def __init__(self, window: int = WINDOW) -> None:
        self._most = -(-window // _GENERATIONS)
        self._generations: deque[set[str]] = deque([set()], maxlen=_GENERATIONS + 1)

    def __len__(self) -> int:
        return sum(map(len, self._generations))

    def fresh(self, ids: Sequence[str]) -> list[int] | None:
        """Positions of the ids that are new, both to the window and among themselves; None when all are."""
        distinct = set(ids)
        known = [one for one in self._generations if not one.isdisjoint(distinct)]
        if len(distinct) == len(ids) and not known:
            return None
        positions = []
        for position, one in enumerate(ids):
            if one in distinct and not any(one in generation for generation in known):
                distinct.remove(one)
                positions.append(position)
        return positions

    def remember(self, ids: Iterable[str]) -> None:
        """Take in ids that are now in the table."""
        self._generations[-1].update(ids)
        if len(self._generations[-1]) >= self._most:
            self._generations.append(set())


_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.1, 1.0
PATIENCE_S = 30.0
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-f]+>:? ?")

UNWRITTEN = (
    OSError, CommitFailedException, CommitStateUnknownException, NoSuchNamespaceError, NoSuchTableError, RESTError
)  # fmt: skip
"""What a commit ends with while the catalog, its database, the object store or the table is away."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Messages as rows, and what the ledger will be when they are in the table."""

    records: list[Record]
    laid_out: pa.Table
    target: Ledger
    duplicates: int
    rejected: int
    why: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Written:
    """What one commit did; `before` and `after` are the table's snapshots."""

    prepared: Prepared
    before: Snapshot | None
    after: Snapshot | None
    duration_s: float

    @property
    def rows(self) -> int:
        """Rows that are new in the table."""
        count: int = self.prepared.laid_out.num_rows
        return count


class TableWriter:
    """Writes one table, as its only writer: one thread prepares, one at a time commits, and the upkeep has its own.

    Attributes:
        ledger: What the table says.
        reached: What it will say when all that was prepared is committed.
    """

    def __init__(
        self,
        form: Form,
        table: Table,
        spill: SpillFile,
        dead: DeadLetters,
        stopping: threading.Event | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.form = form
        self.table = table
        self.spill = spill
        self._dead = dead
        self.ledger = self.reached = self._known = topics.read_ledger(table.properties)
        self._stopping = stopping or threading.Event()
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._seen = Seen()
        self._seen.remember(_latest_ids(table, WINDOW))
        spill.keep_only(self.ledger.deferred)

    def begin(self, life: str) -> None:
        """Read the topic's life `life` from where its ledger says."""
        self.ledger = self.reached = self.ledger.begin(life)

    def prepare(
        self, kept: Sequence[Taken], shed: Sequence[Taken], offsets: Mapping[int, int], names: Mapping[str, str]
    ) -> Prepared:
        """Make rows of the kept messages, put the shed ones aside, and advance to `offsets`; `commit` must follow."""
        target = self.reached.advance(offsets)
        if shed:
            target = target.defer(self.spill.save(shed))
        return self._prepare(kept, target, names)

    def commit(self, prepared: Prepared) -> Written:
        """Rows and ledger become part of the table, in one commit.

        Raises:
            OSError: the table could not be written within the patience, or another one has written it.
        """
        started, before = time.monotonic(), self.table.current_snapshot()
        self._commit(prepared.laid_out, prepared.target)
        took = prepared.duration_s + time.monotonic() - started
        return Written(prepared, before, self.table.current_snapshot(), took)

    def reread(self) -> None:
        """Read the topic's present life from its start once more; rows that are in the table are known by their ids."""
        self.ledger = self.reached = self.ledger.reread()

    def write(
        self, kept: Sequence[Taken], shed: Sequence[Taken], offsets: Mapping[int, int], names: Mapping[str, str]
    ) -> Written:
        """Prepare messages and commit them.

        Raises:
            OSError: the table could not be written within the patience, or another one has written it.
        """
        return self.commit(self.prepare(kept, shed, offsets, names))

    def restore(self, spilled: Deferred, names: Mapping[str, str]) -> Written:
        """Put a spill file's messages into the table and the file out of the ledger, in one commit."""
        written = self.commit(self._prepare(self.spill.load(spilled), self.reached.restore(spilled), names))
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

    def _prepare(self, messages: Sequence[Taken], target: Ledger, names: Mapping[str, str]) -> Prepared:
        started = time.monotonic()
        found = self.form.read(messages)
        fresh = self._seen.fresh([record.message_id for record in found.records])
        new = found if fresh is None else found.only(fresh)
        laid_out = rows.lay_out(self.form, new, names)
        self._dead.add(self.form.topic, new.rejected)  # before the commit: after it they would not be read again
        self._seen.remember(laid_out["message_id"].to_pylist())
        self.reached = target
        return Prepared(
            new.records,
            laid_out,
            target,
            len(found.records) - len(new.records),
            len(new.rejected),
            str(new.rejected[0].error) if new.rejected else "",
            time.monotonic() - started,
        )

    def _commit(self, laid_out: pa.Table, target: Ledger) -> None:
        """Commit rows and ledger, again and again while the store or the catalog is away, at most for the patience.

        An attempt whose end is unknown is found out from the ledger before there is another. The rows are written
        once: later attempts name the same files.
        """
        started = time.monotonic()
        pause, written, last = _FIRST_RETRY_S, None, False
        with self._lock:
            while True:
                try:
                    if written is None and laid_out.num_rows:
                        written = list(
                            _dataframe_to_data_files(table_metadata=self.table.metadata, df=laid_out, io=self.table.io)
                        )
                    self._append(written or (), target)
                    break
                except UNWRITTEN as problem:
                    log("iceberg_commit_failed", "warning", table=self.form.table, error=first_line(problem))
                    if last:
                        raise OSError(first_line(problem)) from problem
                    while not self._is_known(started, pause, problem):
                        pause = min(2 * pause, _LONGEST_RETRY_S)
                    last = time.monotonic() - started > self._patience_s
                    found = topics.read_ledger(self.table.properties)
                    if found == target:
                        break
                    if found != self._known:  # such as an attempt of an earlier process that its catalog got to late
                        raise OSError(f"{self.form.table} was written by another one meanwhile") from problem
            self.ledger = self._known = target

    def _append(self, files: Iterable[DataFile], target: Ledger) -> None:
        """One attempt: the files and the ledger become part of the table together."""
        with self.table.transaction() as transaction:
            transaction.set_properties(topics.write_ledger(target))
            if files:
                with transaction.update_snapshot().merge_append() as append:
                    for file in files:
                        append.append_data_file(file)

    def _is_known(self, started: float, pause: float, problem: Exception) -> bool:
        """After a pause: whether the table's state could be read again.

        The last look comes after the patience has ended: whoever starts a store and sees this program run then can rely
        on it to write again.

        Raises:
            OSError: The patience has ended, or the program is to stop.
        """
        if self._stopping.wait(pause):
            raise OSError(first_line(problem)) from problem
        over = time.monotonic() - started > self._patience_s
        try:
            self.table.refresh()
        except UNWRITTEN:
            if over:
                raise OSError(first_line(problem)) from problem
            return False
        return True


def first_line(problem: BaseException) -> str:
    """What an error says, in a line: the words of the system below without the addresses of objects."""
    said = str(problem).strip().split("\n", 1)[0] or type(problem).__name__
    return _ADDRESS.sub("", said)


def read_file(table: Table, file: DataFile, columns: list[str] | None = None) -> pa.Table:
    """The rows of one data file."""
    with table.io.new_input(file.file_path).open() as stream:
        return pq.read_table(stream, columns=columns)


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
        ids = read_file(table, file, ["message_id"])
        count -= ids.num_rows
        yield from ids["message_id"].to_pylist()


# A commit copies the metadata of every snapshot several times over, at about 3 ms a snapshot.
MOST_SNAPSHOTS, KEPT_SNAPSHOTS = 40, 25

# Files are merged with others of their size: (rows fewer than, at least so many files).
TIERS = ((4_000, 20), (40_000, 8), (200_000, 4))
LARGEST_MERGE = 250_000  # rows; about 100 MB in memory


class Upkeep:
    """Merges small files, forgets old snapshots and deletes what nothing refers to."""

    def __init__(self, sinks: Sequence[TableWriter], calm: Callable[[], bool]) -> None:
        self._sinks = sinks
        self._calm = calm

    def watch(self, stopping: threading.Event) -> None:
        """Tend the tables every few seconds, in a thread of its own, until told to stop."""
        threading.Thread(target=self._watch, args=(stopping,), name="upkeep", daemon=True).start()

    def _watch(self, stopping: threading.Event) -> None:
        swept = time.monotonic()
        while not stopping.wait(EVERY_S):
            sweeps = time.monotonic() - swept > SWEEP_EVERY_S
            if sweeps:
                swept = time.monotonic()
            for sink in self._sinks:
                self._tend(sink, sweeps)
            if sweeps:
                give_back()

    def _tend(self, sink: TableWriter, sweeps: bool) -> None:
        try:
            expire(sink)  # under load too: every snapshot makes the next commit slower
            if self._calm():
                merge(sink)
            if sweeps:
                sweep(sink.look())
        except Exception as problem:  # noqa: BLE001  a table that is untidy for longer is better than no consumer
            log("upkeep_failed", "error", table=sink.form.table, error=problem)


def give_back() -> None:
    """Give memory that is not used any more back to the system.

    The tables that were checked hang together in cycles, which the consumer's collector hardly ever looks for; and
    what many short threads have freed stays with the allocator of the C library.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def due(files: Sequence[DataFile]) -> list[DataFile]:
    """The files to merge next, or none. Files of similar size go together, so that each row is rewritten rarely."""
    smallest = 0
    for largest, enough in TIERS:
        alike = [file for file in files if smallest <= file.record_count < largest]
        smallest = largest
        if len(alike) < enough:
            continue
        chosen, rows = [], 0
        for file in reversed(alike):  # oldest first
            if rows + file.record_count > LARGEST_MERGE:
                break
            chosen.append(file)
            rows += file.record_count
        return chosen
    return []


def merge(sink: TableWriter) -> None:
    """Rewrite the files that are due as one, ordered by the rows' time."""
    table = sink.look()
    files = due(list(data_files(table)))
    if not files:
        return
    started = time.monotonic()
    rows = pa.concat_tables([read_file(table, file) for file in files])
    rows = rows.sort_by("timestamp" if "timestamp" in rows.column_names else "ingestion_timestamp")
    merged = list(_dataframe_to_data_files(table_metadata=table.metadata, df=rows, io=table.io))

    def replace(transaction: Transaction) -> None:
        with transaction.update_snapshot().overwrite() as rewrite:
            for file in files:
                rewrite.delete_data_file(file)
            for file in merged:
                rewrite.append_data_file(file)

    sink.change(replace)
    log(
        "Iceberg files merged",
        table=sink.form.table,
        files=len(files),
        rows=rows.num_rows,
        duration_seconds=time.monotonic() - started,
    )


def expire(sink: TableWriter) -> None:
    """Forget all but the newest snapshots once there are too many."""
    snapshots = sorted(sink.table.metadata.snapshots, key=lambda snapshot: snapshot.timestamp_ms)
    if len(snapshots) <= MOST_SNAPSHOTS:
        return
    old = [snapshot.snapshot_id for snapshot in snapshots[:-KEPT_SNAPSHOTS]]
    sink.forget(old)


def sweep(table: Table) -> int:
    """Delete data files and manifests that no snapshot refers to; how many."""
    wanted = {entry.metadata_file for entry in table.metadata.metadata_log} | {table.metadata_location}
    for snapshot in table.metadata.snapshots:
        wanted.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            wanted.add(manifest.manifest_path)
            wanted.update(entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io))
    kept = {store_path(location) for location in wanted}
    store, folder = store_of(table)
    oldest = time.time() - LITTER_AGE_S
    litter = [
        found.path
        for found in store.get_file_info(FileSelector(folder, recursive=True))
        if found.extension in {"parquet", "avro"} and found.path not in kept and found.mtime.timestamp() < oldest
    ]
    for path in litter:
        with suppress(FileNotFoundError):
            store.delete_file(path)
    return len(litter)


def store_of(table: Table) -> tuple[FileSystem, str]:
    """The file system of a table, and its folder there."""
    parts = urlsplit(table.location())
    remote = not is_local(table.location())
    scheme, netloc = (parts.scheme, parts.netloc) if remote else ("file", "")
    return cast("PyArrowFileIO", table.io).fs_by_scheme(scheme, netloc), store_path(table.location())

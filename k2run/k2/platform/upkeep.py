"""Keeps a table that is committed to every second from falling to pieces: few files, few snapshots, no litter."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow.fs import FileSelector
from pyiceberg.io.pyarrow import _dataframe_to_data_files

from k2run.k2.platform.program import log
from k2run.k2.platform.store_files import is_local, store_path
from k2run.k2.platform.table_writer import data_files, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyarrow.fs import FileSystem
    from pyiceberg.io.pyarrow import PyArrowFileIO
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table, Transaction

    from k2run.k2.platform.table_writer import TableWriter

EVERY_S = 5.0
SWEEP_EVERY_S = 60.0
LITTER_AGE_S = 300.0  # an unreferenced file may still be open in a reader, or be about to be committed

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

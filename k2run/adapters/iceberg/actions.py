"""Iceberg: what tables there are, how much is in them, how fresh, how large and whether anything is in there twice."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from k2run.actions.action import action
from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg import duckdb_sql
from k2run.adapters.iceberg import results as r
from k2run.adapters.iceberg.catalog import Iceberg, catalog_lock, judged, open_catalog, open_table, table_names
from k2run.adapters.iceberg.duckdb_sql import data_files
from k2run.adapters.iceberg.integrity import intact
from k2run.adapters.iceberg.writes import append, compact, drop_damaged, expire_snapshots, rollback
from k2run.errors import Unknown
from k2run.language.quantities import Size

if TYPE_CHECKING:
    from pyiceberg.table.snapshots import Snapshot

# Actions too, made in other modules.
__all__ = ["append", "catalog_lock", "compact", "drop_damaged", "expire_snapshots", "intact", "rollback"]

GIBIBYTE = Size(2**30)
MEBIBYTE = Size(2**20)
THREADS = 2


@action("iceberg.tables")
def tables(iceberg: Iceberg, deadline: Deadline, namespace: str = "") -> r.Tables:
    """The tables of a namespace; none at all is unknown.

    Args:
        namespace: Which; without it the one of the connection.
    """
    catalog = open_catalog(iceberg, deadline)
    space = namespace or iceberg.namespace
    with judged(iceberg, f"list the tables of {space}"):
        found = table_names(catalog, space)
    if not found:
        raise Unknown(f"the namespace {space} of the catalog at {iceberg.address} has no tables")
    return r.Tables(tables=found, count=len(found), source=iceberg.source)


@action("iceberg.schema")
def schema(iceberg: Iceberg, deadline: Deadline, table: str, columns: list[str] = []) -> r.TableSchema:
    """The columns of a table, compared with those it should have.

    Args:
        table: Name of the table, with or without its namespace.
        columns: Names of the columns that it should have, no more and no less; empty means no comparison.
    """
    found = open_table(iceberg, deadline, table)
    fields = found.schema().fields
    names = [field.name for field in fields]
    return r.TableSchema(
        table=iceberg.full_name(table),
        columns={field.name: str(field.field_type) for field in fields},
        count=len(fields),
        required=[field.name for field in fields if field.required],
        missing=[name for name in columns if name not in names],
        extra=[name for name in names if name not in columns] if columns else [],
        partitioned_by=[
            f"{part.transform}({found.schema().find_column_name(part.source_id)})" for part in found.spec().fields
        ],
        sorted_by=[
            f"{found.schema().find_column_name(part.source_id)} {part.direction.value}"
            for part in found.sort_order().fields
        ],
        source=iceberg.source,
    )


@action("iceberg.rows")
def rows(
    iceberg: Iceberg, deadline: Deadline, table: str, where: str = "", snapshot: int = 0, memory: Size = GIBIBYTE
) -> r.Rows:
    """How many rows a table has; all of them from its metadata alone, those that meet a condition by reading.

    Args:
        table: Name of the table, with or without its namespace.
        where: A condition in SQL, such as `symbol = 'BTCUSDT'`.
        snapshot: Id of an earlier snapshot to look at; 0 is the current one.
        memory: What reading may use.
    """
    found = open_table(iceberg, deadline, table, snapshot)
    current = found.current_snapshot()
    total = None if where else _told_total(current)
    if total is None:
        with judged(iceberg, f"count {table}"), duckdb_sql.opened({"t": found}, deadline, memory, THREADS) as database:
            counted = "SELECT count(*) AS n FROM t" + (f" WHERE ({where})" if where else "")  # noqa: S608 - the author's condition, locked in
            duckdb_sql.table_names(counted)  # refuses what would be more than one SELECT
            (row,) = duckdb_sql.ask(database, counted, {}, 1).rows
    return r.Rows(
        table=iceberg.full_name(table),
        rows=row["n"] if total is None else total,
        told_by="rows" if total is None else "snapshot",
        snapshot_id=current.snapshot_id if current else None,
        source=iceberg.source,
    )


@action("iceberg.snapshots")
def snapshots(iceberg: Iceberg, deadline: Deadline, table: str, limit: int = 10) -> r.Snapshots:
    """The committed states of a table, newest first; a table never written is unknown.

    Args:
        table: Name of the table, with or without its namespace.
        limit: How many to show at most.
    """
    found = open_table(iceberg, deadline, table)
    kept = sorted(found.snapshots(), key=lambda snapshot: snapshot.timestamp_ms, reverse=True)
    if not kept:
        raise Unknown(f"nothing was ever written to {iceberg.full_name(table)}")
    return r.Snapshots(
        table=iceberg.full_name(table),
        count=len(kept),
        snapshots=[_shown(snapshot) for snapshot in kept[:limit]],
        newest_age_s=time.time() - kept[0].timestamp_ms / 1000,
        source=iceberg.source,
    )


@action("iceberg.files")
def files(iceberg: Iceberg, deadline: Deadline, table: str, small: Size = MEBIBYTE) -> r.Files:
    """Number and sizes of a table's data files.

    Args:
        table: Name of the table, with or without its namespace.
        small: Files below this size are counted as small ones, such as `1MiB`.
    """
    found = open_table(iceberg, deadline, table)
    with judged(iceberg, f"read the manifests of {table}"):
        tasks = data_files(found)
    sizes = [task.file.file_size_in_bytes for task in tasks]
    return r.Files(
        table=iceberg.full_name(table),
        count=len(sizes),
        bytes=sum(sizes),
        rows=sum(task.file.record_count for task in tasks),
        smallest_bytes=min(sizes, default=None),
        largest_bytes=max(sizes, default=None),
        mean_bytes=sum(sizes) / len(sizes) if sizes else None,
        small=sum(size < small for size in sizes),
        delete_files=len({delete.file_path for task in tasks for delete in task.delete_files}),
        source=iceberg.source,
    )


@action("iceberg.freshness")
def freshness(
    iceberg: Iceberg, deadline: Deadline, table: str, column: str = "timestamp", memory: Size = GIBIBYTE
) -> r.Freshness:
    """How old the newest row of a table is, and over how long a time its rows spread.

    Told by the manifests where they keep the bounds of the column, without opening a data file.

    Args:
        table: Name of the table, with or without its namespace.
        column: A column of timestamps; without a time zone they are taken as UTC.
        memory: What reading may use.
    """
    found = open_table(iceberg, deadline, table)
    with judged(iceberg, f"read the times of {table}"):
        oldest, newest, told_by = duckdb_sql.time_bounds(found, column, deadline, memory)
    return r.Freshness(
        table=iceberg.full_name(table),
        column=column,
        newest=newest.isoformat(),
        oldest=oldest.isoformat(),
        age_s=(datetime.now(UTC) - newest).total_seconds(),
        span_s=(newest - oldest).total_seconds(),
        told_by=told_by,
        source=iceberg.source,
    )


@action("iceberg.compression")
def compression(iceberg: Iceberg, deadline: Deadline, table: str, sample: int = 5000) -> r.Compression:
    """How much smaller a table's files are than their content: bytes over bytes, from the footers of all files.

    `ratio` is what the codec saves: column chunks before compression over column chunks as stored. `json_ratio`
    compares the files with the same rows as JSON documents, whose size is measured on a sample.

    Args:
        table: Name of the table, with or without its namespace.
        sample: Rows on which the size of a JSON document is measured.
    """
    found = open_table(iceberg, deadline, table)
    with judged(iceberg, f"read the files of {table}"):
        tasks = [task for task in data_files(found) if task.file.record_count]
        if not tasks:
            raise Unknown(f"the table {iceberg.full_name(table)} has no rows to compress")
        sizes = duckdb_sql.sizes(found, tasks, deadline)
        per_row, sampled = duckdb_sql.json_bytes_per_row(found, tasks, sample)
    file_bytes = sum(task.file.file_size_in_bytes for task in tasks)
    count = sum(task.file.record_count for task in tasks)
    return r.Compression(
        table=iceberg.full_name(table),
        ratio=sizes.uncompressed / sizes.compressed,
        json_ratio=per_row * count / file_bytes,
        uncompressed_bytes=sizes.uncompressed,
        compressed_bytes=sizes.compressed,
        file_bytes=file_bytes,
        files=len(tasks),
        rows=count,
        json_bytes_per_row=per_row,
        sampled_rows=sampled,
        codecs=sizes.codecs,
        source=iceberg.source,
    )


@action("iceberg.duplicates")
def duplicates(
    iceberg: Iceberg,
    deadline: Deadline,
    table: str,
    column: str = "message_id",
    where: str = "",
    memory: Size = GIBIBYTE,
) -> r.Duplicates:
    """Rows whose value in a column that should be unique is there more than once; no rows at all is unknown.

    Args:
        table: Name of the table, with or without its namespace.
        column: The column that should be unique.
        where: Which rows to look at: a condition in SQL, such as `order_id LIKE 'K2RUN-%'`.
        memory: What counting may use; it spills to disk beyond that.
    """
    found = open_table(iceberg, deadline, table)
    duckdb_sql.column_of(found, column)
    chosen = f"FROM t WHERE ({where})" if where else "FROM t"
    counts = f'SELECT count(*) AS n, count("{column}") AS filled, count(DISTINCT "{column}") AS ids {chosen}'
    twice = f'SELECT "{column}" AS id {chosen} GROUP BY 1 HAVING count(*) > 1 AND id IS NOT NULL ORDER BY 1'
    duckdb_sql.table_names(counts)  # refuses what would be more than one SELECT
    with judged(iceberg, f"count {table}"), duckdb_sql.opened({"t": found}, deadline, memory, THREADS) as database:
        (row,) = duckdb_sql.ask(database, counts, {}, 1).rows
        doubled = row["filled"] > row["ids"]
        examples = duckdb_sql.ask(database, twice, {}, 5).rows if doubled else []
    if not row["n"]:
        raise Unknown(f"the table {iceberg.full_name(table)} has no such rows, so nothing can be said of duplicates")
    return r.Duplicates(
        table=iceberg.full_name(table),
        column=column,
        rows=row["n"],
        distinct=row["ids"],
        duplicates=row["filled"] - row["ids"],
        nulls=row["n"] - row["filled"],
        examples=[each["id"] for each in examples],
        source=iceberg.source,
    )


def _told_total(snapshot: Snapshot | None) -> int | None:
    """The number of rows as the snapshot's summary has it; None when rows were deleted in place or it has none."""
    if snapshot is None:
        return 0
    summary = snapshot.summary
    if summary is None or int(summary["total-delete-files"] or 0) or summary["total-records"] is None:
        return None
    return int(summary["total-records"])


def _shown(snapshot: Snapshot) -> r.Snapshot:
    summary = snapshot.summary

    def count(key: str) -> int | None:
        value = summary[key] if summary is not None else None
        return int(value) if value is not None else None

    return r.Snapshot(
        id=snapshot.snapshot_id,
        time=datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC).isoformat(),
        operation=summary.operation.value if summary is not None else "",
        added_rows=count("added-records"),
        total_rows=count("total-records"),
    )

"""The actions that change a table: append, compact, expire snapshots, roll back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from k2run.actions.action import Blast, Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg import results as r
from k2run.adapters.iceberg.catalog import Iceberg, judged, open_table
from k2run.adapters.iceberg.views import MOST_COPIED, data_files
from k2run.errors import AuthorError, Refused, Unknown
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table


@action("iceberg.append", effect=Effect.CHANGES, blast=Blast.DATA)
def append(iceberg: Iceberg, deadline: Deadline, table: str, rows: list[dict[str, Any]]) -> r.Appended:
    """Add rows to a table, in one commit.

    Args:
        table: Name of the table, with or without its namespace.
        rows: Each a mapping of column to value; times as ISO 8601, decimals as text or numbers; a missing
            column is null.
    """
    if not rows:
        raise AuthorError("iceberg.append needs some rows")
    found = open_table(iceberg, deadline, table)
    content = _typed(found, rows)
    with judged(iceberg, f"append to {table}"):
        found.append(content)
    return r.Appended(
        table=iceberg.full_name(table), rows=len(rows), snapshot_id=_current(found), source=iceberg.source
    )


@action("iceberg.compact", effect=Effect.CHANGES, blast=Blast.DATA)
def compact(iceberg: Iceberg, deadline: Deadline, table: str) -> r.Compacted:
    """Rewrite a table's rows into as few files as they need, in one commit; earlier snapshots stay.

    The rows go through memory, up to five million of them. A concurrent commit makes this one fail.

    Args:
        table: Name of the table, with or without its namespace.
    """
    found = open_table(iceberg, deadline, table)
    with judged(iceberg, f"compact {table}"):
        before = data_files(found)
        rows = sum(task.file.record_count for task in before)
        if not before:
            raise Unknown(f"the table {iceberg.full_name(table)} has no files to compact")
        if rows > MOST_COPIED:
            raise Refused(f"{iceberg.full_name(table)} has {rows:,} rows: more than {MOST_COPIED:,} are not copied")
        content = found.scan().to_arrow()
        deadline.remaining()
        found.overwrite(content)
        after = data_files(found)
    return r.Compacted(
        table=iceberg.full_name(table),
        rows=content.num_rows,
        files_before=len(before),
        files_after=len(after),
        bytes_before=sum(task.file.file_size_in_bytes for task in before),
        bytes_after=sum(task.file.file_size_in_bytes for task in after),
        snapshot_id=_current(found),
        source=iceberg.source,
    )


@action("iceberg.expire_snapshots", effect=Effect.DESTROYS)
def expire_snapshots(
    iceberg: Iceberg, deadline: Deadline, table: str, older_than: Duration, keep: int = 1
) -> r.Expired:
    """Forget old snapshots of a table; its files stay where they are until they are removed.

    Args:
        table: Name of the table, with or without its namespace.
        older_than: Only snapshots committed longer ago than this, such as `90d`.
        keep: How many of the newest stay in any case; the current one and those with a name always do.
    """
    found = open_table(iceberg, deadline, table)
    until_ms = (time.time() - older_than) * 1000
    newest_first = sorted(found.snapshots(), key=lambda snapshot: snapshot.timestamp_ms, reverse=True)
    named = {reference.snapshot_id for reference in found.refs().values()}
    old = [
        snapshot.snapshot_id
        for snapshot in newest_first[max(keep, 0) :]
        if snapshot.timestamp_ms < until_ms and snapshot.snapshot_id not in named
    ]
    with judged(iceberg, f"expire snapshots of {table}"):
        if old:
            found.maintenance.expire_snapshots().by_ids(old).commit()
    left = len(open_table(iceberg, deadline, table).snapshots())
    return r.Expired(table=iceberg.full_name(table), expired=len(old), kept=left, source=iceberg.source)


@action("iceberg.rollback", effect=Effect.DESTROYS)
def rollback(
    iceberg: Iceberg, deadline: Deadline, table: str, snapshot: int = 0, ago: Duration | None = None
) -> r.RolledBack:
    """Make an earlier snapshot the current one; what was written since is no longer seen.

    Args:
        table: Name of the table, with or without its namespace.
        snapshot: Id of the snapshot, an ancestor of the current one.
        ago: Instead of an id: the state of so long ago.
    """
    if bool(snapshot) == (ago is not None):
        raise AuthorError("iceberg.rollback needs either a snapshot or `ago`")
    found = open_table(iceberg, deadline, table)
    before = _current(found)
    with judged(iceberg, f"roll back {table}"):
        then = found.snapshot_by_id(snapshot) if ago is None else found.snapshot_as_of_timestamp(_ms_ago(ago))
        if then is None:
            raise Unknown(f"{iceberg.full_name(table)} has no such snapshot", hint="see iceberg.snapshots")
        found.manage_snapshots().rollback_to_snapshot(then.snapshot_id).commit()
    return r.RolledBack(
        table=iceberg.full_name(table), snapshot_id=then.snapshot_id, from_snapshot_id=before, source=iceberg.source
    )


def _ms_ago(ago: Duration) -> int:
    return int((time.time() - ago) * 1000)


def _current(table: Table) -> int:
    snapshot = table.current_snapshot()
    return snapshot.snapshot_id if snapshot is not None else 0


def _typed(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    """The rows in the table's own types.

    Raises:
        AuthorError: A column is not the table's, or a value does not fit.
    """
    import pyarrow as pa

    target = table.schema().as_arrow()
    unknown = sorted({name for row in rows for name in row} - set(target.names))
    if unknown:
        raise AuthorError(f"{'.'.join(table.name())} has no column {', '.join(unknown)}")
    try:
        return pa.table([_column(field, [row.get(field.name) for row in rows]) for field in target], schema=target)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
        raise AuthorError(f"a row does not fit {'.'.join(table.name())}: {error}") from error


def _column(field: pa.Field, values: list[Any]) -> pa.Array:
    """A column of JSON values in Arrow's type; text is read as whatever the column holds."""
    import pyarrow as pa

    if pa.types.is_decimal(field.type):
        values = [None if value is None else str(value) for value in values]
    return (
        pa.array(values).cast(field.type) if any(isinstance(v, str) for v in values) else pa.array(values, field.type)
    )

"""The actions that change a table: append, compact, expire snapshots, roll back, drop missing or damaged files."""

from __future__ import annotations

import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.actions.action import Blast, Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg import results as r
from k2run.adapters.iceberg.catalog import Iceberg, judged, open_catalog, open_table
from k2run.adapters.iceberg.duckdb_sql import MOST_COPIED, data_files, local_path
from k2run.adapters.iceberg.integrity import Seen, Wrong, current_id, files_of, looked, opened
from k2run.errors import AuthorError, Refused, Unknown
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot


@action("iceberg.append", effect=Effect.CHANGES, blast=Blast.DATA)
def append(iceberg: Iceberg, deadline: Deadline, table: str, rows: list[dict[str, Any]]) -> r.Appended:
    """Add rows to a table, in one commit.

    Args:
        table: Name of the table, with or without its namespace.
        rows: Each a mapping of column to value; times as ISO 8601, decimals as text or numbers; a missing
            column is null.
    """
    if not rows:
        raise AuthorError("iceberg.append needs rows")
    found = open_table(iceberg, deadline, table)
    content = _typed(found, rows)
    with judged(iceberg, f"append to {table}"):
        found.append(content)
    return r.Appended(
        table=iceberg.full_name(table), rows=len(rows), snapshot_id=current_id(found), source=iceberg.source
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
        snapshot_id=current_id(found),
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
    before = current_id(found)
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


class Dropped(Result, frozen=True, kw_only=True):
    """A table does without the files that were missing or damaged.

    Attributes:
        changed: There were any.
        files: How many data files it names no more.
        rows: How many rows were in them.
        snapshot_id: The snapshot that is current now.
        from_snapshot_id: The one that was; it is kept, and still names the files.
        rolled_back: The metadata of the newest snapshot could not be read, so an earlier one was taken.
    """

    table: str
    changed: bool
    files: int
    rows: int
    snapshot_id: int
    from_snapshot_id: int
    rolled_back: bool

    def headline(self) -> str:
        """Such as `1 file with 200 rows is out of the table`."""
        if not self.changed:
            return "nothing to do"
        back = "rolled back; " if self.rolled_back else ""
        return f"{back}{self.files:,} files with {self.rows:,} rows were dropped from the table"


@action("iceberg.drop_damaged", effect=Effect.CHANGES, blast=Blast.DATA)
def drop_damaged(iceberg: Iceberg, deadline: Deadline, table: str, at_most_percent: float = 25) -> Dropped:
    """Let a table do without the files that are missing or damaged, so that the rest can be read and written again.

    One commit; no file is deleted, and the snapshot that names them is kept. Where the newest snapshot's own metadata
    cannot be read, the newest one before it whose metadata can be is made the current one; where the table's metadata
    file is gone, the catalog is pointed to the newest one beside it that is whole.

    Args:
        table: Name of the table, with or without its namespace.
        at_most_percent: More of the rows than this are not given up: then a disk is away, not a file.

    Raises:
        Refused: Too much is missing.
    """
    found = opened(iceberg, deadline, table)
    registered = isinstance(found, Wrong)
    if isinstance(found, Wrong):
        found = _registered(iceberg, deadline, table, found)
    before, total = current_id(found), _total(found)
    seen = looked(found, deadline, None)
    unreadable = [wrong for wrong in seen.wrong if wrong.file is None]
    with judged(iceberg, f"drop damaged files of {table}"):
        if unreadable:
            _roll_back(found, unreadable[0])
            seen = looked(found, deadline, None)
        wrong = [one for one in seen.wrong if one.file is not None]
        lost = sum(one.rows for one in wrong) + max(0, total - _total(found) if unreadable else 0)
        _require_little(lost, total, at_most_percent, wrong or unreadable)
        if unreadable:
            found.manage_snapshots().rollback_to_snapshot(current_id(found)).commit()
        if wrong:
            _without(found, [one.file for one in wrong])
    return Dropped(
        table=iceberg.full_name(table),
        changed=bool(wrong or unreadable or registered),
        files=len(wrong),
        rows=lost,
        snapshot_id=current_id(open_table(iceberg, deadline, table)),
        from_snapshot_id=before,
        rolled_back=bool(unreadable or registered),
        source=iceberg.source,
    )


def _without(table: Table, files: Sequence[DataFile]) -> None:
    """Commit a snapshot that does not name these files, again where another commit came first."""
    from pyiceberg.exceptions import CommitFailedException

    for last in (*[False] * _CONFLICTS, True):
        try:
            with table.transaction() as transaction, transaction.update_snapshot().overwrite() as overwrite:
                for file in files:
                    overwrite.delete_data_file(file)
        except CommitFailedException:
            if last:
                raise
            table.refresh()
        else:
            return


_CONFLICTS = 10


def _roll_back(table: Table, wrong: Wrong) -> None:
    """Make the newest snapshot whose metadata can be read the current one, in memory.

    Raises:
        Refused: There is none.
    """
    for snapshot in _earlier(table):
        try:
            list(chain.from_iterable(one.fetch_manifest_entry(table.io) for one in snapshot.manifests(table.io)))
        except Exception:  # noqa: BLE001, S112 - see `files_of`
            continue
        changes = {"current_snapshot_id": snapshot.snapshot_id}
        table.metadata = table.metadata.model_copy(update=changes)
        return
    raise Refused(f"{wrong.path} is {wrong.why}, and no earlier snapshot can be read", hint="restore a backup")


def _registered(iceberg: Iceberg, deadline: Deadline, table: str, wrong: Wrong) -> Table:
    """Point the catalog to the newest metadata file of a table that can be read and whose manifests can be.

    Raises:
        Refused: There is none.
    """
    catalog, name = open_catalog(iceberg, deadline), iceberg.full_name(table)
    with judged(iceberg, f"look for metadata of {name}"):
        beside = _metadata_files(catalog, wrong.path)
    for location in beside:
        if not _is_whole(location, catalog):
            continue
        with judged(iceberg, f"register {location.rpartition('/')[2]} as the table {name}"):
            catalog.drop_table(name)
            return catalog.register_table(name, location)
    raise Refused(f"the table's own metadata is {wrong.why}: {wrong.path}", hint="bring its disk or a backup back")


def _metadata_files(catalog: Catalog, location: str) -> list[str]:
    """The metadata files beside this one, the newest first."""
    path = local_path(location)
    if path is not None:
        files = sorted(Path(path).parent.glob("*.metadata.json"), key=lambda one: one.stat().st_mtime_ns, reverse=True)
        return [file.as_uri() for file in files]
    from pyarrow.fs import FileSelector
    from pyiceberg.io.pyarrow import PyArrowFileIO

    scheme, _, key = location.partition("://")
    store = PyArrowFileIO(catalog.properties).fs_by_scheme(scheme, key.partition("/")[0])
    found = store.get_file_info(FileSelector(key.rpartition("/")[0]))
    newest_first = sorted(found, key=lambda one: one.mtime_ns or 0, reverse=True)
    return [f"{scheme}://{one.path}" for one in newest_first if one.path.endswith(".metadata.json")]


def _is_whole(location: str, catalog: Catalog) -> bool:
    """Whether a metadata file can be read, and the manifests that it names."""
    from pyiceberg.table import StaticTable

    try:
        found = StaticTable.from_metadata(location, catalog.properties)
        seen = Seen()
        list(files_of(found, seen))
    except Exception:  # noqa: BLE001 - see `files_of`
        return False
    return not seen.wrong


def _earlier(table: Table) -> Iterator[Snapshot]:
    """The snapshots before the current one, newest first."""
    snapshot = table.current_snapshot()
    while snapshot is not None and snapshot.parent_snapshot_id is not None:
        snapshot = table.snapshot_by_id(snapshot.parent_snapshot_id)
        if snapshot is not None:
            yield snapshot


def _require_little(lost: int, total: int, at_most_percent: float, wrong: Sequence[Wrong]) -> None:
    if total and 100 * lost / total > at_most_percent:
        raise Refused(
            f"{lost:,} of {total:,} rows are in files that are missing or damaged, such as {wrong[0].path}",
            hint="is the warehouse's disk mounted? a larger `at_most_percent` gives up more rows",
        )


def _total(table: Table) -> int:
    snapshot = table.current_snapshot()
    summary = snapshot.summary if snapshot is not None else None
    return int(summary["total-records"] or 0) if summary is not None else 0

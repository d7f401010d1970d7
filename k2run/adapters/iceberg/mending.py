"""A table does without its files that are missing or damaged: they are dropped, or an earlier state is taken."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.actions.action import Blast, Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg.catalog import Iceberg, judged, open_catalog, open_table
from k2run.adapters.iceberg.integrity import Seen, Wrong, current_id, files_of, looked, opened
from k2run.adapters.iceberg.views import local_path
from k2run.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot


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
        return f"{back}{self.files:,} files with {self.rows:,} rows are out of the table"


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
    """Commit a snapshot that does not name these files."""
    with table.transaction() as transaction, transaction.update_snapshot().overwrite() as overwrite:
        for file in files:
            overwrite.delete_data_file(file)


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
    raise Refused(f"{wrong.path} is {wrong.why}, and no earlier snapshot can be read", hint="bring a backup back")


def _registered(iceberg: Iceberg, deadline: Deadline, table: str, wrong: Wrong) -> Table:
    """Point the catalog to the newest metadata file of a table that can be read and whose manifests can be.

    Raises:
        Refused: There is none on this machine.
    """
    path = local_path(wrong.path)
    beside = Path(path).parent.glob("*.metadata.json") if path is not None else ()
    for file in sorted(beside, key=lambda one: one.stat().st_mtime_ns, reverse=True):
        if not _is_whole(file):
            continue
        catalog, name = open_catalog(iceberg, deadline), iceberg.full_name(table)
        with judged(iceberg, f"register {file.name} as the table {name}"):
            catalog.drop_table(name)
            return catalog.register_table(name, file.as_uri())
    raise Refused(f"the table's own metadata is {wrong.why}: {wrong.path}", hint="bring its disk or a backup back")


def _is_whole(file: Path) -> bool:
    """Whether a metadata file can be read, and the manifests that it names."""
    from pyiceberg.table import StaticTable

    try:
        found = StaticTable.from_metadata(str(file))
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
            hint="is the disk of the warehouse there? `at_most_percent` gives up more",
        )


def _total(table: Table) -> int:
    snapshot = table.current_snapshot()
    summary = snapshot.summary if snapshot is not None else None
    return int(summary["total-records"] or 0) if summary is not None else 0

"""The oldest and newest time in a column of a table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, cast

from k2run.adapters._iceberg import queries
from k2run.adapters._iceberg.views import data_files
from k2run.errors import Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyiceberg.table import FileScanTask, Table
    from pyiceberg.types import NestedField, PrimitiveType

    from k2run.actions.deadline import Deadline
    from k2run.language.quantities import Size


class Bounds(NamedTuple):
    """First and last moment, and whether the manifests alone told them or the rows had to be read."""

    oldest: datetime
    newest: datetime
    told_by: str


def time_bounds(table: Table, column: str, deadline: Deadline, memory: Size) -> Bounds:
    """The oldest and newest moment in a column of timestamps; those without a zone are taken as UTC.

    Raises:
        Refused: There is no such column, or it holds no timestamps.
        Unknown: The table has no rows.
    """
    field = _time_field(table, column)
    files = data_files(table)
    if not any(task.file.record_count for task in files):
        raise Unknown(f"the table {'.'.join(table.name())} has no rows")
    kept = _kept(files, field)
    if kept is not None:
        return Bounds(_moment(min(kept)), _moment(max(kept)), "manifests")
    with queries.opened({"t": table}, deadline, memory, threads=2) as database:
        sql = f'SELECT epoch_us(min("{column}")) AS oldest, epoch_us(max("{column}")) AS newest FROM t'  # noqa: S608 - a column of the table
        (row,) = queries.ask(database, sql, {}, 1).rows
    if row["newest"] is None:
        raise Unknown(f"the column {column!r} of {'.'.join(table.name())} is empty")
    return Bounds(_moment(row["oldest"]), _moment(row["newest"]), "rows")


def column_of(table: Table, name: str) -> NestedField:
    """A column of the table.

    Raises:
        Refused: There is none of that name.
    """
    for field in table.schema().fields:
        if field.name == name:
            return field
    known = ", ".join(field.name for field in table.schema().fields)
    raise Refused(f"the table {'.'.join(table.name())} has no column {name!r}", hint=f"its columns: {known}")


def _time_field(table: Table, column: str) -> NestedField:
    field = column_of(table, column)
    if str(field.field_type) not in {"timestamp", "timestamptz"}:
        raise Refused(f"the column {column!r} of {'.'.join(table.name())} is a {field.field_type}, not a timestamp")
    return field


def _kept(files: Sequence[FileScanTask], field: NestedField) -> list[int] | None:
    """Lower and upper bounds of all files in microseconds; None where a file keeps none or has deleted rows."""
    from pyiceberg.conversions import from_bytes

    bounds: list[int] = []
    kind = cast("PrimitiveType", field.field_type)
    for task in _filled(files):
        lower = (task.file.lower_bounds or {}).get(field.field_id)
        upper = (task.file.upper_bounds or {}).get(field.field_id)
        if lower is None or upper is None or task.delete_files:
            return None
        bounds += [int(from_bytes(kind, lower)), int(from_bytes(kind, upper))]
    return bounds


def _filled(files: Iterable[FileScanTask]) -> list[FileScanTask]:
    return [task for task in files if task.file.record_count]


def _moment(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1_000_000, UTC)

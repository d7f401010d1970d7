"""Iceberg tables as views of DuckDB, without any of its extensions.

The catalog names the files of the current snapshot; DuckDB reads local ones itself and others through Arrow's file
systems. Columns are found by their field ids, so a column renamed or added later reads as Iceberg says. Where the
snapshot has delete files, pyiceberg applies them and DuckDB queries the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from msgspec import json

from k2run.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duckdb import DuckDBPyConnection
    from pyiceberg.table import FileScanTask, Table
    from pyiceberg.types import IcebergType

    from k2run.actions.deadline import Deadline

MOST_COPIED = 5_000_000
"""Rows that may be copied to memory where DuckDB cannot read the files itself."""


def data_files(table: Table) -> list[FileScanTask]:
    """The data files of the current snapshot, each with the delete files that apply to it; none before the first."""
    return list(table.scan().plan_files()) if table.current_snapshot() is not None else []


def local_path(location: str) -> str | None:
    """The path of a file on this machine; None for one elsewhere."""
    if location.startswith("file:"):
        return location.removeprefix("file:").removeprefix("//")  # as it stands: pyiceberg does not decode it either
    return None if "://" in location else location


def view(database: DuckDBPyConnection, name: str, table: Table) -> list[str]:
    """Make the view; returns the paths it reads."""
    space, _, short = name.rpartition(".")
    if space:
        database.execute(f'CREATE SCHEMA IF NOT EXISTS "{space}"')
    target = f'"{space}"."{short}"' if space else f'"{short}"'
    files = data_files(table)
    paths = [local_path(task.file.file_path) for task in files]
    local = [path for path in paths if path is not None]
    plainly = files and len(local) == len(files) and not any(task.delete_files for task in files)
    mapping = _field_map(table) if plainly else None
    if mapping is None:
        source = f"arrow_{name.replace('.', '_')}"
        database.register(source, _arrow(table, files))
        database.execute(f'CREATE VIEW {target} AS SELECT * FROM main."{source}"')  # noqa: S608 - parsed names
        return []
    listed = ", ".join(quoted(path) for path in local)
    body = f"SELECT * FROM read_parquet([{listed}], schema={mapping})"  # noqa: S608 - quoted above
    database.execute(f"CREATE VIEW {target} AS {body}")
    return local


def _arrow(table: Table, files: Sequence[FileScanTask]) -> Any:
    """The table for DuckDB through Arrow: as a data set that is read where needed, or copied to memory.

    Raises:
        Refused: It would have to be copied and is too large for that.
    """
    from pyarrow import dataset

    remote = [task.file.file_path for task in files]
    if files and len(table.schemas()) == 1 and not any(task.delete_files for task in files):
        parts = urlsplit(remote[0])
        store = table.io.fs_by_scheme(parts.scheme or "file", parts.netloc)  # type: ignore[attr-defined]  # PyArrowFileIO
        return dataset.dataset([_key(path) for path in remote], filesystem=store, format="parquet")
    if (rows := sum(task.file.record_count for task in files)) > MOST_COPIED:
        raise Refused(
            f"{'.'.join(table.name())} has delete files or nested columns that changed, and {rows:,} rows: "
            f"more than {MOST_COPIED:,} are not copied",
            hint="compact the table, or query it where it lives",
        )
    return table.scan().to_arrow()


def _key(location: str) -> str:
    """A location as Arrow's file systems want it: bucket and key, or a path."""
    parts = urlsplit(location)
    return local_path(location) or parts.netloc + parts.path


_TYPES = {
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
    "timestamp_ns": "TIMESTAMP_NS",
    "string": "VARCHAR",
    "uuid": "UUID",
    "binary": "BLOB",
}


def _field_map(table: Table) -> str | None:
    """The table's columns by field id, as DuckDB's Parquet reader takes them; None where a column is nested."""
    entries = []
    for field in table.schema().fields:
        kind = _sql_type(field.field_type)
        if kind is None:
            return None
        entries.append(f"{field.field_id}: {{name: {quoted(field.name)}, type: '{kind}', default_value: NULL}}")
    return f"MAP {{{', '.join(entries)}}}"


def _sql_type(kind: IcebergType) -> str | None:
    name = str(kind)
    if name.startswith("decimal("):
        return name.upper()
    return "BLOB" if name.startswith("fixed[") else _TYPES.get(name)


def quoted(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


class Sizes(NamedTuple):
    """Bytes of all column chunks, and which codecs made them smaller."""

    uncompressed: int
    compressed: int
    codecs: list[str]


def sizes(table: Table, files: Sequence[FileScanTask], deadline: Deadline) -> Sizes:
    """Read every footer and add up its column chunks."""
    from pyarrow.parquet import ParquetFile

    before = after = 0
    codecs: set[str] = set()
    for task in files:
        deadline.remaining()
        with table.io.new_input(task.file.file_path).open() as stream:
            footer = ParquetFile(stream).metadata
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            chunks = [group.column(column) for column in range(group.num_columns)]
            before += sum(chunk.total_uncompressed_size for chunk in chunks)
            after += sum(chunk.total_compressed_size for chunk in chunks)
            codecs |= {chunk.compression.lower() for chunk in chunks}
    return Sizes(before, after, sorted(codecs))


def json_bytes_per_row(table: Table, files: Sequence[FileScanTask], rows: int) -> tuple[float, int]:
    """The mean size of a row as a JSON document, and over how many rows of the largest file it was taken."""
    from pyarrow.parquet import ParquetFile

    largest = max(files, key=lambda task: task.file.record_count)
    with table.io.new_input(largest.file.file_path).open() as stream:
        batch = next(ParquetFile(stream).iter_batches(batch_size=rows))
        documents = [json.encode(row) for row in batch.to_pylist()]
    return sum(map(len, documents)) / len(documents), len(documents)

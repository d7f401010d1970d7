"""SQL over Iceberg tables with DuckDB, locked in, without any of its extensions: a query opens the tables' files alone.

The catalog names the files of the current snapshot; DuckDB reads local ones itself and others through Arrow's file
systems. Columns are found by their field ids, so a column renamed or added later reads as Iceberg says. Where the
snapshot has delete files, pyiceberg applies them and DuckDB queries the result.
Long because tables as views and what is asked of them are one subject.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec

from k2run.adapters._answers import Rows, plain
from k2run.errors import ActionError, K2runError, Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from duckdb import DuckDBPyConnection, DuckDBPyRelation
    from pyiceberg.table import FileScanTask, Table
    from pyiceberg.types import IcebergType, NestedField, PrimitiveType

    from k2run.actions.deadline import Deadline
    from k2run.language.quantities import Size

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
        documents = [msgspec.json.encode(row) for row in batch.to_pylist()]
    return sum(map(len, documents)) / len(documents), len(documents)


@contextlib.contextmanager
def opened(tables: Mapping[str, Table], deadline: Deadline, memory: Size, threads: int) -> Iterator[DuckDBPyConnection]:
    """A DuckDB in memory with a view for each table, that ends with the deadline.

    `tables` has them by the name that the SQL uses: `orders` or `shop.orders`.
    """
    with session(deadline, memory, threads) as database:
        lock(database, [path for name, table in tables.items() for path in view(database, name, table)])
        yield database


@contextlib.contextmanager
def session(deadline: Deadline, memory: Size, threads: int) -> Iterator[DuckDBPyConnection]:
    """An empty DuckDB in memory that ends with the deadline; `lock` it before it hears the SQL of a runbook.

    When the deadline passes, a running query is interrupted.

    Raises:
        Refused: DuckDB refuses something; the message is DuckDB's.
    """
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{int(memory)}B",
        "threads": threads,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,  # SQL must not see the variables of this program
    }
    with (
        tempfile.TemporaryDirectory(prefix="k2run-duckdb-") as spill,
        duckdb.connect(":memory:", config={**settings, "temp_directory": spill}) as database,
        _watched(database, deadline),
        _judged(),
    ):
        yield database


def table_names(sql: str) -> list[str]:
    """The tables that a query reads, as it writes them, without its own common table expressions.

    Raises:
        Refused: It is not one SELECT.
    """
    import duckdb

    with _parser().cursor() as database, _judged():
        statements = database.extract_statements(sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise Refused("only a single SELECT is allowed", hint="write one query that starts with SELECT")
        # `get_table_names` would bind the query, which fails on a placeholder and on `JOIN … USING`.
        row = database.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchone()
    nodes = list(_nodes(json.loads(row[0]))) if row else []
    own = {entry["key"] for node in nodes for entry in node.get("cte_map", {}).get("map", [])}
    tables = (node for node in nodes if node.get("type") == "BASE_TABLE")
    names = {".".join(filter(None, (node["schema_name"], node["table_name"]))) for node in tables}
    return sorted(names - own)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON document."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)


@cache
def _parser() -> DuckDBPyConnection:
    import duckdb

    return duckdb.connect(":memory:", config={"threads": 1, "python_enable_replacements": False})


def ask(database: DuckDBPyConnection, sql: str, parameters: Mapping[str, Any], limit: int) -> Rows:
    """Run one SELECT.

    `parameters` are the values for its `$name` placeholders.

    Raises:
        Refused: DuckDB refuses it; the message is DuckDB's.
    """
    with _judged():
        relation = _selected(database, sql, parameters)
        found = relation.limit(limit + 1).to_arrow_table().to_pylist()
    rows = [{name: plain(value) for name, value in row.items()} for row in found[:limit]]
    return Rows(list(relation.columns), rows, len(found) > limit)


def count(database: DuckDBPyConnection, sql: str, parameters: Mapping[str, Any], limit: int) -> int:
    """How many rows one SELECT gives, all of them fetched in columns: no value becomes an object of Python.

    Raises:
        Refused: DuckDB refuses it; the message is DuckDB's.
    """
    with _judged():
        relation = _selected(database, sql, parameters)
        return int(relation.limit(limit).to_arrow_table().num_rows)


def _selected(database: DuckDBPyConnection, sql: str, parameters: Mapping[str, Any]) -> DuckDBPyRelation:
    return database.sql(sql, params=dict(parameters)) if parameters else database.sql(sql)


def explain(database: DuckDBPyConnection, sql: str, parameters: Mapping[str, Any]) -> str:
    """How one SELECT was run, as DuckDB draws it.

    Raises:
        Refused: DuckDB refuses it; the message is DuckDB's.
    """
    with _judged():
        row = database.execute(f"EXPLAIN ANALYZE {sql}", dict(parameters) or None).fetchone()
    return str(row[1]) if row else ""


def lock(database: DuckDBPyConnection, paths: Sequence[str]) -> None:
    """From here on the SQL of a runbook may read these files and nothing else, and cannot lift this."""
    database.execute(f"SET allowed_paths = [{', '.join(quoted(path) for path in paths)}]")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")


@contextlib.contextmanager
def _judged() -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.InterruptException:
        raise  # the deadline says why
    except duckdb.Error as error:
        said = str(error).strip()
        hint = "raise the step's memory limit" if isinstance(error, duckdb.OutOfMemoryException) else ""
        raise Refused(f"DuckDB: {said.splitlines()[0]}", hint=hint or _second(said)) from error


def _second(said: str) -> str:
    """What DuckDB adds to its first line, such as the column that was meant."""
    lines = [
        line for line in said.splitlines()[1:] if line.strip() and not line.startswith("LINE ") and "^" not in line
    ]
    return lines[0].strip() if lines else ""


@contextlib.contextmanager
def _watched(database: DuckDBPyConnection, deadline: Deadline) -> Iterator[None]:
    """Interrupt the query that runs when the deadline passes or the run is asked to end, and say so.

    Raises:
        TimedOut: The deadline passed.
        Interrupted: The run was asked to end.
    """
    import duckdb

    done = threading.Event()
    why: list[K2runError] = []

    def watch() -> None:
        while not done.wait(0.05):
            try:
                deadline.remaining()
            except K2runError as error:
                why.append(error)
                database.interrupt()  # again and again: DuckDB forgets one that comes before a query has begun

    watcher = threading.Thread(target=watch, name="duckdb-deadline", daemon=True)
    watcher.start()
    try:
        yield
    except duckdb.InterruptException as error:
        if why:
            raise why[0] from error
        raise ActionError("the query was interrupted") from error
    finally:
        done.set()
        watcher.join()


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
    with opened({"t": table}, deadline, memory, threads=2) as database:
        sql = f'SELECT epoch_us(min("{column}")) AS oldest, epoch_us(max("{column}")) AS newest FROM t'  # noqa: S608 - a column of the table
        (row,) = ask(database, sql, {}, 1).rows
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
    for task in (one for one in files if one.file.record_count):
        lower = (task.file.lower_bounds or {}).get(field.field_id)
        upper = (task.file.upper_bounds or {}).get(field.field_id)
        if lower is None or upper is None or task.delete_files:
            return None
        bounds += [int(from_bytes(kind, lower)), int(from_bytes(kind, upper))]
    return bounds


def _moment(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1_000_000, UTC)

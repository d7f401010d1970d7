"""SQL over files on this machine: CSV, Parquet, JSON and SQLite, read by DuckDB."""

from __future__ import annotations

import contextlib
import glob
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.actions.action import action
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import Answer, answer
from k2run.adapters.iceberg import duckdb_sql
from k2run.adapters.iceberg.duckdb_sql import quoted
from k2run.errors import AuthorError, Refused, Unknown, Unreachable
from k2run.language.quantities import Size

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

    from duckdb import DuckDBPyConnection

GIBIBYTE = Size(2**30)
_READERS = {
    **dict.fromkeys((".csv", ".tsv", ".csv.gz", ".tsv.gz"), "read_csv"),
    ".parquet": "read_parquet",
    **dict.fromkeys((".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz"), "read_json"),
}
_SQLITE = b"SQLite format 3\x00"
MOST_ROWS = 2_000_000
"""Of one SQLite table, which is copied before it is asked."""
BATCH = 50_000
STEPS = 10_000
"""Steps of SQLite between two looks at the deadline."""


@action("sql.query")
def query(
    deadline: Deadline,
    sql: str,
    files: dict[str, str],
    parameters: dict[str, Any] = {},
    limit: int = 100,
    memory: Size = GIBIBYTE,
    threads: int = 2,
    allow_empty: bool = False,
) -> Answer:
    """Ask files with one SELECT; it can open these files and nothing else. No rows are unknown.

    Args:
        sql: The query; it names files as `files` does. A table of a SQLite file is `name.table`.
        files: Paths by the name that the query uses: `{orders: out/orders.csv, parts: "out/*.parquet", shop: shop.db}`;
            relative ones start at the working directory. What a file is, its ending says: `.csv`, `.tsv`, `.parquet`,
            `.json`, `.jsonl`, `.ndjson`, those of text also with `.gz`. A SQLite file is recognised whatever its name.
        parameters: Values for the placeholders `$name` in the query.
        limit: Rows to fetch at most.
        memory: What DuckDB may use, such as `512MiB`; it spills to disk beyond that.
        threads: Processor cores it may use.
        allow_empty: Whether no rows are an answer, too.
    """
    asked = _asked(duckdb_sql.table_names(sql), files)
    started = time.perf_counter()
    with duckdb_sql.session(deadline, memory, threads) as database:
        opened = [
            path for name, tables in asked.items() for path in _open(database, name, files[name], tables, deadline)
        ]
        duckdb_sql.lock(database, opened)
        found = duckdb_sql.ask(database, sql, parameters, limit)
    source = ", ".join(files[name] for name in asked)
    return answer(found, started, place=source, source=source, allow_empty=allow_empty)


def _asked(names: Sequence[str], files: Mapping[str, str]) -> dict[str, list[str]]:
    """The files that a query names, with the tables of each; none for a file that is a table itself."""
    asked: dict[str, list[str]] = {}
    for name in names:
        file, _, table = name.partition(".")
        if file not in files:
            raise AuthorError(
                f"the query reads {file}, but `files` has only {', '.join(files)}", hint="name each file once"
            )
        asked.setdefault(file, []).extend([table] if table else [])
    return asked


def _open(database: DuckDBPyConnection, name: str, path: str, tables: Sequence[str], deadline: Deadline) -> list[str]:
    """Make a file known to DuckDB by its name; the paths that DuckDB will read."""
    paths = _paths(path)
    if _is_sqlite(paths[0]):
        for table in tables:
            _copy(database, paths[0], name, table, deadline)
        if not tables:
            raise AuthorError(f"{name} is a SQLite file", hint=f"name a table of it: {name}.{_first_table(paths[0])}")
        return []
    reader = next((reader for ending, reader in _READERS.items() if paths[0].lower().endswith(ending)), None)
    if reader is None:
        raise Refused(f"unknown file type: {paths[0]}", hint=f"one of {', '.join(_READERS)}, or SQLite")
    listed = ", ".join(quoted(each) for each in paths)
    database.execute(f"CREATE VIEW {_named(name)} AS SELECT * FROM {reader}([{listed}])")  # noqa: S608 - quoted
    return paths


def _paths(pattern: str) -> list[str]:
    place = str(Path(pattern).expanduser().absolute())
    found = [place] if Path(place).is_file() else sorted(glob.glob(place, recursive=True))  # noqa: PTH207 - whole paths
    if not found:
        raise Unknown(f"{place} is missing", hint="is the path right, and has it been written yet?")
    return found


def _is_sqlite(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise Unreachable(f"{path} cannot be read: {error.strerror}", hint="is it a readable file?") from error


def _copy(database: DuckDBPyConnection, path: str, schema: str, table: str, deadline: Deadline) -> None:
    """Copy a table of a SQLite file into DuckDB, read as it is in one transaction."""
    import pyarrow as pa

    with _reading(path, deadline) as source:
        cursor = source.execute(f"SELECT * FROM {_named(table)}")  # noqa: S608 - quoted
        columns = [column[0] for column in cursor.description]
        rows: list[tuple[Any, ...]] = []
        while batch := cursor.fetchmany(BATCH):
            rows += batch
            if len(rows) > MOST_ROWS:
                hint = "export what you need to Parquet"
                raise Refused(f"{path} has more than {MOST_ROWS:,} rows in {table}", hint=hint)
    values = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    copied = pa.table(dict(zip(columns, map(_column, values), strict=True)))
    database.execute(f"CREATE SCHEMA IF NOT EXISTS {_named(schema)}")
    database.register("copied", copied)
    database.execute(f"CREATE TABLE {_named(schema)}.{_named(table)} AS SELECT * FROM copied")  # noqa: S608 - quoted
    database.unregister("copied")


def _column(values: Sequence[Any]) -> Any:
    """A column of Arrow; SQLite keeps values of several types in one, which become texts."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


@contextlib.contextmanager
def _reading(path: str, deadline: Deadline) -> Iterator[sqlite3.Connection]:
    """A SQLite file, opened to read."""
    import sqlite3

    try:
        with contextlib.closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True)) as source:
            source.set_progress_handler(lambda: deadline.has_passed() or deadline.stop.is_set(), STEPS)
            yield source
    except sqlite3.Error as error:
        deadline.remaining()
        raise Refused(
            f"cannot query {path}: {error}", hint=f"it has {', '.join(_tables(path)) or 'no table'}"
        ) from error


def _tables(path: str) -> list[str]:
    import sqlite3

    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True)) as source,
    ):
        return [
            row[0]
            for row in source.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY 1")
        ]
    return []


def _first_table(path: str) -> str:
    return next(iter(_tables(path)), "table")


def _named(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'

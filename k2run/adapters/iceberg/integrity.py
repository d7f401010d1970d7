"""Whether the files that a table's newest snapshot names are there and whole, and a table without the damaged ones."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.actions.action import Result, action, beginning
from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg.catalog import Iceberg, judged, open_catalog, open_table, table_names
from k2run.adapters.iceberg.duckdb_sql import local_path
from k2run.errors import TimedOut, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

NEWEST = 8
"""Data files whose footers are read in any case: what was written last is damaged most often."""
MARGIN_S = 0.3
"""Seconds before the end of the step's time at which the looking ends."""
SHOWN = 10
_NAMED = re.compile(r"'([^']+)'")
_MAGIC = b"PAR1"
_TAIL = 8


class Intact(Result, frozen=True, kw_only=True):
    """What was found of the files that a table's newest snapshot names.

    Attributes:
        files: How many data files it names.
        checked: Of how many it was seen that they are there, with the size that the manifest says.
        footers: Of how many of these the footer was read.
        damaged: How many are missing or not what they should be; metadata files count too.
        rows: Rows in the data files that are missing or damaged.
        says: A few of them, each with what is wrong.
        newest: The newest data file: its path on this machine, or its location in a store.
        tables: How many tables were checked.
        damaged_tables: Those with damaged or missing files.
    """

    table: str
    snapshot_id: int
    files: int
    checked: int
    footers: int
    damaged: int
    rows: int
    says: list[str] = []
    newest: str = ""
    tables: int = 1
    damaged_tables: list[str] = []

    def headline(self) -> str:
        """Such as `212 of 212 files are whole` or `1 of 212 files is damaged: …`."""
        if not self.damaged:
            of = f" in {self.tables} tables" if self.tables > 1 else ""
            return f"{self.checked:,} of {self.files:,} files are whole{of}"
        return f"{self.damaged:,} files missing or damaged ({self.rows:,} rows): {self.says[0] if self.says else ''}"


class Wrong(Struct, frozen=True, kw_only=True):
    """A file that is not what the table says."""

    path: str
    why: str
    file: Any = None

    @property
    def rows(self) -> int:
        """Rows of the data file; 0 when its entry is lost."""
        return self.file.record_count if self.file is not None else 0


class Seen(Struct, kw_only=True):
    """What was checked."""

    files: int = 0
    checked: int = 0
    footers: int = 0
    newest: str = ""
    wrong: list[Wrong] = []


@action("iceberg.intact")
def intact(iceberg: Iceberg, deadline: Deadline, table: str = "", footers: int = 64) -> Intact:
    """Whether the files that a table's newest snapshot names are there and whole; of every table unless one is named.

    Metadata is read, sizes are compared with the manifests', footers are read of the newest files and of a sample. The
    newest files come first; what does not fit into the step's time, which tables share, is told as not checked.

    Args:
        table: Name of the table, with or without its namespace; every table of the catalog when it is empty.
        footers: Of how many files of a table the footer is read.

    Raises:
        Unknown: There are tables for which no time was left, and none of the others has damaged files.
    """
    if table:
        return _intact(iceberg, deadline, table, footers)
    catalog = open_catalog(iceberg, deadline)
    with judged(iceberg, "list the tables"):
        names = table_names(catalog)
    found: list[Intact] = []
    for number, name in enumerate(names):
        try:
            share = max(deadline.remaining() / (len(names) - number), MARGIN_S)
            found.append(_intact(iceberg, Deadline(deadline.at_most(share), deadline.stop), name, footers))
        except TimedOut:
            continue
    return _together(iceberg, found, len(names))


def _together(iceberg: Iceberg, found: list[Intact], tables: int) -> Intact:
    """What was found of several tables.

    Raises:
        Unknown: Not all were seen, and those that were are whole.
    """
    damaged = [one for one in found if one.damaged]
    if len(found) < tables and not damaged:
        raise Unknown(
            f"{tables - len(found)} of {tables} tables were not checked in time",
            hint="give the step more time, or name a table",
        )
    return Intact(
        table=", ".join(one.table for one in damaged),
        snapshot_id=damaged[0].snapshot_id if len(damaged) == 1 else 0,
        files=sum(one.files for one in found),
        checked=sum(one.checked for one in found),
        footers=sum(one.footers for one in found),
        damaged=sum(one.damaged for one in found),
        rows=sum(one.rows for one in found),
        says=[f"{one.table}: {says}" for one in damaged for says in one.says][:SHOWN],
        newest=found[0].newest if len(found) == 1 else "",
        tables=len(found),
        damaged_tables=[one.table for one in damaged],
        source=iceberg.source,
    )


def _intact(iceberg: Iceberg, deadline: Deadline, table: str, footers: int) -> Intact:
    found = opened(iceberg, deadline, table)
    if isinstance(found, Wrong):
        return _told(iceberg, table, 0, Seen(wrong=[found]))
    seen = looked(found, deadline, footers)
    if seen.wrong:  # a commit may have put other files in their place meanwhile, and cleared these away
        found = open_table(iceberg, deadline, table)
        again = looked(found, deadline, footers)
        still = {wrong.path for wrong in seen.wrong}
        again.wrong = [wrong for wrong in again.wrong if wrong.path in still]
        seen = again
    return _told(iceberg, table, current_id(found), seen)


def opened(iceberg: Iceberg, deadline: Deadline, table: str) -> Table | Wrong:
    """The table, or what is wrong with its own metadata file, which a catalog may still have in its memory."""
    try:
        found = open_table(iceberg, deadline, table)
        if _has_its_metadata(iceberg, found):
            return found
        again = open_table(iceberg, deadline, table)  # a commit may have put another file in its place
        if again.metadata_location != found.metadata_location:
            return again
        return Wrong(path=found.metadata_location, why="missing")
    except Unknown as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return Wrong(path=_path_in(error.__cause__), why="missing")
        raise


def _has_its_metadata(iceberg: Iceberg, table: Table) -> bool:
    with judged(iceberg, f"look for the metadata file of {'.'.join(table.name())}"):
        path = local_path(table.metadata_location)
        return Path(path).exists() if path is not None else table.io.new_input(table.metadata_location).exists()


def _path_in(error: FileNotFoundError) -> str:
    """The file that is missing; Arrow tells it in its sentence alone."""
    named = _NAMED.search(str(error))
    return str(error.filename or (named.group(1) if named else error))


def looked(table: Table, deadline: Deadline, footers: int | None) -> Seen:
    """Look at all files of the current snapshot, newest first; the footers of all when `footers` is None."""
    seen = Seen()
    files = list(files_of(table, seen))
    seen.files = len(files)
    seen.newest = (local_path(files[0].file_path) or files[0].file_path) if files else ""
    rest = range(NEWEST, len(files))
    sampled = set(rest) if footers is None else set(random.sample(rest, min(len(rest), max(0, footers - NEWEST))))
    try:
        for number, file in enumerate(files):
            deadline.at_most(MARGIN_S)
            if footers is not None and deadline.remaining() < MARGIN_S:
                break
            _check(table, file, seen, footer=number < NEWEST or number in sampled)
    except TimedOut:
        if footers is None:
            raise
    return seen


def files_of(table: Table, seen: Seen) -> Iterator[DataFile]:
    """The data files of the current snapshot, newest first; metadata that cannot be read is noted."""
    snapshot = table.current_snapshot()
    if snapshot is None:
        return
    try:
        manifests = snapshot.manifests(table.io)
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes a decoder raise
        seen.wrong.append(_unreadable(snapshot.manifest_list, error))
        return
    found: list[tuple[int, DataFile]] = []
    for manifest in manifests:
        try:
            entries = manifest.fetch_manifest_entry(table.io)
        except Exception as error:  # noqa: BLE001 - see above
            seen.wrong.append(_unreadable(manifest.manifest_path, error))
            continue
        found += [(entry.sequence_number or 0, entry.data_file) for entry in entries]
    yield from (file for _, file in sorted(found, key=lambda one: one[0], reverse=True))


def _unreadable(path: str, error: Exception) -> Wrong:
    missing = isinstance(error, FileNotFoundError)
    return Wrong(
        path=path, why="missing" if missing else f"damaged: {beginning(str(error), 120) or type(error).__name__}"
    )


def _check(table: Table, file: DataFile, seen: Seen, *, footer: bool) -> None:
    why = _size_wrong(table, file)
    if not why and footer:
        seen.footers += 1
        why = _footer_wrong(table, file)
    seen.checked += not why
    if why:
        seen.wrong.append(Wrong(path=file.file_path, why=why, file=file))


def _size_wrong(table: Table, file: DataFile) -> str:
    path = local_path(file.file_path)
    try:
        size = Path(path).stat().st_size if path is not None else len(table.io.new_input(file.file_path))
    except FileNotFoundError:
        return "missing"
    except PermissionError:
        return "permission denied"
    if size != file.file_size_in_bytes:
        return f"{size:,} bytes instead of {file.file_size_in_bytes:,}"
    return ""


def _footer_wrong(table: Table, file: DataFile) -> str:
    if str(file.file_format).rpartition(".")[2].upper() != "PARQUET":
        return ""
    size = file.file_size_in_bytes
    try:
        with table.io.new_input(file.file_path).open() as stream:
            stream.seek(size - _TAIL)
            length, magic = struct.unpack("<I4s", stream.read(_TAIL))
            stream.seek(0)
            head = stream.read(len(_MAGIC))
        if magic != _MAGIC or head != _MAGIC:
            return "is no longer a Parquet file"
        if length + 2 * _TAIL > size:
            return "its footer is damaged"
        return _unparsable(table, file)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _unparsable(table: Table, file: DataFile) -> str:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        with table.io.new_input(file.file_path).open() as stream:
            rows = pq.read_metadata(stream).num_rows
    except (ArrowException, ValueError, OSError) as error:
        return f"its footer is damaged: {beginning(str(error), 80)}"
    return "" if rows == file.record_count else f"{rows:,} rows instead of {file.record_count:,}"


def current_id(table: Table) -> int:
    """The current snapshot; 0 of a table that has none."""
    snapshot = table.current_snapshot()
    return snapshot.snapshot_id if snapshot is not None else 0


def _told(iceberg: Iceberg, table: str, snapshot_id: int, seen: Seen) -> Intact:
    return Intact(
        table=iceberg.full_name(table),
        snapshot_id=snapshot_id,
        files=seen.files,
        checked=seen.checked,
        footers=seen.footers,
        damaged=len(seen.wrong),
        rows=sum(wrong.rows for wrong in seen.wrong),
        says=[f"{wrong.path}: {wrong.why}" for wrong in seen.wrong[:SHOWN]],
        newest=seen.newest,
        damaged_tables=[iceberg.full_name(table)] if seen.wrong else [],
        source=iceberg.source,
    )

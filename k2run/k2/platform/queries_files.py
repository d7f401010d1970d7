"""Which data files of an Iceberg table hold which rows, read from its metadata alone.

The API asks this on every request, so it reads what the format says and nothing more: the catalog's row in SQLite, the
metadata JSON, the manifest list, and each manifest once, for a manifest never changes. While the table stands still
that is one SQLite lookup. The first and last timestamp and symbol that a manifest keeps for every file then say which
files a query need not open.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

import msgspec

from k2run.k2.platform.location import local_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pyiceberg.io import FileIO
    from pyiceberg.manifest import DataFile as ManifestDataFile

CATALOG_FILE = "catalog.db"
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  the table's timestamps carry no zone; they are UTC
_FIND = (
    "SELECT metadata_location FROM iceberg_tables "
    "WHERE catalog_name = 'k2' AND table_namespace = ? AND table_name = ? AND metadata_location IS NOT NULL"
)


class TableMissingError(Exception):
    """The table does not exist yet; the consumer makes it when it starts."""


class TableUnreadableError(Exception):
    """The table exists, and its metadata or a data file cannot be read."""


class Snapshot(msgspec.Struct, frozen=True, rename="kebab"):
    """One committed state of the table, as the metadata file lists it."""

    snapshot_id: int
    timestamp_ms: int
    manifest_list: str
    summary: dict[str, str] = {}


class _Field(msgspec.Struct, frozen=True):
    id: int
    name: str


class _Schema(msgspec.Struct, frozen=True, rename="kebab"):
    fields: list[_Field]
    schema_id: int = 0


class _Metadata(msgspec.Struct, frozen=True, rename="kebab"):
    location: str
    schemas: list[_Schema]
    current_schema_id: int
    current_snapshot_id: int | None = None
    snapshots: list[Snapshot] = []
    properties: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file and the bounds of its rows; a bound that is not known is as wide as can be."""

    path: str
    rows: int
    size: int
    oldest: datetime = datetime.min  # noqa: DTZ901  zoneless, as all of the table's
    newest: datetime = datetime.max  # noqa: DTZ901
    first_symbol: str = ""
    last_symbol: str = "\U0010ffff"

    def holds(self, symbol: str | None, since: datetime | None, until: datetime | None) -> bool:
        """Whether a row of this symbol in [since, until] can be in the file."""
        return (
            (symbol is None or self.first_symbol <= symbol <= self.last_symbol)
            and (since is None or self.newest >= since)
            and (until is None or self.oldest <= until)
        )


@dataclass(frozen=True, slots=True)
class TableView:
    """The table as of one commit: it never changes, and a newer commit is another view."""

    location: str
    snapshot: Snapshot | None
    snapshots: tuple[Snapshot, ...]
    properties: Mapping[str, str]
    files: tuple[DataFile, ...]  # those with the newest rows first

    @property
    def rows(self) -> int:
        """Rows in the whole table, as the manifests count them."""
        return sum(file.rows for file in self.files)

    @property
    def newest(self) -> datetime | None:
        """The latest timestamp in the table; None while it has no rows."""
        return max((file.newest for file in self.files), default=None)

    def holding(self, symbol: str | None, since: datetime | None, until: datetime | None) -> tuple[DataFile, ...]:
        """The files in which a row of this symbol in [since, until] can be, those with the newest rows first."""
        return tuple(file for file in self.files if file.holds(symbol, since, until))


def reaching_back(files: tuple[DataFile, ...], rows: int, until: datetime | None) -> Iterator[datetime | None]:
    """Ever earlier moments between which and `until` the files hold about `rows` rows, then 8, 64, ... times as many.

    Inside a file the rows are taken to be spread evenly over its time. The last moment is None: no lower bound. The
    guess only decides how much is read at first, never which rows are found.
    """
    spans = [
        (end, (end - file.oldest) / (file.newest - file.oldest or timedelta.resolution) * file.rows, file)
        for file in files
        for end in [file.newest if until is None else min(file.newest, until)]
    ]
    while rows < sum(held for _, held, _ in spans):
        missing = float(rows)
        for end, held, file in spans:
            if missing <= held:
                yield end - (end - file.oldest) * (missing / held)
                break
            missing -= held
        rows *= 8
    yield None


class TableFiles:
    """Follows one table through its commits. Safe to share between threads."""

    def __init__(self, warehouse: Path, name: str) -> None:
        """Follow the table `name` (`namespace.table`) of the SQLite catalog in `warehouse`; neither need exist yet."""
        self._catalog = warehouse / CATALOG_FILE
        self._name = name
        self._lock = threading.Lock()
        self._current: tuple[str, TableView] | None = None
        self._manifests: dict[str, tuple[DataFile, ...]] = {}

    def view(self) -> TableView:
        """The table as of its latest commit.

        Raises:
            TableMissingError: There is no such table yet.
            TableUnreadableError: Its metadata cannot be read.
        """
        with self._lock:
            location = self._metadata_location()
            if self._current is None or self._current[0] != location:
                self._current = (location, self._read(location))
            return self._current[1]

    def _metadata_location(self) -> str:
        if not self._catalog.exists():
            raise TableMissingError(f"table {self._name} does not exist yet: no catalog in the warehouse")
        try:
            with closing(sqlite3.connect(f"{self._catalog.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as db:
                found = db.execute(_FIND, self._name.rsplit(".", 1)).fetchone()
        except sqlite3.Error as error:
            if "no such table" in str(error):  # the catalog is being made at this moment
                raise TableMissingError(f"table {self._name} does not exist yet") from error
            raise TableUnreadableError(f"the catalog cannot be read: {error}") from error
        if found is None:
            raise TableMissingError(f"table {self._name} does not exist yet")
        return str(found[0])

    def _read(self, location: str) -> TableView:
        try:
            metadata = msgspec.json.decode(local_path(location).read_bytes(), type=_Metadata)
            snapshot = next((s for s in metadata.snapshots if s.snapshot_id == metadata.current_snapshot_id), None)
            files = self._files(snapshot.manifest_list, _column_ids(metadata)) if snapshot else ()
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise TableUnreadableError(f"the metadata of {self._name} cannot be read: {error}") from error
        newest_first = sorted(files, key=lambda file: file.newest, reverse=True)
        return TableView(
            metadata.location, snapshot, tuple(metadata.snapshots), metadata.properties, tuple(newest_first)
        )

    def _files(self, manifest_list: str, column_ids: Mapping[str, int]) -> tuple[DataFile, ...]:
        from pyiceberg.manifest import ManifestContent, read_manifest_list

        io = _local_io()
        known: dict[str, tuple[DataFile, ...]] = {}
        for manifest in read_manifest_list(io.new_input(manifest_list)):
            if manifest.content != ManifestContent.DATA:
                raise ValueError("the table has delete files, which this API does not apply")
            path = manifest.manifest_path
            known[path] = self._manifests.get(path) or tuple(
                _bounded(entry.data_file, column_ids) for entry in manifest.fetch_manifest_entry(io)
            )
        self._manifests = known
        return tuple(file for files in known.values() for file in files)


def _column_ids(metadata: _Metadata) -> dict[str, int]:
    schema = next(s for s in metadata.schemas if s.schema_id == metadata.current_schema_id)
    return {field.name: field.id for field in schema.fields}


def _bounded(file: ManifestDataFile, column_ids: Mapping[str, int]) -> DataFile:
    lower, upper = file.lower_bounds or {}, file.upper_bounds or {}
    bounded = DataFile(str(local_path(file.file_path)), file.record_count, file.file_size_in_bytes)
    time, symbol = column_ids["timestamp"], column_ids["symbol"]
    if time in lower and time in upper:
        bounded = replace(bounded, oldest=_moment(lower[time]), newest=_moment(upper[time]))
    if symbol in lower and symbol in upper:
        bounded = replace(bounded, first_symbol=lower[symbol].decode(), last_symbol=upper[symbol].decode())
    return bounded


def _moment(bound: bytes) -> datetime:
    return _EPOCH + timedelta(microseconds=int.from_bytes(bound, "little", signed=True))


def _local_io() -> FileIO:
    """What pyiceberg reads manifests through; its own costs another 0.4 s of imports at start-up."""
    from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile

    class LocalFile(InputFile):
        def __len__(self) -> int:
            return local_path(self.location).stat().st_size

        def exists(self) -> bool:
            return local_path(self.location).exists()

        def open(self, seekable: bool = True) -> InputStream:  # noqa: ARG002  a local file always is
            return cast("InputStream", local_path(self.location).open("rb"))

    class LocalFiles(FileIO):
        def new_input(self, location: str) -> InputFile:
            return LocalFile(location)

        def new_output(self, location: str) -> OutputFile:
            raise NotImplementedError(f"read only: {location}")

        def delete(self, location: str | InputFile | OutputFile) -> None:
            raise NotImplementedError(f"read only: {location}")

    return LocalFiles()

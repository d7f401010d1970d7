"""Which data files of an Iceberg table hold which rows, read from its metadata alone.

The table is followed from a thread of its own: a few times a second it asks the catalog whether there is a new commit
(which costs the catalog one look into its database and no answer to speak of, by `If-None-Match`), reads the manifests
that it does not know yet, for a manifest never changes, and looks whether the store still has the newest file. So a
query waits for neither, and is refused while the store does not answer: what is kept of it locally is not the table.
While the catalog does not answer, queries are answered as of the last commit that it told.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.k2.platform.program import log
from k2run.k2.platform.store_files import CONNECT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import httpx
    from pyiceberg.manifest import DataFile as ManifestDataFile

    from k2run.k2.platform.store_files import StoreFiles

EVERY_S = 0.2
_ANSWER_S = 2.0
_FIRST_S = 3.0
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  the table's timestamps carry no zone; they are UTC


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


class _Loaded(msgspec.Struct, frozen=True, rename="kebab"):
    metadata_location: str
    metadata: _Metadata


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file and the bounds of its rows; a bound that is not known is as wide as can be."""

    location: str
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

    metadata_location: str
    location: str
    snapshot: Snapshot | None
    snapshots: tuple[Snapshot, ...]
    properties: Mapping[str, str]
    files: tuple[DataFile, ...]  # those with the newest rows first
    newest_rows: Any = field(default=None, compare=False)  # those that are kept in memory, see `queries.NewestRows`

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


@dataclass(frozen=True, slots=True)
class Followed:
    """What is known of the table: its latest view, or why there is none, and since when the catalog is silent."""

    view: TableView | None = None
    problem: Exception | None = None
    silent_since: float | None = None
    why: str = ""


class TableFiles:
    """Follows one table through its commits. Safe to share between threads."""

    def __init__(
        self, catalog: str, store: StoreFiles, name: str, prepare: Callable[[TableView], TableView] = lambda view: view
    ) -> None:
        """Follow the table `name` (`namespace.table`) of the REST catalog; neither need exist yet.

        Args:
            catalog: The catalog's URL.
            store: Where its files are.
            name: The table.
            prepare: Adds to a view what queries are to find in it.
        """
        self._catalog, self._store, self._name, self._prepare = catalog.rstrip("/"), store, name, prepare
        self._reading = threading.Lock()
        self._first = threading.Event()
        self._followed = Followed(problem=TableMissingError(f"table {name} has not been looked for yet"))
        self._tag = ""
        self._manifests: dict[str, tuple[DataFile, ...]] = {}
        self._client: httpx.Client | None = None

    def follow(self) -> None:
        """Look for commits again and again, in a thread of its own, until the program ends."""
        threading.Thread(target=self._follow, name="table", daemon=True).start()

    def _follow(self) -> None:
        while True:
            started = time.monotonic()
            self.refresh()
            time.sleep(max(0.02, EVERY_S - (time.monotonic() - started)))

    def view(self) -> TableView:
        """The table as of its latest commit that is known.

        Raises:
            TableMissingError: There is no such table yet.
            TableUnreadableError: Its metadata or its newest file cannot be read.
        """
        self._first.wait(_FIRST_S)
        followed = self._followed
        if followed.view is None or followed.problem is not None:
            raise followed.problem or TableMissingError(f"table {self._name} does not exist yet")
        return followed.view

    @property
    def silence(self) -> str:
        """Since when the catalog does not answer, and why; empty while it does."""
        followed = self._followed
        if followed.silent_since is None:
            return ""
        return f"the catalog has not answered for {time.monotonic() - followed.silent_since:.1f} s: {followed.why}"

    def refresh(self) -> None:
        """Look for a new commit now, and whether the store has the newest file."""
        with self._reading:
            before = self._followed
            try:
                loaded = self._load()
                view = self._read(loaded) if loaded else before.view
                if view is not None:
                    self._require(view)
                self._followed = Followed(view, None if view else before.problem)
            except TableMissingError as problem:
                self._tag = ""
                self._followed = Followed(problem=problem)
            except _CatalogSilentError as problem:
                since = before.silent_since or time.monotonic()
                self._followed = self._without_catalog(before, since, str(problem))
            except TableUnreadableError as problem:
                self._tag = ""
                self._followed = Followed(before.view, problem)
            if type(self._followed.problem) is not type(before.problem):
                log("table_followed", problem=self._followed.problem or "none")
            self._first.set()

    def _without_catalog(self, before: Followed, since: float, why: str) -> Followed:
        if before.view is None:
            return Followed(
                None, TableMissingError(f"the catalog at {self._catalog} does not answer: {why}"), since, why
            )
        try:
            self._require(before.view)
        except TableUnreadableError as problem:
            return Followed(before.view, problem, since, why)
        return Followed(before.view, None, since, why)

    def _load(self) -> _Loaded | None:
        """The table as the catalog has it; None when it is still what it was."""
        import httpx

        space, _, name = self._name.rpartition(".")
        if self._client is None:
            patience = httpx.Timeout(_ANSWER_S, connect=CONNECT_S)
            self._client = httpx.Client(timeout=patience, trust_env=False)
        address = f"{self._catalog}/v1/namespaces/{space}/tables/{name}"
        try:
            answer = self._client.get(address, headers={"If-None-Match": self._tag} if self._tag else {})
        except httpx.HTTPError as problem:
            raise _CatalogSilentError(str(problem) or type(problem).__name__) from problem
        if answer.status_code == _NOT_MODIFIED:
            return None
        if answer.status_code == _NOT_FOUND:
            raise TableMissingError(f"table {self._name} does not exist yet")
        if answer.status_code != _OK:
            raise _CatalogSilentError(_message(answer))
        try:
            loaded = msgspec.json.decode(answer.content, type=_Loaded)
        except msgspec.MsgspecError as problem:
            raise TableUnreadableError(f"the catalog's word on {self._name} cannot be read: {problem}") from problem
        tag = answer.headers.get("ETag", "")
        if tag and tag == self._tag:
            return None
        self._tag = tag
        view = self._followed.view
        # A catalog that sends no tag tells the same again and again.
        same = (
            view is not None and self._followed.problem is None and view.metadata_location == loaded.metadata_location
        )
        return None if same else loaded

    def _read(self, loaded: _Loaded) -> TableView:
        metadata = loaded.metadata
        try:
            snapshot = next((s for s in metadata.snapshots if s.snapshot_id == metadata.current_snapshot_id), None)
            files = self._files(snapshot.manifest_list, _column_ids(metadata)) if snapshot else ()
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise TableUnreadableError(f"the metadata of {self._name} cannot be read: {error}") from error
        newest_first = sorted(files, key=lambda file: file.newest, reverse=True)
        view = TableView(
            loaded.metadata_location,
            metadata.location,
            snapshot,
            tuple(metadata.snapshots),
            metadata.properties,
            tuple(newest_first),
        )
        return self._prepare(view)

    def _require(self, view: TableView) -> None:
        """Prove that the store has what the newest rows are in.

        Raises:
            TableUnreadableError: It does not answer, or has lost it.
        """
        try:
            if view.files:
                self._store.require(view.files[0].location, view.files[0].size)
            else:
                self._store.require(view.metadata_location)
        except FileNotFoundError as problem:
            raise TableUnreadableError(f"a file of the table is gone: {problem.filename}") from problem
        except OSError as problem:
            raise TableUnreadableError(f"the object store cannot be read: {problem}") from problem

    def _files(self, manifest_list: str, column_ids: Mapping[str, int]) -> tuple[DataFile, ...]:
        from pyiceberg.manifest import ManifestContent, read_manifest_list

        io = self._store.manifests()
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


class _CatalogSilentError(Exception):
    """The catalog does not answer, or says that it cannot."""


_OK, _NOT_MODIFIED, _NOT_FOUND = 200, 304, 404


def _message(answer: httpx.Response) -> str:
    """What a catalog's error says."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def _column_ids(metadata: _Metadata) -> dict[str, int]:
    schema = next(s for s in metadata.schemas if s.schema_id == metadata.current_schema_id)
    return {field.name: field.id for field in schema.fields}


def _bounded(file: ManifestDataFile, column_ids: Mapping[str, int]) -> DataFile:
    lower, upper = file.lower_bounds or {}, file.upper_bounds or {}
    bounded = DataFile(file.file_path, file.record_count, file.file_size_in_bytes)
    time, symbol = column_ids["timestamp"], column_ids["symbol"]
    if time in lower and time in upper:
        bounded = replace(bounded, oldest=_moment(lower[time]), newest=_moment(upper[time]))
    if symbol in lower and symbol in upper:
        bounded = replace(bounded, first_symbol=lower[symbol].decode(), last_symbol=upper[symbol].decode())
    return bounded


def _moment(bound: bytes) -> datetime:
    return _EPOCH + timedelta(microseconds=int.from_bytes(bound, "little", signed=True))

"""Iceberg catalogs and tables, under a deadline and with errors that say who must act."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import socket
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from k2run.actions.action import Result, action, beginning
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import nearest
from k2run.errors import K2runError, NotApplicable, Refused, Unknown, Unreachable
from k2run.language.quantities import Duration
from k2run.stack.process_group import described

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyiceberg.catalog import Catalog
    from pyiceberg.catalog.rest import RestCatalog
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table


ANSWER_S = 5.0
CONNECT_S = 3.0
_LOST = re.compile(r"NotFoundException: Location does not exist: (\S+)")
_SETTING = "see connections.iceberg in the stack file"
PATIENCE = Duration(1.5)
_HELD = ("locked", "busy")
_KERNEL_LOCKS = Path("/proc/locks")
_LOCK_FIELDS = 8
# Its warnings would be lines between ours in the terminal; what matters of them it raises.
logging.getLogger("pyiceberg").addHandler(logging.NullHandler())


class Iceberg(Connection, frozen=True, kw_only=True, key="iceberg"):
    """An Iceberg catalog.

    Attributes:
        type: `sql` (a database that SQLAlchemy can open) or `rest`.
        uri: Such as `sqlite:////var/lib/k2/catalog.db` or `http://127.0.0.1:8181`.
        warehouse: Where the tables are; optional for reading.
        catalog: For `sql`: the catalog's name inside the database; empty when there is only one.
        namespace: Of tables that are named without one.
        properties: Further settings of pyiceberg, as they are: `s3.endpoint`, `s3.access-key-id`, `token`, ….
    """

    type: Literal["sql", "rest"] = "sql"
    uri: str
    warehouse: str = ""
    catalog: str = ""
    namespace: str = "default"
    properties: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Where the catalog is, without a password."""
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"iceberg {self.address}"

    def full_name(self, table: str) -> str:
        """The table's name with its namespace."""
        return table if "." in table else f"{self.namespace}.{table}"


def open_catalog(iceberg: Iceberg, deadline: Deadline) -> Catalog:
    """The catalog, ready to be asked; never made when it is not there.

    Raises:
        Unreachable: Nothing answers, or the file is not there.
        Refused: It is no catalog, or it wants another name or password.
    """
    with judged(iceberg, "open the catalog"):
        return _open_sql(iceberg, deadline) if iceberg.type == "sql" else _open_rest(iceberg, deadline)


def open_table(iceberg: Iceberg, deadline: Deadline, name: str, snapshot: int = 0) -> Table:
    """A table as it is at this moment, or as it was at an earlier snapshot.

    Raises:
        Unknown: There is no such table (the hint names the nearest), or it has no such snapshot.
    """
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, ServerError

    catalog = open_catalog(iceberg, deadline)
    full = iceberg.full_name(name)
    with judged(iceberg, f"load the table {full}"):
        try:
            found = catalog.load_table(full)
            return _as_of(found, snapshot) if snapshot else found
        except (NoSuchTableError, NoSuchNamespaceError, ServerError) as error:
            if lost := _LOST.search(str(error)):  # as REST catalogs say it, Iceberg's own with 404
                raise FileNotFoundError(2, "no such file", lost[1]) from error
            if isinstance(error, ServerError):
                raise
            hint = nearest(full, table_names(catalog), none="the catalog has no tables")
            raise Unknown(f"there is no table {full} in the catalog at {iceberg.address}", hint=hint) from error


def _as_of(table: Table, snapshot_id: int) -> Table:
    """The table with an earlier snapshot as the current one, in memory alone."""
    then = table.snapshot_by_id(snapshot_id)
    if then is None:
        raise Unknown(f"{'.'.join(table.name())} has no snapshot {snapshot_id}", hint="see iceberg.snapshots")
    schema_id = then.schema_id if then.schema_id is not None else table.metadata.current_schema_id
    changes = {"current_snapshot_id": snapshot_id, "current_schema_id": schema_id, "refs": {}}
    table.metadata = table.metadata.model_copy(update=changes)
    return table


def table_names(catalog: Catalog, namespace: str = "") -> list[str]:
    """Every table of a namespace (or of all namespaces), with its namespace."""
    spaces = [tuple(namespace.split("."))] if namespace else catalog.list_namespaces()
    return sorted(".".join(table) for space in spaces for table in catalog.list_tables(space))


@contextlib.contextmanager
def judged(iceberg: Iceberg, doing: str) -> Iterator[None]:
    """Turn the errors of pyiceberg, its database and its HTTP client into those of k2run."""
    try:
        yield
    except K2runError:
        raise
    except FileNotFoundError as error:
        raise Unknown(
            f"cannot {doing}: a file that the catalog at {iceberg.address} names is gone: {error.filename or error}",
            hint="was the warehouse cleared without dropping the table?",
        ) from error
    except Exception as error:
        kind, hint = _judge(error)
        cause = beginning(str(error).strip().split("\n", 1)[0], 200) or type(error).__name__
        raise kind(f"cannot {doing} (catalog at {iceberg.address}): {cause}", hint=hint) from error


def _judge(error: Exception) -> tuple[type[Refused | Unknown | Unreachable], str]:
    """The family of a foreign error.

    Told by its class's names, of which most are not worth an import here.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"NoSuchTableError", "NoSuchNamespaceError", "NoSuchViewError"}:
        return Unknown, "check the name"
    if names & {"UnauthorizedError", "ForbiddenError", "AuthorizationExpiredError", "OAuthError"}:
        return Refused, "see the credentials under connections.iceberg.properties in the stack file"
    if "password authentication failed" in str(error) or "no password supplied" in str(error):
        return Refused, f"user and password are wrong: {_SETTING}"
    if "CommitFailedException" in names:
        return Refused, "there was a concurrent commit; try again"
    if names & {"OperationalError", "ServiceUnavailableError", "ServerError", "OSError", "TimeoutError"}:
        return Unreachable, _SETTING
    return Refused, _SETTING


def _open_sql(iceberg: Iceberg, deadline: Deadline) -> SqlCatalog:
    from pyiceberg.catalog.sql import SqlCatalog
    from sqlalchemy import URL, make_url

    # A path is taken as it stands where that is a file: it may hold a `%` or a `?`, which mean something in a URL.
    path = iceberg.uri.removeprefix("sqlite:///")
    url = URL.create("sqlite", database=path) if Path(path).is_file() else make_url(iceberg.uri)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        raise Unreachable(f"there is no catalog file {url.database}", hint=f"has anything been written yet? {_SETTING}")
    if url.get_backend_name() == "postgresql":
        # libpq's own bounds, in whole seconds; without them a server that says nothing holds the step for minutes.
        patience = math.ceil(deadline.at_most(ANSWER_S))
        bounds = {"connect_timeout": str(patience), "options": f"-c statement_timeout={patience}s"}
        url = url.update_query_dict({**bounds, **url.query})
    uri = url.render_as_string(hide_password=False)
    settings = {"uri": uri, "init_catalog_tables": "false", **_storage(iceberg)}
    catalog = SqlCatalog(iceberg.catalog or "k2run", **settings)
    if not iceberg.catalog and (only := _only_catalog(catalog)):
        catalog.name = only
    return catalog


def _only_catalog(catalog: SqlCatalog) -> str:
    """The name under which the database's tables are filed; empty when it has none.

    Raises:
        Refused: It has several.
    """
    from sqlalchemy import text

    with catalog.engine.connect() as connection:
        found = [row[0] for row in connection.execute(text("SELECT DISTINCT catalog_name FROM iceberg_tables"))]
    if len(found) > 1:
        raise Refused(
            f"the database has {len(found)} catalogs: {', '.join(sorted(found))}",
            hint="set connections.iceberg.catalog in the stack file",
        )
    return found[0] if found else ""


def _open_rest(iceberg: Iceberg, deadline: Deadline) -> RestCatalog:
    _knock(iceberg, deadline)  # before the imports, which take longer than a refusal

    from pyiceberg.catalog.rest import RestCatalog
    from requests import Session
    from requests.adapters import HTTPAdapter

    class Punctual(HTTPAdapter):
        """Requests that end with the step; pyiceberg sets no timeout of its own."""

        def send(self, *args: Any, **settings: Any) -> Any:
            settings["timeout"] = deadline.at_most(ANSWER_S)
            return super().send(*args, **settings)

    class PunctualCatalog(RestCatalog):
        def _create_session(self) -> Session:
            session = super()._create_session()
            session.mount("http://", Punctual())
            session.mount("https://", Punctual())
            return session

    return PunctualCatalog(iceberg.catalog or "k2run", uri=iceberg.uri, **_storage(iceberg))


def _storage(iceberg: Iceberg) -> dict[str, str]:
    """Settings of the files' storage; a store that does not answer must not hang a step."""
    bounds = {"s3.connect-timeout": "3", "s3.request-timeout": "10"}
    warehouse = {"warehouse": iceberg.warehouse} if iceberg.warehouse else {}
    return {**bounds, **warehouse, **iceberg.properties}


def _knock(iceberg: Iceberg, deadline: Deadline) -> None:
    """Connect and hang up: a closed port is told at once and with its cause."""
    parts = urlsplit(iceberg.uri)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        socket.create_connection(address, deadline.at_most(CONNECT_S)).close()
    except OSError as error:
        cause = error.strerror or str(error)
        raise Unreachable(f"the catalog at {iceberg.address} does not answer: {cause}", hint=_SETTING) from error


class CatalogLock(Result, frozen=True, kw_only=True):
    """The write lock of a catalog's database.

    Attributes:
        locked: Another process held it for the whole time.
        holders: The processes that hold it, where the system tells.
        detail: What the database said.
    """

    path: str
    locked: bool
    holders: list[str] = []
    detail: str = ""

    def headline(self) -> str:
        """Such as `locked by pid 4242 (sqlite3 catalog.db)`."""
        if not self.locked:
            return f"not locked{f': {self.detail}' if self.detail else ''}"
        return f"{self.detail} by {', '.join(self.holders) or 'a process that cannot be seen'}"


@action("iceberg.catalog_lock")
def catalog_lock(iceberg: Iceberg, deadline: Deadline, patience: Duration = PATIENCE) -> CatalogLock:
    """Whether the write lock of an SQLite catalog can be had; it is given back at once.

    Args:
        patience: A lock that is released within this time is the short one of a commit.

    Raises:
        NotApplicable: The catalog is not a SQLite database.
    """
    path = database_of(iceberg)
    if not path.is_file():
        return CatalogLock(path=str(path), locked=False, detail="there is no such file", source=iceberg.source)
    said = ""
    try:
        with closing(_connect(path, deadline.at_most(patience))) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.Error as error:
        said = str(error)
    locked = any(word in said for word in _HELD)
    beside = [path, *(path.with_name(path.name + ending) for ending in ("-shm", "-wal", "-journal"))]
    return CatalogLock(
        path=str(path),
        locked=locked,
        holders=lock_holders(beside) if locked else [],
        detail=said,
        source=iceberg.source,
    )


def database_of(iceberg: Iceberg) -> Path:
    """The file of an SQLite catalog.

    Raises:
        NotApplicable: The catalog is something else.
    """
    kind = urlsplit(iceberg.uri).scheme.partition("+")[0]
    if iceberg.type != "sql" or kind != "sqlite":
        raise NotApplicable(f"the catalog at {iceberg.address} is not a SQLite database")
    return Path(iceberg.uri.partition(":///")[2].partition("?")[0])


def _connect(path: Path, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=patience, isolation_level=None)


def lock_holders(paths: list[Path]) -> list[str]:
    """The processes that hold a lock for writing on one of these files, for people; empty where it is unknown.

    Args:
        paths: The files; those that are missing are passed over.
    """
    import psutil

    wanted = set()
    for path in paths:
        with suppress(OSError):
            wanted.add(path.stat().st_ino)
    holders: list[str] = []
    for pid in sorted(_writers(wanted) - {os.getpid()}):
        with suppress(psutil.Error):
            holders.append(described(psutil.Process(pid)))
    return holders


def _writers(inodes: set[int]) -> set[int]:
    """Pids with a write lock on one of these inodes; lines that wait for a lock begin with an arrow."""
    try:
        lines = _KERNEL_LOCKS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        fields = line.split()
        if len(fields) == _LOCK_FIELDS and fields[3] == "WRITE" and int(fields[5].rpartition(":")[2]) in inodes:
            found.add(int(fields[4]))
    return found - {-1, 0}

"""One session with a PostgreSQL server, under a deadline and with errors that say who must act."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from k2run.actions.connection import Connection
from k2run.adapters._clients import punctually
from k2run.adapters._sql import plain
from k2run.errors import ActionError, Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from psycopg import AsyncConnection, Error

    from k2run.actions.deadline import Deadline

_SETTING = "see connections.postgres in the stack file"
_NO_ENTRY = ("28", "3D", "42501")
"""SQLSTATE classes: wrong password or user, no such database, no permission."""
_PASSING = ("starting up", "shutting down", "recovery mode", "not yet accepting", "terminating connection")


class Postgres(Connection, frozen=True, kw_only=True, key="postgres"):
    """A PostgreSQL database.

    Attributes:
        host: Name or address; a path is the folder of a Unix socket.
        port: TCP port.
        database: Name of the database.
        user: Who asks.
        password: Their password; empty where none is needed.
        options: Further settings of libpq, as they are: `sslmode`, `sslrootcert`, ….
    """

    host: str = "127.0.0.1"
    port: int = 5432
    database: str
    user: str
    password: str = ""
    options: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Where it is, without the password."""
        return f"{self.user}@{self.host}:{self.port}/{self.database}"

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"postgres {self.address}"


class Table(NamedTuple):
    """What a statement brought.

    Attributes:
        affected: Rows that it changed or returned.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    affected: int


def ask(
    postgres: Postgres,
    deadline: Deadline,
    sql: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    limit: int = 1000,
    writes: bool = False,
) -> Table:
    """Run one statement in a transaction of its own, a read-only one unless it may write.

    Args:
        postgres: Where.
        deadline: The server hears of it too, and gives up by itself.
        sql: One statement; values stand as `%(name)s`.
        parameters: Those values.
        limit: Rows to fetch at most.
        writes: Whether it may change anything.

    Raises:
        Unreachable: Nothing answers.
        Refused: The server says no, or its client is not installed here.
        TimedOut: The deadline passed first.
    """
    try:
        import psycopg
    except ImportError as error:
        raise Refused("the PostgreSQL client is not installed", hint="pip install 'k2run[postgres]'") from error

    try:
        return punctually(_ask(postgres, deadline, sql, parameters, limit, writes), deadline)
    except TimedOut as error:
        raise TimedOut(
            f"{postgres.address} has not answered within {deadline.seconds:g}s",
            hint="is it up and well, and the query quick? or raise the step's timeout",
        ) from error
    except psycopg.Error as error:
        raise _judge(postgres, error) from error


async def _ask(
    postgres: Postgres,
    deadline: Deadline,
    sql: str,
    parameters: Mapping[str, Any] | None,
    limit: int,
    writes: bool,
) -> Table:
    async with _session(postgres, deadline) as session:
        await session.set_read_only(not writes)
        cursor = session.cursor()
        # Prepared: the server takes a single statement then, and nothing slips in behind it.
        await cursor.execute(sql.encode(), parameters or None, prepare=True)
        columns = [column.name for column in cursor.description or ()]
        found = await cursor.fetchmany(limit) if columns else []
        await session.commit()
    rows = [{name: plain(value) for name, value in zip(columns, row, strict=True)} for row in found]
    return Table(columns, rows, max(cursor.rowcount, 0))


@contextlib.asynccontextmanager
async def _session(postgres: Postgres, deadline: Deadline) -> AsyncIterator[AsyncConnection[Any]]:
    from psycopg import AsyncConnection

    patience_ms = int(deadline.remaining() * 1000)
    session = await AsyncConnection.connect(  # what libpq takes is not typed
        **{  # type: ignore[arg-type]
            "application_name": "k2run",
            **postgres.options,
            "host": postgres.host,
            "port": postgres.port,
            "dbname": postgres.database,
            "user": postgres.user,
            "password": postgres.password or None,
            "options": f"-c statement_timeout={patience_ms} {postgres.options.get('options', '')}",
        }
    )
    try:
        yield session
    finally:
        session.pgconn.finish()  # at once: a polite farewell waits for an answer


def _judge(postgres: Postgres, error: Error) -> ActionError:
    import psycopg

    state = error.sqlstate or ""
    cause = " ".join(str(error).split()).replace(postgres.password or "\0", "***")
    if isinstance(error, psycopg.errors.QueryCanceled):
        return TimedOut(f"{postgres.address} gave up the query in time: {cause}", hint="raise the step's timeout")
    # An error of connecting carries no SQLSTATE; a server that says FATAL is there, and says no.
    turned_away = not state and "FATAL:" in cause and not any(word in cause for word in _PASSING)
    if turned_away or state.startswith(_NO_ENTRY) or "no password supplied" in cause:
        return Refused(f"{postgres.address} refuses: {cause}", hint=f"user, password, database: {_SETTING}")
    if (not state and isinstance(error, psycopg.OperationalError)) or state.startswith(("08", "57P")):
        return Unreachable(f"{postgres.address} does not answer: {cause}", hint=f"is it up? {_SETTING}")
    return Refused(f"{postgres.address} refuses the query: {cause}")

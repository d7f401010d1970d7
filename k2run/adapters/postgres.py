"""PostgreSQL: queries, who is busy and who waits for whom, ending sessions, and whether it really answers.

Long because every action on PostgreSQL is on this page.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct, convert

from k2run.actions.action import Blast, Effect, Result, Striking, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import Answer, Changed, Rows, Server, answer, plain
from k2run.adapters._clients import cause_of, late, punctually
from k2run.adapters.host.stress import LONGEST, Burdened, begin, name_of, relief
from k2run.errors import ActionError, AuthorError, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from psycopg import AsyncConnection, Error


HALF_A_MINUTE = Duration(30)

_HEALTH = """
SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS in_recovery,
       extract(epoch FROM now() - pg_postmaster_start_time()) AS uptime_s
"""
PATIENCE = Duration(1.5)
_HOLDERS = """
SELECT DISTINCT sessions.pid, coalesce(sessions.application_name, '') AS application, coalesce(sessions.state, '')
       AS state,
       extract(epoch FROM clock_timestamp() - sessions.xact_start) AS held_s
FROM pg_locks AS locks JOIN pg_stat_activity AS sessions USING (pid)
WHERE locks.relation = to_regclass(%(table)s) AND locks.granted AND locks.database =
      (SELECT oid FROM pg_database WHERE datname = current_database())
  AND locks.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND clock_timestamp() - sessions.xact_start > make_interval(secs => %(patience)s)
ORDER BY held_s DESC
"""
_EXISTS = "SELECT to_regclass(%(table)s) IS NOT NULL AS found"
_SESSIONS = """
SELECT pid, coalesce(usename, '') AS user, coalesce(application_name, '') AS application,
       coalesce(state, '') AS state, left(regexp_replace(coalesce(query, ''), '\\s+', ' ', 'g'), 200) AS query,
       coalesce(extract(epoch FROM clock_timestamp() - query_start), 0) AS running_s,
       coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0) AS transaction_s,
       pg_blocking_pids(pid) AS blocked_by
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
ORDER BY query_start
"""
_DEADLOCKS = """
SELECT deadlocks, current_setting('max_connections')::int AS most
FROM pg_stat_database WHERE datname = current_database()
"""
_SETTING = "see connections.postgres in the stack file"
_NO_ENTRY = ("28", "3D", "42501")
"""SQLSTATE classes: wrong password or user, no such database, no permission."""
_PASSING = ("starting up", "shutting down", "recovery mode", "not yet accepting", "terminating connection")


class Postgres(Server, frozen=True, kw_only=True, key="postgres"):
    """A PostgreSQL database.

    Attributes:
        host: Name or address; a path is the folder of a Unix socket.
        port: TCP port.
        database: Name of the database.
        user: Who asks.
        password: Their password; empty where none is needed.
        options: Further settings of libpq, as they are: `sslmode`, `sslrootcert`, ….
    """

    port: int = 5432
    options: dict[str, str] = {}


class Session(Struct, frozen=True, kw_only=True):
    """One session of the database.

    Attributes:
        running_s: Seconds since its last query began.
        transaction_s: Seconds since its transaction began; 0 outside of one.
        blocked_by: The sessions whose locks it waits for.
    """

    pid: int
    user: str
    application: str
    state: str
    query: str
    running_s: float
    transaction_s: float
    blocked_by: list[int]


class Activity(Result, frozen=True, kw_only=True):
    """Who is connected to the database, and what they are about.

    Attributes:
        sessions: Connected clients, without k2run's own session.
        most: `max_connections` of the server.
        active: Sessions that run a query.
        idle_in_transaction: Sessions that hold a transaction open and do nothing.
        blocked: Sessions that wait for another's lock.
        longest_s: Of the active sessions' queries; 0 when none is active.
        long: Active or idle in a transaction for longer than asked about.
        waiting: The blocked ones, with whom they wait for.
        deadlocks: Deadlocks since the statistics were reset.
    """

    sessions: int
    most: int
    active: int
    idle_in_transaction: int
    blocked: int
    longest_s: float
    long: list[Session]
    waiting: list[Session]
    deadlocks: int

    def headline(self) -> str:
        """Such as `7 sessions, 2 active, longest 41 s, 1 blocked`."""
        return f"{self.sessions} sessions, {self.active} active, longest {self.longest_s:.0f} s, {self.blocked} blocked"


class Terminated(Result, frozen=True, kw_only=True):
    """Sessions that were ended, or whose query was cancelled."""

    count: int
    sessions: list[Session]

    def headline(self) -> str:
        """Such as `ended 2 sessions: 4711, 4712`."""
        pids = ", ".join(str(session.pid) for session in self.sessions[:5])
        return f"ended {self.count} sessions" + (f": {pids}" if pids else "")


class Health(Result, frozen=True, kw_only=True):
    """A server that answers a query of this user in this database.

    Attributes:
        in_recovery: Whether it is a standby (or recovering from a crash) and takes no writes.
    """

    version: str
    in_recovery: bool
    uptime_s: float
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `15.18, up 3,600 s, 4.1 ms`."""
        standby = ", in recovery" if self.in_recovery else ""
        return f"{self.version}, up {self.uptime_s:,.0f} s, {self.elapsed_ms:.1f} ms{standby}"


class Locked(Result, frozen=True, kw_only=True):
    """Whether a table can be written to.

    Attributes:
        locked: A session holds a lock on it that keeps every other from writing.
        holders: Those sessions, the one that has held it for longest first.
        held_s: For how long that one has; 0 when none does.
    """

    table: str
    locked: bool
    holders: list[str]
    held_s: float

    def headline(self) -> str:
        """Such as `locked for 41 s by pid 4711 (psql, idle in transaction)`."""
        if not self.locked:
            return "not locked"
        return f"locked for {self.held_s:.0f} s by {', '.join(self.holders)}"


@action("postgres.locked")
def locked(postgres: Postgres, deadline: Deadline, table: str, patience: Duration = PATIENCE) -> Locked:
    """Whether a session holds a lock on a table that keeps others from writing: a backup, a forgotten shell.

    Args:
        table: Its name, with its schema where it is in another than the first of the search path.
        patience: A lock held for no longer than this is the short one of a change.

    Raises:
        Unknown: There is no such table.
    """
    (there,) = ask(postgres, deadline, _EXISTS, {"table": table}).rows
    if not there["found"]:
        raise Unknown(f"there is no table {table} in {postgres.address}", hint="check its name and schema")
    found = ask(postgres, deadline, _HOLDERS, {"table": table, "patience": float(patience)}).rows
    return Locked(
        table=table,
        locked=bool(found),
        holders=[f"pid {one['pid']} ({one['application'] or 'no name'}, {one['state']})" for one in found],
        held_s=float(found[0]["held_s"]) if found else 0.0,
        source=postgres.source,
    )


@fault("postgres.lock", blast=Blast.DATA, undone_by="host.relieve")
def lock(
    services: Services, postgres: Postgres, deadline: Deadline, table: str, at_most: Duration = LONGEST
) -> Striking[Burdened]:
    """Hold a lock on a table that keeps everybody else from writing to it, not from reading. Undone by letting it go.

    Blast radius: every session that writes to the table waits, and gives up in the end.

    Args:
        table: Its name.
        at_most: When the lock is released by itself.

    Raises:
        Unknown: There is no such table.
    """
    (there,) = ask(postgres, deadline, _EXISTS, {"table": table}).rows
    if not there["found"]:
        raise Unknown(f"there is no table {table} in {postgres.address}", hint="check its name and schema")
    burden = name_of("table")
    yield relief(burden, f"unlock {table}")
    address = [postgres.host, str(postgres.port), postgres.database, postgres.user, table]
    return begin(services, deadline, burden, address, at_most, {"PGPASSWORD": postgres.password, **_libpq(postgres)})


def _libpq(postgres: Postgres) -> dict[str, str]:
    """Settings of libpq as its environment has them."""
    return {f"PG{name.upper()}": value for name, value in postgres.options.items()}


@action("postgres.health")
def health(postgres: Postgres, deadline: Deadline) -> Health:
    """The server lets this user in and answers a query; an open port alone is not enough."""
    started = time.perf_counter()
    (row,) = ask(postgres, deadline, _HEALTH).rows
    return Health(**row, elapsed_ms=(time.perf_counter() - started) * 1000, source=postgres.source)


@action("postgres.query")
def query(
    postgres: Postgres,
    deadline: Deadline,
    sql: str,
    parameters: dict[str, Any] = {},
    limit: int = 100,
    allow_empty: bool = False,
) -> Answer:
    """Ask the database with one statement that may not change anything; no rows are unknown.

    Args:
        sql: The query; values are written as `%(name)s`.
        parameters: Those values.
        limit: Rows to fetch at most.
        allow_empty: Whether no rows are an answer, too.
    """
    started = time.perf_counter()
    found = ask(postgres, deadline, sql, parameters, limit=limit)
    return answer(found, started, place=postgres.address, source=postgres.source, allow_empty=allow_empty)


@action("postgres.execute", effect=Effect.DESTROYS)
def execute(postgres: Postgres, deadline: Deadline, sql: str, parameters: dict[str, Any] = {}) -> Changed:
    """Run one statement that changes something, in a transaction of its own.

    Args:
        sql: The statement; values are written as `%(name)s`.
        parameters: Those values.
    """
    started = time.perf_counter()
    done = ask(postgres, deadline, sql, parameters, writes=True)
    elapsed_ms = (time.perf_counter() - started) * 1000
    return Changed(rows_affected=done.affected, elapsed_ms=elapsed_ms, source=postgres.source)


@action("postgres.activity")
def activity(postgres: Postgres, deadline: Deadline, longer_than: Duration = HALF_A_MINUTE) -> Activity:
    """Who is connected to the database: long queries, forgotten transactions, who waits for whose locks, deadlocks.

    Args:
        longer_than: Sessions busy for longer than this are told as `long`.
    """
    sessions = _sessions(postgres, deadline)
    (row,) = ask(postgres, deadline, _DEADLOCKS).rows
    active = [session for session in sessions if session.state == "active"]
    idle = [session for session in sessions if session.state.startswith("idle in transaction")]
    waiting = [session for session in sessions if session.blocked_by]
    return Activity(
        sessions=len(sessions),
        most=row["most"],
        active=len(active),
        idle_in_transaction=len(idle),
        blocked=len(waiting),
        longest_s=max((session.running_s for session in active), default=0.0),
        long=[session for session in sessions if _busy_s(session) > longer_than],
        waiting=waiting,
        deadlocks=row["deadlocks"],
        source=postgres.source,
    )


@action("postgres.terminate", effect=Effect.DESTROYS)
def terminate(
    postgres: Postgres,
    deadline: Deadline,
    pid: int = 0,
    application: str = "",
    longer_than: Duration | None = None,
    only_cancel: bool = False,
) -> Terminated:
    """End sessions of the database, and wait until they are gone; at least one of the arguments says which.

    Args:
        pid: The session with this process id.
        application: Sessions of this `application_name`.
        longer_than: Sessions that are active, or idle in a transaction, for longer than this.
        only_cancel: Whether only their query is cancelled and the session stays.
    """
    if not pid and not application and longer_than is None:
        raise AuthorError("postgres.terminate needs a pid, an application or longer_than")
    chosen = [
        session
        for session in _sessions(postgres, deadline)
        if (not pid or session.pid == pid)
        and (not application or session.application == application)
        and (longer_than is None or _busy_s(session) > longer_than)
    ]
    function = "pg_cancel_backend" if only_cancel else "pg_terminate_backend"
    pids = [session.pid for session in chosen]
    ask(postgres, deadline, f"SELECT {function}(pid) FROM unnest(%(pids)s::int[]) AS pid", {"pids": pids})  # noqa: S608 - one of two names
    while not only_cancel and {session.pid for session in _sessions(postgres, deadline)} & set(pids):
        deadline.sleep(0.05)
    return Terminated(count=len(chosen), sessions=chosen, source=postgres.source)


def _sessions(postgres: Postgres, deadline: Deadline) -> list[Session]:
    return convert(ask(postgres, deadline, _SESSIONS).rows, list[Session])


def _busy_s(session: Session) -> float:
    """Seconds that a session has been at it; 0 for one that is idle."""
    if session.state == "active":
        return session.running_s
    return session.transaction_s if session.state.startswith("idle in transaction") else 0.0


def ask(
    postgres: Postgres,
    deadline: Deadline,
    sql: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    limit: int = 1000,
    writes: bool = False,
) -> Rows:
    """Run one statement in a transaction of its own, a read-only one unless it may write.

    Its values are written as `%(name)s`. The server hears of the deadline too, and gives up by itself.

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
        hint = "is it up, and is the query fast enough? or raise the step's timeout"
        raise late(postgres.address, deadline, hint) from error
    except psycopg.Error as error:
        raise _judge(postgres, error) from error


async def _ask(
    postgres: Postgres,
    deadline: Deadline,
    sql: str,
    parameters: Mapping[str, Any] | None,
    limit: int,
    writes: bool,
) -> Rows:
    async with _session(postgres, deadline) as session:
        await session.set_read_only(not writes)
        cursor = session.cursor()
        # Prepared: the server takes a single statement then, and nothing slips in behind it.
        await cursor.execute(sql.encode(), parameters or None, prepare=True)
        columns = [column.name for column in cursor.description or ()]
        found = await cursor.fetchmany(limit + 1) if columns else []
        await session.commit()
    rows = [dict(zip(columns, map(plain, row), strict=True)) for row in found[:limit]]
    return Rows(columns, rows, len(found) > limit, max(cursor.rowcount, 0))


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
    cause = cause_of(error, postgres.password)
    if isinstance(error, psycopg.errors.QueryCanceled):
        return TimedOut(f"{postgres.address} gave up the query in time: {cause}", hint="raise the step's timeout")
    # An error of connecting carries no SQLSTATE; a server that says FATAL is there, and says no.
    turned_away = not state and "FATAL:" in cause and not any(word in cause for word in _PASSING)
    if turned_away or state.startswith(_NO_ENTRY) or "no password supplied" in cause:
        return Refused(f"{postgres.address} refuses: {cause}", hint=f"user, password, database: {_SETTING}")
    if (not state and isinstance(error, psycopg.OperationalError)) or state.startswith(("08", "57P")):
        return Unreachable(f"{postgres.address} does not answer: {cause}", hint=f"is it up? {_SETTING}")
    return Refused(f"{postgres.address} refuses the query: {cause}")

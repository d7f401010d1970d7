"""MySQL and MariaDB: queries, whether it really answers, and whether its replicas follow."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.actions.action import Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import Answer, Changed, Rows, Server, answer, plain
from k2run.adapters._clients import apart, cause_of, late, require_client
from k2run.errors import ActionError, Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping


_HEALTH = """
SELECT @@version AS version, @@version_comment AS comment, @@global.read_only AS read_only,
       @@global.max_connections AS most
"""
_STATUS = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Uptime', 'Threads_connected', 'Threads_running')"
_CHANNELS = ("SHOW ALL SLAVES STATUS", "SHOW REPLICA STATUS", "SHOW SLAVE STATUS")
"""MariaDB, MySQL from 8.0.22 on, and before."""
_FOLLOWERS = ("SHOW REPLICA HOSTS", "SHOW REPLICAS", "SHOW SLAVE HOSTS")
_SETTING = "see connections.mysql in the stack file"
_NO_ENTRY = {1044, 1045, 1049, 1130, 1142, 1227, 1698, 2026, 2059, 4151}
"""Errors of access: user, password, database, host, permission, TLS."""
_GIVEN_UP = {1317, 1969, 3024}
"""A query that was ended for the time it took."""
_AWAY = {1040, 1053, 2002, 2003, 2006, 2013}
"""Too many connections, going down, nothing listens, the connection broke."""
_COMMENT = re.compile(r"\A(\s+|--\s[^\n]*\n|#[^\n]*\n|/\*(?!!|M!).*?\*/)+", re.DOTALL)
_ASKS = re.compile(r"\A\(*\s*(SELECT|SHOW|WITH|EXPLAIN|DESCRIBE|DESC|TABLE|VALUES|CHECKSUM)\b", re.IGNORECASE)
_WRITES_A_FILE = re.compile(r"\bINTO\s+(OUTFILE|DUMPFILE)\b", re.IGNORECASE)


class Mysql(Server, frozen=True, kw_only=True, key="mysql"):
    """A MySQL or MariaDB server.

    Attributes:
        host: Name or address.
        port: TCP port.
        database: The default database; may be empty.
        user: Who asks.
        password: Their password; empty where none is needed.
        tls: Whether the connection is encrypted, and the server's certificate and name are verified.
        ca: File with the certificates to trust, instead of the system's.
    """

    port: int = 3306
    database: str = ""
    tls: bool = False
    ca: str = ""


class Health(Result, frozen=True, kw_only=True):
    """A server that lets this user in and answers.

    Attributes:
        flavour: `MariaDB` or `MySQL`.
        read_only: Whether it takes no writes from ordinary users, as a replica should.
        connections: Open ones.
        most: `max_connections` of the server.
        running: Connections that run a statement at the moment, this one included.
    """

    version: str
    flavour: str
    read_only: bool
    uptime_s: float
    connections: int
    most: int
    running: int
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `MariaDB 10.11.6, up 3,600 s, 12 of 151 connections`."""
        only = ", read-only" if self.read_only else ""
        up = f"{self.flavour} {self.version}, up {self.uptime_s:,.0f} s"
        return f"{up}, {self.connections} of {self.most} connections{only}"


class Channel(Struct, frozen=True, kw_only=True):
    """One source that this server replicates from.

    Attributes:
        source: Its address.
        receiving: Whether its changes are received.
        applying: Whether they are applied here.
        seconds_behind: None when the server cannot tell, as while either does not run.
        last_error: Of receiving or applying; empty without one.
    """

    source: str
    receiving: bool
    applying: bool
    seconds_behind: float | None
    last_error: str


class Replication(Result, frozen=True, kw_only=True):
    """Who replicates from whom, as this server sees it.

    Attributes:
        channels: The sources that this server replicates from; empty on a primary.
        replicating: Whether it receives and applies the changes of all of them; None when it replicates from no one.
        seconds_behind: Of whichever channel is furthest behind; None when it cannot be told.
        replicas: Servers that are registered as replicas of this one.
        read_only: Whether it takes no writes from ordinary users.
    """

    channels: list[Channel]
    replicating: bool | None
    seconds_behind: float | None
    replicas: int
    read_only: bool

    def headline(self) -> str:
        """Such as `replicates from db1:3306, 0 s behind`, or what stopped it."""
        if not self.channels:
            return f"no replica, {self.replicas} replicas of its own"
        broken = [one for one in self.channels if not (one.receiving and one.applying)]
        if broken:
            return f"replication from {broken[0].source} has stopped: {broken[0].last_error or 'no error reported'}"
        behind = "unknown" if self.seconds_behind is None else f"{self.seconds_behind:g} s behind"
        return f"replicates from {', '.join(one.source for one in self.channels)}, {behind}"


@action("mysql.health")
def health(mysql: Mysql, deadline: Deadline) -> Health:
    """The server lets this user in and answers a query; an open port alone is not enough."""
    started = time.perf_counter()
    (row,) = ask(mysql, deadline, _HEALTH).rows
    status = {one["Variable_name"]: float(one["Value"]) for one in ask(mysql, deadline, _STATUS).rows}
    return Health(
        version=row["version"].partition("-")[0],
        flavour="MariaDB" if "mariadb" in f"{row['version']} {row['comment']}".lower() else "MySQL",
        read_only=bool(row["read_only"]),
        uptime_s=status["Uptime"],
        connections=int(status["Threads_connected"]),
        most=row["most"],
        running=int(status["Threads_running"]),
        elapsed_ms=(time.perf_counter() - started) * 1000,
        source=mysql.source,
    )


@action("mysql.query")
def query(
    mysql: Mysql,
    deadline: Deadline,
    sql: str,
    parameters: dict[str, Any] = {},
    limit: int = 100,
    allow_empty: bool = False,
) -> Answer:
    """Ask the database with one statement that may not change anything; no rows are unknown.

    Args:
        sql: The query, such as SELECT or SHOW; values are written as `%(name)s`.
        parameters: Those values.
        limit: Rows to fetch at most.
        allow_empty: Whether no rows are an answer, too.
    """
    started = time.perf_counter()
    found = ask(mysql, deadline, sql, parameters, limit=limit)
    return answer(found, started, place=mysql.address, source=mysql.source, allow_empty=allow_empty)


@action("mysql.execute", effect=Effect.DESTROYS)
def execute(mysql: Mysql, deadline: Deadline, sql: str, parameters: dict[str, Any] = {}) -> Changed:
    """Run one statement that changes something, in a transaction of its own.

    Args:
        sql: The statement; values are written as `%(name)s`.
        parameters: Those values.
    """
    started = time.perf_counter()
    done = ask(mysql, deadline, sql, parameters, writes=True)
    elapsed_ms = (time.perf_counter() - started) * 1000
    return Changed(rows_affected=done.affected, elapsed_ms=elapsed_ms, source=mysql.source)


@action("mysql.replication")
def replication(mysql: Mysql, deadline: Deadline) -> Replication:
    """Whether this server receives and applies what its sources change, how far behind it is, and who follows it."""
    channels = [_channel(row) for row in _first(mysql, deadline, _CHANNELS)]
    behind = [one.seconds_behind for one in channels]
    known = [seconds for seconds in behind if seconds is not None]
    return Replication(
        channels=channels,
        replicating=all(one.receiving and one.applying for one in channels) if channels else None,
        seconds_behind=max(known) if known and len(known) == len(behind) else None,
        replicas=len(_first(mysql, deadline, _FOLLOWERS)),
        read_only=bool(ask(mysql, deadline, "SELECT @@global.read_only AS it").rows[0]["it"]),
        source=mysql.source,
    )


def _first(mysql: Mysql, deadline: Deadline, statements: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of the first statement that this server knows; one that it does not know is a syntax error."""
    for statement in statements[:-1]:
        try:
            return ask(mysql, deadline, statement).rows
        except Refused as error:
            if "syntax" not in error.message:
                raise
    return ask(mysql, deadline, statements[-1]).rows


def _channel(row: dict[str, Any]) -> Channel:
    """A channel, whose columns MySQL and MariaDB name differently."""

    def column(*names: str) -> Any:
        return next((row[name] for name in names if name in row), None)

    behind = column("Seconds_Behind_Source", "Seconds_Behind_Master")
    return Channel(
        source=f"{column('Source_Host', 'Master_Host')}:{column('Source_Port', 'Master_Port')}",
        receiving=column("Replica_IO_Running", "Slave_IO_Running") == "Yes",
        applying=column("Replica_SQL_Running", "Slave_SQL_Running") == "Yes",
        seconds_behind=None if behind is None else float(behind),
        last_error=str(column("Last_IO_Error") or column("Last_SQL_Error") or ""),
    )


def ask(
    mysql: Mysql,
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
        Refused: The server says no, the statement may change something, or the client is not installed here.
        TimedOut: The deadline passed first.
    """
    require_client("mysql", "pymysql")
    from pymysql.err import MySQLError

    if not writes:
        _refuse_changes(sql)
    try:
        return apart(lambda: _ask(mysql, deadline, sql, parameters, limit, writes), deadline)
    except TimedOut as error:
        hint = f"is it up, and is the query fast enough? {_SETTING}, or raise the step's timeout"
        raise late(mysql.address, deadline, hint) from error
    except (MySQLError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise _judge(mysql, error, deadline) from error


def _refuse_changes(sql: str) -> None:
    """A read-only transaction does not hold back SHUTDOWN, KILL, SET GLOBAL or a file that is written."""
    bare = _COMMENT.sub("", sql)
    if not _ASKS.match(bare) or _WRITES_A_FILE.search(bare):
        raise Refused(
            f"`{' '.join(bare.split())[:60]}` may change data; a query only reads",
            hint="write a SELECT or SHOW, or use mysql.execute",
        )


def _ask(
    mysql: Mysql, deadline: Deadline, sql: str, parameters: Mapping[str, Any] | None, limit: int, writes: bool
) -> Rows:
    import pymysql
    from pymysql.cursors import SSCursor

    patience = max(1, int(deadline.remaining() + 1))
    secured: dict[str, Any] = {"ssl_verify_cert": True, "ssl_verify_identity": True, "ssl_ca": mysql.ca or None}
    session: Any = pymysql.connect(  # its stubs lack what is used below
        host=mysql.host,
        port=mysql.port,
        user=mysql.user,
        password=mysql.password,
        database=mysql.database or None,
        charset="utf8mb4",
        connect_timeout=patience,
        read_timeout=patience,
        write_timeout=patience,
        program_name="k2run",
        local_infile=False,
        **(secured if mysql.tls else {"ssl_disabled": True}),
    )
    try:
        with session.cursor(SSCursor) as cursor:
            _limit_time(cursor, session.server_version, deadline)
            cursor.execute(f"START TRANSACTION READ {'WRITE' if writes else 'ONLY'}")
            cursor.execute(sql, dict(parameters) if parameters else None)
            columns = [column[0] for column in cursor.description or ()]
            found = cursor.fetchmany(limit + 1) if columns else []
            affected = max(cursor.rowcount, 0) if not columns else 0
            if writes:
                session.commit()
        rows = [dict(zip(columns, map(plain, row), strict=True)) for row in found[:limit]]
        return Rows(columns, rows, len(found) > limit, affected)
    finally:
        session._force_close()  # noqa: SLF001 - at once: a polite farewell reads all that is left of an answer


def _limit_time(cursor: Any, version: str, deadline: Deadline) -> None:
    """Tell the server how long a statement may take; MySQL heeds it for SELECT alone."""
    left = deadline.remaining()
    if "mariadb" in version.lower():
        cursor.execute(f"SET SESSION max_statement_time = {left:.3f}")
    else:
        cursor.execute(f"SET SESSION max_execution_time = {int(left * 1000)}")


def _judge(mysql: Mysql, error: Exception, deadline: Deadline) -> ActionError:
    from pymysql.err import MySQLError

    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    said = error.args[1] if len(error.args) > 1 else ""
    cause = cause_of(said or error, mysql.password)
    if code in _GIVEN_UP or deadline.has_passed():
        return TimedOut(f"{mysql.address} gave up the query in time: {cause}", hint="raise the step's timeout")
    if code in _NO_ENTRY:
        return Refused(f"{mysql.address} refuses: {cause}", hint=f"user, password, database, tls: {_SETTING}")
    if code in _AWAY or isinstance(error, OSError):
        return Unreachable(f"{mysql.address} does not answer: {cause}", hint=f"is it up? {_SETTING}")
    if not code or not isinstance(error, MySQLError):
        return Refused(f"{mysql.address} cannot be understood: {cause}", hint=f"is it MySQL or MariaDB? {_SETTING}")
    return Refused(f"{mysql.address} refuses the query: {cause}")

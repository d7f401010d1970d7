"""One session with a MySQL or MariaDB server, under a deadline and with errors that say who must act."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from k2run.actions.connection import Connection
from k2run.adapters._clients import apart, require_client
from k2run.adapters._sql import plain
from k2run.errors import ActionError, Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k2run.actions.deadline import Deadline

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


class Mysql(Connection, frozen=True, kw_only=True, key="mysql"):
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

    host: str = "127.0.0.1"
    port: int = 3306
    database: str = ""
    user: str
    password: str = ""
    tls: bool = False
    ca: str = ""

    @property
    def address(self) -> str:
        """Where it is, without the password."""
        return f"{self.user}@{self.host}:{self.port}/{self.database}"

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"mysql {self.address}"


class Table(NamedTuple):
    """What a statement brought.

    Attributes:
        affected: Rows that it changed.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    affected: int


def ask(
    mysql: Mysql,
    deadline: Deadline,
    sql: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    limit: int = 1000,
    writes: bool = False,
) -> Table:
    """Run one statement in a transaction of its own, a read-only one unless it may write.

    Args:
        mysql: Where.
        deadline: The server hears of it too, and gives up by itself.
        sql: One statement; values are written as `%(name)s`.
        parameters: Those values.
        limit: Rows to fetch at most.
        writes: Whether it may change anything.

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
        raise TimedOut(
            f"{mysql.address} has not answered within {deadline.seconds:g}s",
            hint=f"is it up and well, and the query quick? {_SETTING}, or raise the step's timeout",
        ) from error
    except (MySQLError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise _judge(mysql, error, deadline) from error


def _refuse_changes(sql: str) -> None:
    """A read-only transaction does not hold back SHUTDOWN, KILL, SET GLOBAL or a file that is written."""
    bare = _COMMENT.sub("", sql)
    if not _ASKS.match(bare) or _WRITES_A_FILE.search(bare):
        raise Refused(
            f"`{' '.join(bare.split())[:60]}` may change something, and a query only reads",
            hint="write a SELECT or SHOW, or use mysql.execute",
        )


def _ask(
    mysql: Mysql, deadline: Deadline, sql: str, parameters: Mapping[str, Any] | None, limit: int, writes: bool
) -> Table:
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
            found = cursor.fetchmany(limit) if columns else []
            affected = max(cursor.rowcount, 0) if not columns else 0
            if writes:
                session.commit()
        return Table(columns, [dict(zip(columns, map(plain, row), strict=True)) for row in found], affected)
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
    said = str(error.args[1]) if len(error.args) > 1 else str(error)
    cause = " ".join(said.split()).replace(mysql.password or "\0", "***")
    if code in _GIVEN_UP or deadline.has_passed():
        return TimedOut(f"{mysql.address} gave up the query in time: {cause}", hint="raise the step's timeout")
    if code in _NO_ENTRY:
        return Refused(f"{mysql.address} refuses: {cause}", hint=f"user, password, database, tls: {_SETTING}")
    if code in _AWAY or isinstance(error, OSError):
        return Unreachable(f"{mysql.address} does not answer: {cause}", hint=f"is it up? {_SETTING}")
    if not code or not isinstance(error, MySQLError):
        return Refused(f"{mysql.address} cannot be understood: {cause}", hint=f"is it MySQL or MariaDB? {_SETTING}")
    return Refused(f"{mysql.address} refuses the query: {cause}")

"""MySQL and MariaDB: queries, whether it really answers, and whether its replicas follow."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct

from k2run.actions.action import Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters._sql import Answer, Changed
from k2run.adapters.mysql.client import Mysql, ask
from k2run.errors import Refused, Unknown

_HEALTH = """
SELECT @@version AS version, @@version_comment AS comment, @@global.read_only AS read_only,
       @@global.max_connections AS most
"""
_STATUS = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Uptime', 'Threads_connected', 'Threads_running')"
_CHANNELS = ("SHOW ALL SLAVES STATUS", "SHOW REPLICA STATUS", "SHOW SLAVE STATUS")
"""MariaDB, MySQL from 8.0.22 on, and before."""
_FOLLOWERS = ("SHOW REPLICA HOSTS", "SHOW REPLICAS", "SHOW SLAVE HOSTS")


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
            return f"replication from {broken[0].source} has stopped: {broken[0].last_error or 'no error is told'}"
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
    found = ask(mysql, deadline, sql, parameters, limit=limit + 1)
    elapsed_ms = (time.perf_counter() - started) * 1000
    rows = found.rows[:limit]
    if not rows and not allow_empty:
        raise Unknown(f"the query found no rows in {mysql.address}", hint="is the data there? or set allow_empty: true")
    return Answer(
        rows=rows,
        columns=found.columns,
        row_count=len(rows),
        value=rows[0][found.columns[0]] if len(rows) == len(found.columns) == 1 else None,
        truncated=len(found.rows) > limit,
        elapsed_ms=elapsed_ms,
        source=mysql.source,
    )


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

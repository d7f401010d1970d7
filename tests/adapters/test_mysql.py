"""The mysql actions against real MariaDB servers, thrown away afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pymysql
import pytest
from msgspec import structs
from wheel_programs import free_ports

from k2run.actions.deadline import Deadline
from k2run.adapters import mysql as actions
from k2run.adapters.mysql import Mysql
from k2run.errors import Interrupted, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# program: mariadbd mariadb-server-core mariadb-client-core
TESTED_ON = {"mysql": "Debian's MariaDB: a single server, and a source with a replica; MySQL itself: see below"}

pytestmark = pytest.mark.xdist_group("mysql")  # one server, not one a process
PASSWORD = "a-secret-of-tests"
READY_S = 60.0
USERS = f"""
CREATE DATABASE IF NOT EXISTS shop;
CREATE USER IF NOT EXISTS k2@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO k2@'%' WITH GRANT OPTION;
"""


class Server:
    """A MariaDB server whose data are a copy of `data`, with a user `k2` who may do everything."""

    def __init__(self, data: Path, folder: Path, number: int) -> None:
        shutil.copytree(data, folder / "data")
        self.port = free_ports(1)[0]
        options = {"server-id": number, "log-bin": "binlog", "report-host": "127.0.0.1", "report-port": self.port}
        options |= {"port": self.port, "bind-address": "127.0.0.1", "datadir": folder / "data", "socket": folder / "s"}
        options |= {"innodb-buffer-pool-size": "16M", "innodb-flush-log-at-trx-commit": 0, "pid-file": folder / "pid"}
        (folder / "users.sql").write_text(USERS)
        command = [_program("mariadbd"), "--no-defaults", f"--init-file={folder / 'users.sql'}"]
        command += [f"--{name}={value}" for name, value in options.items()] + _account()
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.mysql = Mysql(port=self.port, database="shop", user="k2", password=PASSWORD)
        end = time.monotonic() + READY_S
        while not self._answers():
            assert self.process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except pymysql.MySQLError:
            return False
        return True

    def connect(self) -> pymysql.Connection[Any]:
        return pymysql.connect(port=self.port, user="k2", password=PASSWORD, database="shop", autocommit=True)

    def run(self, *statements: str) -> None:
        with self.connect() as session, session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join((os.environ["PATH"], "/usr/sbin")))
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: mariadb-server-core, mariadb-client-core)")
    return found


def _account() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mariadb") / "data"
    command = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={folder}", "--skip-test-db"]
    subprocess.run([*command, "--auth-root-authentication-method=normal", *_account()], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def server(data, tmp_path_factory) -> Iterator[Server]:
    running = Server(data, tmp_path_factory.mktemp("server"), 1)
    yield running
    running.stop()


@pytest.fixture
def mysql(server) -> Mysql:
    return server.mysql


def soon(seconds: float = 30) -> Deadline:
    return Deadline(seconds)


def test_a_server_that_lets_the_user_in_is_healthy(server, mysql):
    found = actions.health(mysql, soon())
    assert (found.flavour, found.read_only) == ("MariaDB", False)
    assert int(found.version.split(".")[0]) >= 10
    assert 0 <= found.uptime_s < 3600
    assert 1 <= found.connections <= found.most
    assert found.source == f"mysql k2@127.0.0.1:{server.port}/shop"
    assert found.headline().startswith("MariaDB 1")


def test_a_query_brings_rows_as_plain_values_and_none_are_unknown(mysql):
    found = actions.query(
        mysql, soon(), "SELECT %(n)s AS n, 1.50 AS price, TIMESTAMP '2026-01-14 10:00:00' AS at, 'ü' AS t", {"n": 5}
    )
    assert found.rows == [{"n": 5, "price": 1.5, "at": "2026-01-14T10:00:00", "t": "ü"}]
    assert actions.query(mysql, soon(), "-- how many\nSELECT 3 AS n").value == 3
    assert actions.query(mysql, soon(), "SHOW VARIABLES LIKE 'port'").rows[0]["Value"] == str(mysql.port)
    many = actions.query(mysql, soon(), "SELECT seq FROM seq_1_to_50", limit=10)
    assert (many.row_count, many.truncated) == (10, True)
    assert actions.query(mysql, soon(), "SELECT '100%' AS share").value == "100%"
    with pytest.raises(Unknown, match="no rows"):
        actions.query(mysql, soon(), "SELECT 1 FROM dual WHERE false")
    assert actions.query(mysql, soon(), "SELECT 1 FROM dual WHERE false", allow_empty=True).row_count == 0


def test_a_query_can_change_nothing_and_a_second_statement_cannot_hide_behind_it(server, mysql):
    server.run(
        "CREATE OR REPLACE TABLE kept (n int)",
        "DROP FUNCTION IF EXISTS sneak",
        "CREATE FUNCTION sneak() RETURNS int DETERMINISTIC BEGIN INSERT INTO kept VALUES (1); RETURN 1; END",
    )
    for sql in (
        "INSERT INTO kept VALUES (1)",
        "DROP TABLE kept",
        "SELECT 1; DROP TABLE kept",
        "COMMIT",
        "SHUTDOWN",
        "SET GLOBAL read_only = 1",
        "/*! DROP TABLE kept */",
        "/*M! DROP TABLE kept */",
        "SELECT * FROM kept INTO OUTFILE '/tmp/k2run-never'",
        "SELECT sneak()",
        "WITH a AS (SELECT 1) DELETE FROM kept",
    ):
        with pytest.raises(Refused):
            actions.query(mysql, soon(), sql)
    assert actions.query(mysql, soon(), "SELECT count(*) AS n FROM kept").value == 0
    assert actions.execute(mysql, soon(), "INSERT INTO kept SELECT seq FROM seq_1_to_3").rows_affected == 3
    assert actions.query(mysql, soon(), "SELECT count(*) AS n FROM kept").value == 3


def test_a_slow_query_ends_with_the_step_here_and_there_and_a_request_to_stop_is_heard(server, mysql):
    started = time.monotonic()
    with pytest.raises(TimedOut, match=rf"k2@127\.0\.0\.1:{server.port}/shop"):
        actions.query(mysql, soon(0.7), "SELECT SLEEP(20)")
    assert time.monotonic() - started < 3
    deadline = soon(3)
    threading.Timer(0.3, deadline.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        actions.query(mysql, deadline, "SELECT SLEEP(20)")
    assert time.monotonic() - started < 3
    busy, end = "SELECT count(*) AS n FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%%'", 0.0
    end = time.monotonic() + 10
    while actions.query(mysql, soon(), busy).value:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_replication_is_seen_from_both_ends_and_what_stopped_it_is_told(server, mysql, data, tmp_path):
    alone = actions.replication(mysql, soon())
    assert (alone.channels, alone.replicating, alone.seconds_behind) == ([], None, None)
    with server.connect() as session, session.cursor() as cursor:
        cursor.execute("SHOW MASTER STATUS")
        log, position = cursor.fetchone()[:2]
    second = Server(data, tmp_path, 2)
    try:
        where = f"MASTER_HOST='127.0.0.1', MASTER_PORT={server.port}, MASTER_USER='k2', MASTER_PASSWORD='{PASSWORD}'"
        second.run(
            "SET GLOBAL read_only = 1",
            f"CHANGE MASTER TO {where}, MASTER_LOG_FILE='{log}', MASTER_LOG_POS={position}",
            "START SLAVE",
        )
        found = _until(second.mysql, lambda seen: seen.replicating and seen.seconds_behind == 0)
        assert found.headline() == f"replicates from 127.0.0.1:{server.port}, 0 s behind"
        assert found.read_only
        assert _until(mysql, lambda seen: seen.replicas == 1).channels == []
        server.run("CREATE TABLE clash (n int PRIMARY KEY)")
        _until(
            second.mysql,
            lambda _: actions.query(second.mysql, soon(), "SHOW TABLES LIKE 'clash'", allow_empty=True).rows,
        )
        second.run("INSERT INTO clash VALUES (1)")
        server.run("INSERT INTO clash VALUES (1)")
        broken = _until(second.mysql, lambda seen: not seen.replicating)
        assert (broken.channels[0].receiving, broken.channels[0].applying) == (True, False)
        assert broken.seconds_behind is None
        assert "clash" in broken.headline()
    finally:
        second.stop()


def _until(mysql: Mysql, holds) -> actions.Replication:
    end = time.monotonic() + 30
    while not holds(found := actions.replication(mysql, soon())):
        assert time.monotonic() < end, found
        time.sleep(0.2)
    return found


def test_what_keeps_us_out_is_told_with_what_to_check(server, mysql, speaker):
    with pytest.raises(Refused, match=r"Access denied.*connections\.mysql") as refused:
        actions.health(structs.replace(mysql, password="wrong-secret"), soon())
    assert "wrong-secret" not in str(refused.value)
    with pytest.raises(Refused, match=r"Unknown database 'nowhere'.*connections\.mysql"):
        actions.health(structs.replace(mysql, database="nowhere"), soon())
    with pytest.raises(Refused, match=r"refuses the query.*doesn't exist"):
        actions.query(mysql, soon(), "SELECT * FROM nothing")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1/shop does not answer.*connections\.mysql"):
        actions.health(structs.replace(mysql, port=1), soon())
    with pytest.raises((Refused, Unreachable), match=r"connections\.mysql"):
        actions.health(structs.replace(mysql, tls=True), soon())
    for greeting in (b"SSH-2.0-OpenSSH_9.2p1\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        port = int(speaker(lambda link, said=greeting: link.sendall(said)).rpartition(":")[2])
        with pytest.raises((Refused, Unreachable), match=rf"127\.0\.0\.1:{port}.*connections\.mysql"):
            actions.health(structs.replace(mysql, port=port), soon(3))


def test_a_frozen_server_does_not_hold_the_step(server, mysql):
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(TimedOut, match="has not answered within"):
            actions.health(mysql, soon(0.6))
        assert time.monotonic() - started < 3
    finally:
        os.kill(server.process.pid, signal.SIGCONT)

"""The postgres actions against a real server, thrown away afterwards."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from msgspec import structs

from k2run.actions.deadline import Deadline
from k2run.adapters import postgres as actions
from k2run.adapters.postgres import Postgres
from k2run.errors import AuthorError, Interrupted, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTED_ON = {"postgres": "Debian's PostgreSQL, one server for each test process"}


def soon(seconds: float = 10) -> Deadline:
    return Deadline(seconds)


@pytest.fixture
def server(postgres_server) -> Postgres:
    return Postgres(port=postgres_server.port, database="tested", user="iceberg", password="iceberg")


@pytest.fixture
def other(postgres_server) -> Iterator[psycopg.Connection]:
    """A session of another client."""
    with psycopg.connect(postgres_server.uri("tested", application_name="other"), autocommit=True) as session:
        yield session


def test_a_server_that_lets_the_user_in_is_healthy(server):
    found = actions.health(server, soon())
    assert int(found.version.split(".")[0]) >= 13
    assert not found.in_recovery
    assert 0 < found.uptime_s < 3600
    assert found.source == f"postgres iceberg@127.0.0.1:{server.port}/tested"


def test_a_query_brings_rows_as_plain_values_and_none_are_unknown(server):
    found = actions.query(
        server,
        soon(),
        "SELECT %(n)s::int AS n, 1.50::numeric AS price, '2026-01-14 10:00Z'::timestamptz AS at, ARRAY['a'] AS names",
        parameters={"n": 5},
    )
    assert found.rows[0]["n"] == 5
    assert found.rows[0]["price"] == 1.5
    assert found.rows[0]["names"] == ["a"]
    assert found.rows[0]["at"].startswith("2026-01-14T")
    assert actions.query(server, soon(), "SELECT count(*) AS n FROM pg_class").value > 100
    many = actions.query(server, soon(), "SELECT * FROM generate_series(1, 50) AS n", limit=10)
    assert (many.row_count, many.truncated) == (10, True)
    with pytest.raises(Unknown, match="no rows"):
        actions.query(server, soon(), "SELECT 1 WHERE false")
    assert actions.query(server, soon(), "SELECT 1 AS n WHERE false", allow_empty=True).row_count == 0


def test_a_query_can_change_nothing_and_a_second_statement_cannot_hide_behind_it(server):
    actions.execute(server, soon(), "CREATE TABLE IF NOT EXISTS kept (n int)")
    for sql in (
        "INSERT INTO kept VALUES (1)",
        "DROP TABLE kept",
        "SELECT 1; DROP TABLE kept",
        "COMMIT; DROP TABLE kept",
    ):
        with pytest.raises(Refused, match=r"read-only transaction|multiple commands"):
            actions.query(server, soon(), sql)
    before = actions.query(server, soon(), "SELECT count(*) AS n FROM kept").value
    assert actions.execute(server, soon(), "INSERT INTO kept SELECT generate_series(1, 3)").rows_affected == 3
    assert actions.query(server, soon(), "SELECT count(*) AS n FROM kept").value == before + 3


def test_activity_tells_long_queries_forgotten_transactions_and_who_waits_for_whom(server, postgres_server, other):
    actions.execute(server, soon(), "CREATE TABLE IF NOT EXISTS locked (n int)")
    other.execute("BEGIN")
    other.execute("LOCK TABLE locked")
    with psycopg.connect(postgres_server.uri("tested", application_name="blocked")) as blocked:
        waiting = threading.Thread(target=lambda: blocked.execute("SELECT * FROM locked"))
        waiting.start()
        time.sleep(0.2)
        end = time.monotonic() + 5
        while (found := actions.activity(server, soon(), Duration(0.1))).blocked == 0 and time.monotonic() < end:
            time.sleep(0.05)
        other.execute("ROLLBACK")
        waiting.join()
    (waiter,) = found.waiting
    assert waiter.application == "blocked"
    assert waiter.blocked_by == [other.info.backend_pid]
    assert found.idle_in_transaction == 1
    assert {session.application for session in found.long} >= {"other"}
    assert found.most >= 10


def test_a_lock_that_lasts_is_told_with_who_holds_it(server, other):
    actions.execute(server, soon(), "CREATE TABLE IF NOT EXISTS locked (n int)")
    assert not actions.locked(server, soon(), "locked").locked
    other.execute("BEGIN")
    other.execute("LOCK TABLE locked")
    time.sleep(0.3)
    assert not actions.locked(server, soon(), "locked", Duration(60)).locked, "a short one is that of a change"
    found = actions.locked(server, soon(), "locked", Duration(0.1))
    other.execute("ROLLBACK")
    assert (found.locked, found.held_s > 0.1) == (True, True)
    assert str(other.info.backend_pid) in found.holders[0]
    assert "other" in found.holders[0]
    with pytest.raises(Unknown, match="there is no table nowhere"):
        actions.locked(server, soon(), "nowhere")


def test_a_deadlock_is_counted(server, postgres_server):
    actions.execute(server, soon(), "CREATE TABLE IF NOT EXISTS pair AS SELECT generate_series(1, 2) AS n")
    before = actions.activity(server, soon()).deadlocks
    lost: list[Exception] = []

    def cross(first: int, second: int, met: threading.Barrier) -> None:
        with psycopg.connect(postgres_server.uri("tested")) as session:
            session.execute("SET deadlock_timeout = '50ms'")
            session.execute("UPDATE pair SET n = n WHERE n = %s", [first])
            met.wait(5)
            try:
                session.execute("UPDATE pair SET n = n WHERE n = %s", [second])
            except psycopg.errors.DeadlockDetected as error:
                lost.append(error)

    met = threading.Barrier(2)
    both = [threading.Thread(target=cross, args=(*order, met)) for order in ((1, 2), (2, 1))]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(lost) == 1
    end = time.monotonic() + 5
    while actions.activity(server, soon()).deadlocks == before and time.monotonic() < end:
        time.sleep(0.1)
    assert actions.activity(server, soon()).deadlocks == before + 1


def test_a_long_query_is_cancelled_or_its_session_ended(server, other):
    with pytest.raises(AuthorError, match="needs a pid"):
        actions.terminate(server, soon())
    assert actions.terminate(server, soon(), application="nobody").count == 0
    failed: list[Exception] = []

    def wait() -> None:
        try:
            other.execute("SELECT pg_sleep(20)")
        except psycopg.Error as error:
            failed.append(error)

    for only_cancel, kind in ((True, psycopg.errors.QueryCanceled), (False, psycopg.OperationalError)):
        failed.clear()
        busy = threading.Thread(target=wait)
        busy.start()
        time.sleep(0.3)
        ended = actions.terminate(
            server, soon(), application="other", longer_than=Duration(0.1), only_cancel=only_cancel
        )
        busy.join(5)
        assert [session.pid for session in ended.sessions] == [other.info.backend_pid] or not only_cancel
        assert isinstance(failed[0], kind)


def test_a_slow_query_ends_with_the_step_and_a_request_to_stop_is_heard(server):
    started = time.monotonic()
    with pytest.raises(TimedOut, match=rf"iceberg@127\.0\.0\.1:{server.port}/tested"):
        actions.query(server, soon(0.7), "SELECT pg_sleep(20)")
    assert time.monotonic() - started < 1.2
    deadline = soon()
    threading.Timer(0.3, deadline.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        actions.query(server, deadline, "SELECT pg_sleep(20)")
    assert time.monotonic() - started < 0.9
    assert actions.activity(server, soon()).active == 0


def test_a_frozen_server_does_not_hold_the_step(server, postgres_server):
    pid = int(Path(postgres_server.data, "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(TimedOut, match="has not answered within"):
            actions.health(server, soon(0.6))
        assert time.monotonic() - started < 1.1
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_wrong_password_database_port_and_garbage_each_say_what_to_look_at(server, speaker):
    with pytest.raises(Refused, match=r"password.*connections\.postgres") as refused:
        actions.health(structs.replace(server, password="wrong-secret"), soon())
    assert "wrong-secret" not in str(refused.value)
    with pytest.raises(Refused, match="does not exist"):
        actions.health(structs.replace(server, database="nowhere"), soon())
    with pytest.raises(Unreachable, match=r"refused.*connections\.postgres"):
        actions.health(structs.replace(server, port=1), soon())
    port = int(speaker(lambda link: link.sendall(b"hola, mundo!\r\n" * 20)).rpartition(":")[2])
    with pytest.raises((Unreachable, Refused), match=f"127.0.0.1:{port}"):
        actions.health(structs.replace(server, port=port), soon(3))

"""Queries over real Iceberg tables, and what they may not do."""

from __future__ import annotations

import threading
import time

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.adapters.duckdb import query
from k2run.adapters.iceberg import duckdb_sql
from k2run.adapters.iceberg.catalog import Iceberg, open_table
from k2run.errors import Interrupted, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Size

TESTED_ON = {"duckdb": "DuckDB on real tables"}

CROSS = "SELECT count(*) FROM trades a, trades b, trades c WHERE a.message_id || b.message_id < c.message_id"


def soon(seconds: float = 20) -> Deadline:
    return Deadline(seconds)


@pytest.fixture
def iceberg(warehouse) -> Iceberg:
    warehouse.append(90)
    warehouse.append(10)
    return Iceberg(uri=warehouse.uri, namespace="market_data")


def test_the_query_action_describes_itself_and_each_of_its_arguments():
    action = Catalogue().find("duckdb.query")
    assert action is not None
    assert action.connections == (Iceberg,)
    assert all(f"{argument}: " in action.doc for argument in action.arguments.__struct_encode_fields__)


@pytest.mark.parametrize("name", ["trades", "market_data.trades", '"market_data"."trades"'])
def test_a_table_is_named_as_the_catalog_names_it(iceberg, name):
    found = query(iceberg, soon(), f"SELECT count(*) AS n, count(DISTINCT message_id) AS ids FROM {name} t")
    assert found.rows == [{"n": 100, "ids": 100}]
    assert list(found.snapshots) == [name.replace('"', "")]


def test_a_table_can_be_given_apart_from_the_query(warehouse):
    warehouse.append(3)
    iceberg = Iceberg(uri=warehouse.uri, namespace="elsewhere")
    assert query(iceberg, soon(), "SELECT count(*) FROM trades", table="market_data.trades").value == 3
    with pytest.raises(Unknown, match=r"there are: market_data\.trades"):
        query(iceberg, soon(), "SELECT count(*) FROM trades")


def test_values_come_as_plain_ones(iceberg):
    sql = (
        "SELECT max(timestamp) AS at, sum(price) AS money, sum(sequence) AS whole, min(sequence) AS one, "
        "TIMESTAMPTZ '2026-01-01 00:00:00+00' AS zoned, 'nan'::DOUBLE AS nothing, [1.5::DECIMAL(8, 2)] AS listed "
        "FROM trades"
    )
    (row,) = query(iceberg, soon(), sql).rows
    assert row["at"].startswith("20")
    assert row["money"] == pytest.approx(100 * 94000.5)
    assert isinstance(row["whole"], int)
    assert row["one"] == 0
    assert row["zoned"].startswith("2026-01-01T00:00:00")
    assert row["nothing"] is None
    assert row["listed"] == [1.5]


def test_placeholders_take_their_values_from_the_step(iceberg):
    sql = "WITH mine AS (SELECT * FROM trades WHERE symbol = $symbol) SELECT count(*) FROM mine"
    assert query(iceberg, soon(), sql, parameters={"symbol": "BTCUSDT"}).value == 50


def test_an_answer_without_rows_is_unknown_not_a_fast_query(iceberg):
    with pytest.raises(Unknown, match="found no rows in trades"):
        query(iceberg, soon(), "SELECT 1 FROM trades WHERE symbol = 'nothing'")
    assert query(iceberg, soon(), "SELECT 1 FROM trades WHERE false", allow_empty=True).row_count == 0


def test_no_more_rows_are_fetched_than_asked_for_and_it_is_said(iceberg):
    found = query(iceberg, soon(), "SELECT * FROM trades ORDER BY timestamp DESC", limit=7)
    assert (found.row_count, found.truncated) == (7, True)
    times = [row["timestamp"] for row in found.rows]
    assert times == sorted(times, reverse=True)
    assert not query(iceberg, soon(), "SELECT * FROM trades", limit=100).truncated


def test_a_query_sees_the_current_snapshot(iceberg, warehouse):
    assert query(iceberg, soon(), "SELECT count(*) FROM trades").value == 100
    warehouse.append(5)
    assert query(iceberg, soon(), "SELECT count(*) FROM trades").value == 105
    warehouse.table.delete("symbol = 'BTCUSDT'")
    assert query(iceberg, soon(), "SELECT count(DISTINCT symbol) FROM trades").value == 1


def test_a_column_renamed_or_added_later_reads_as_the_table_says(iceberg, warehouse):
    from pyiceberg.types import LongType

    with warehouse.table.update_schema() as change:
        change.rename_column("symbol", "pair")
        change.add_column("level", LongType())
    found = query(
        iceberg, soon(), "SELECT pair, count(level) AS levels, count(*) AS n FROM trades GROUP BY 1 ORDER BY 1"
    )
    assert found.rows == [{"pair": "BTCUSDT", "levels": 0, "n": 50}, {"pair": "ETHUSDT", "levels": 0, "n": 50}]


def test_a_table_never_written_counts_zero_rows(warehouse):
    assert query(Iceberg(uri=warehouse.uri, namespace="market_data"), soon(), "SELECT count(*) FROM trades").value == 0


def test_two_tables_can_be_joined(iceberg, warehouse):
    warehouse.catalog.create_table("market_data.other", warehouse.table.schema())
    sql = "SELECT count(*) FROM trades LEFT JOIN market_data.other USING (message_id)"
    assert query(iceberg, soon(), sql).value == 100


def test_files_that_duckdb_cannot_open_itself_are_read_through_arrow(iceberg):
    import duckdb

    table = open_table(iceberg, soon(), "trades")
    through_arrow = duckdb_sql._arrow(table, duckdb_sql.data_files(table))
    with duckdb.connect(":memory:") as database:
        database.register("remote", through_arrow)
        assert database.sql("SELECT count(*), count(DISTINCT symbol) FROM remote").fetchall() == [(100, 2)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM glob('/etc/*'), trades",
        "COPY trades TO '/tmp/copy.csv'",
        "CREATE TABLE mine AS SELECT 1",
        "DELETE FROM trades",
        "SET memory_limit = '100GB'",
        "SELECT 1; SELECT 2",
        "INSTALL httpfs",
        "ATTACH '/tmp/a.db'",
        "",
    ],
)
def test_a_query_reads_the_tables_and_touches_nothing_else(iceberg, sql):
    with pytest.raises((Refused, Unknown)):
        query(iceberg, soon(), sql)


def test_the_lock_cannot_be_lifted_from_within(iceberg):
    tables = {"trades": open_table(iceberg, soon(), "trades")}
    with duckdb_sql.opened(tables, soon(), Size(2**28), 1) as database:
        for change in ("SET enable_external_access = true", "SET lock_configuration = false", "SET threads = 64"):
            with pytest.raises(Exception, match=r"locked|Cannot"):
                database.execute(change)


def test_duckdbs_own_words_reach_the_author(iceberg):
    with pytest.raises(Refused, match='Referenced column "pirce" not found') as refused:
        query(iceberg, soon(), "SELECT pirce FROM trades")
    assert "price" in refused.value.hint
    with pytest.raises(Refused, match="syntax error"):
        query(iceberg, soon(), "SELEC 1 FROM trades")


def test_a_query_ends_with_its_deadline(iceberg, warehouse):
    warehouse.append(4000)
    started = time.monotonic()
    with pytest.raises(TimedOut):
        query(iceberg, Deadline(1), CROSS)
    assert time.monotonic() - started < 2


def test_a_query_ends_when_the_run_is_asked_to_end(iceberg, warehouse):
    warehouse.append(4000)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        query(iceberg, Deadline(60, stop), CROSS)
    assert time.monotonic() - started < 2


def test_a_query_that_begins_after_the_run_was_asked_to_end_does_not_go_on():
    stop = threading.Event()

    def ask_late():
        with duckdb_sql.opened({}, Deadline(60, stop), Size(2**28), 1) as database:
            stop.set()
            time.sleep(0.3)  # the first request to interrupt finds nothing to interrupt, and DuckDB forgets it
            database.execute("SELECT count(*) FROM range(100000) a, range(100000) b WHERE a.range + b.range = 3")

    started = time.monotonic()
    with pytest.raises(Interrupted):
        ask_late()
    assert time.monotonic() - started < 3


def test_a_query_keeps_to_its_memory(iceberg, warehouse):
    warehouse.append(3000)
    sql = "SELECT len(string_agg(a.message_id || b.message_id)) FROM trades a, trades b"
    with pytest.raises(Refused, match="Out of Memory") as refused:
        query(iceberg, soon(), sql, memory=Size(64 * 2**20), threads=1)
    assert "memory" in refused.value.hint


def test_a_catalog_that_is_not_there_is_unreachable(tmp_path):
    with pytest.raises(Unreachable):
        query(Iceberg(uri=f"sqlite:///{tmp_path}/none.db"), soon(), "SELECT 1 FROM trades")

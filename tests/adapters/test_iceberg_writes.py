"""What changes a table, and what was in it before: on SQLite, on a real PostgreSQL and S3, and on a REST catalog."""

from __future__ import annotations

import time

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters import duckdb
from k2run.adapters.iceberg import actions
from k2run.adapters.iceberg.catalog import Iceberg
from k2run.errors import AuthorError, Refused, Unknown
from k2run.language.quantities import Duration


def soon(seconds: float = 30) -> Deadline:
    return Deadline(seconds)


@pytest.fixture
def iceberg(warehouse) -> Iceberg:
    return Iceberg(uri=warehouse.uri, namespace="market_data")


def row(number: int, **more: object) -> dict:
    return {
        "message_id": f"m{number}",
        "symbol": "BTCUSDT",
        "timestamp": "2026-01-14T10:00:00",
        "price": "94000.5",
        **more,
    }


def test_rows_are_appended_in_the_tables_own_types(iceberg):
    done = actions.append(iceberg, soon(), "trades", rows=[row(1, sequence=7), row(2, price=0.1)])
    assert done.rows == 2
    assert actions.rows(iceberg, soon(), "trades").snapshot_id == done.snapshot_id
    found = duckdb.query(iceberg, soon(), "SELECT price, sequence, timestamp FROM trades ORDER BY message_id").rows
    assert [each["price"] for each in found] == [94000.5, 0.1]
    assert [each["sequence"] for each in found] == [7, None]
    for wrong, says in (
        ([row(3, venue="x")], "no column venue"),
        ([row(3, price="dear")], "does not fit"),
        ([row(3, timestamp="noon")], "does not fit"),
        ([], "needs rows"),
    ):
        with pytest.raises(AuthorError, match=says):
            actions.append(iceberg, soon(), "trades", rows=wrong)
    with pytest.raises((AuthorError, Refused)):
        actions.append(iceberg, soon(), "trades", rows=[{"symbol": "BTCUSDT"}])
    assert actions.rows(iceberg, soon(), "trades").rows == 2


def test_an_earlier_snapshot_is_read_and_made_the_current_one_again(iceberg):
    first = actions.append(iceberg, soon(), "trades", rows=[row(1)]).snapshot_id
    time.sleep(0.2)
    between = time.time()
    time.sleep(0.2)
    second = actions.append(iceberg, soon(), "trades", rows=[row(2), row(3)]).snapshot_id
    assert actions.rows(iceberg, soon(), "trades", snapshot=first).rows == 1
    assert actions.rows(iceberg, soon(), "trades", where="message_id = 'm2'", snapshot=first).rows == 0
    counted = duckdb.query(iceberg, soon(), "SELECT count(*) AS n FROM trades", snapshots={"trades": first})
    assert (counted.value, counted.snapshots) == (1, {"trades": first})
    with pytest.raises(Unknown, match="has no snapshot 1"):
        actions.rows(iceberg, soon(), "trades", snapshot=1)
    with pytest.raises(AuthorError, match="names no table quotes"):
        duckdb.query(iceberg, soon(), "SELECT count(*) AS n FROM trades", snapshots={"quotes": first})
    done = actions.rollback(iceberg, soon(), "trades", ago=Duration(time.time() - between))
    assert (done.snapshot_id, done.from_snapshot_id) == (first, second)
    assert actions.rows(iceberg, soon(), "trades").rows == 1
    with pytest.raises(Refused, match="roll back"):
        actions.rollback(iceberg, soon(), "trades", snapshot=second)
    with pytest.raises(Unknown, match="no such snapshot"):
        actions.rollback(iceberg, soon(), "trades", snapshot=5)
    with pytest.raises(AuthorError, match="either"):
        actions.rollback(iceberg, soon(), "trades")


def test_many_files_become_one_with_the_same_rows_and_old_snapshots_are_forgotten(iceberg, warehouse):
    for _ in range(5):
        warehouse.append(20)
    before = duckdb.query(iceberg, soon(), "SELECT * FROM trades ORDER BY message_id", limit=200).rows
    done = actions.compact(iceberg, soon(), "trades")
    assert (done.files_before, done.files_after, done.rows) == (5, 1, 100)
    assert duckdb.query(iceberg, soon(), "SELECT * FROM trades ORDER BY message_id", limit=200).rows == before
    count = actions.snapshots(iceberg, soon(), "trades").count
    assert actions.expire_snapshots(iceberg, soon(), "trades", older_than=Duration(3600)).expired == 0
    gone = actions.expire_snapshots(iceberg, soon(), "trades", older_than=Duration(0), keep=2)
    assert (gone.expired, gone.kept) == (count - 2, 2)
    assert actions.rows(iceberg, soon(), "trades").rows == 100
    warehouse.catalog.create_table("market_data.empty", warehouse.table.schema())
    with pytest.raises(Unknown, match="no files to compact"):
        actions.compact(iceberg, soon(), "empty")


def test_a_query_is_held_to_a_number_of_rows_and_explained(iceberg, warehouse):
    warehouse.append(10)
    sql = "SELECT * FROM trades WHERE symbol = $symbol;"
    given = {"symbol": "BTCUSDT"}
    assert duckdb.assert_rows(iceberg, soon(), sql, parameters=given).rows == 5
    assert duckdb.assert_rows(iceberg, soon(), sql, count=5, parameters=given).rows == 5
    with pytest.raises(Refused, match="finds 5 rows in trades, not at least 6"):
        duckdb.assert_rows(iceberg, soon(), sql, at_least=6, parameters=given)
    with pytest.raises(Refused, match="not at least 0, at most 4"):
        duckdb.assert_rows(iceberg, soon(), sql, at_most=4, parameters=given)
    with pytest.raises(Refused, match="finds 0 rows"):
        duckdb.assert_rows(iceberg, soon(), sql, parameters={"symbol": "XRP"})
    assert "PARQUET" in duckdb.explain(iceberg, soon(), sql, parameters=given).plan.upper()


def everything(iceberg: Iceberg) -> None:
    """Every action once, on an empty table of trades."""
    first = actions.append(iceberg, soon(), "trades", rows=[row(1), row(2)]).snapshot_id
    actions.append(iceberg, soon(), "trades", rows=[row(3)])
    assert actions.tables(iceberg, soon()).tables == ["market_data.trades"]
    assert actions.schema(iceberg, soon(), "trades").count == 5
    assert actions.snapshots(iceberg, soon(), "trades").count == 2
    assert actions.rows(iceberg, soon(), "trades", where="symbol = 'BTCUSDT'").rows == 3
    assert actions.rows(iceberg, soon(), "trades", snapshot=first).rows == 2
    assert actions.freshness(iceberg, soon(), "trades").span_s == 0
    assert actions.compression(iceberg, soon(), "trades").rows == 3
    assert actions.duplicates(iceberg, soon(), "trades").duplicates == 0
    assert duckdb.query(iceberg, soon(), "SELECT count(*) AS n FROM trades").value == 3
    assert actions.compact(iceberg, soon(), "trades").files_after == 1
    assert actions.files(iceberg, soon(), "trades").count == 1
    actions.rollback(iceberg, soon(), "trades", snapshot=first)
    assert actions.rows(iceberg, soon(), "trades").rows == 2


def test_a_catalog_in_postgres_with_files_in_s3(postgres_server, store):
    from pyiceberg.catalog.sql import SqlCatalog

    from k2run.adapters import s3

    s3.create_bucket(
        s3.S3(endpoint=store.endpoint, access_key=store.access_key, secret_key=store.secret_key), soon(), "lake"
    )
    properties = {
        "s3.endpoint": store.endpoint,
        "s3.access-key-id": store.access_key,
        "s3.secret-access-key": store.secret_key,
        "s3.region": "us-east-1",
    }
    uri = postgres_server.uri("tested").replace("postgresql:", "postgresql+psycopg:")
    catalog = SqlCatalog("k2", uri=uri, warehouse="s3://lake/", **properties)
    try:
        catalog.create_namespace("market_data")
        catalog.create_table("market_data.trades", trades_schema())
        everything(Iceberg(uri=uri, warehouse="s3://lake/", namespace="market_data", properties=properties))
        with pytest.raises(Refused, match=r"connections\.iceberg"):
            actions.tables(Iceberg(uri=uri.replace("iceberg:iceberg", "iceberg:wrong")), soon())
    finally:
        catalog.engine.dispose()


def test_a_rest_catalog_of_iceberg_itself(rest_catalog):
    from pyiceberg.catalog.rest import RestCatalog

    catalog = RestCatalog("k2", uri=rest_catalog)
    catalog.create_namespace("market_data")
    catalog.create_table("market_data.trades", trades_schema())
    everything(Iceberg(type="rest", uri=rest_catalog, namespace="market_data"))
    with pytest.raises(Unknown, match=r"did you mean 'market_data\.trades'"):
        actions.rows(Iceberg(type="rest", uri=rest_catalog, namespace="market_data"), soon(), "trade")


def test_a_rest_catalog_with_its_files_in_an_object_store(weed):
    from pyiceberg.catalog.rest import RestCatalog

    catalog = RestCatalog("k2", uri=weed.catalog, **weed.properties)
    catalog.create_namespace("market_data")
    catalog.create_table("market_data.trades", trades_schema())
    everything(Iceberg(type="rest", uri=weed.catalog, namespace="market_data", properties=weed.properties))


def trades_schema():
    from pyiceberg.schema import Schema
    from pyiceberg.types import DecimalType, LongType, NestedField, StringType, TimestampType

    return Schema(
        NestedField(1, "message_id", StringType(), required=True),
        NestedField(2, "symbol", StringType(), required=True),
        NestedField(3, "timestamp", TimestampType(), required=True),
        NestedField(4, "price", DecimalType(18, 8), required=True),
        NestedField(5, "sequence", LongType(), required=False),
    )

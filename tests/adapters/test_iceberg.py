"""The iceberg actions against real tables, and against catalogs that are none."""

from __future__ import annotations

import datetime as dt
import shutil
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg import actions
from k2run.adapters.iceberg.catalog import Iceberg
from k2run.errors import Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

TESTED_ON = {
    "iceberg": (
        "pyiceberg's SQL catalog on SQLite and on PostgreSQL; the REST catalog of Iceberg's own tests; "
        "local files and S3 (moto)"
    )
}

LOOKS: list[Callable] = [
    actions.schema,
    actions.rows,
    actions.snapshots,
    actions.files,
    actions.freshness,
    actions.compression,
    actions.duplicates,
]


def soon(seconds: float = 20) -> Deadline:
    return Deadline(seconds)


@pytest.fixture
def iceberg(warehouse) -> Iceberg:
    return Iceberg(uri=warehouse.uri, namespace="market_data")


def test_every_iceberg_action_describes_itself_and_each_of_its_arguments():
    found = [action for action in Catalogue().all() if action.name.startswith("iceberg.")]
    assert len(found) == 15
    for action in found:
        assert action.connections == (Iceberg,)
        for argument in action.arguments.__struct_encode_fields__:
            assert f"{argument}: " in action.doc, (action.name, argument)


def test_what_the_client_library_warns_of_is_no_line_in_the_terminal():
    code = "import logging, k2run.adapters.iceberg.catalog; logging.getLogger('pyiceberg.catalog').warning('left')"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stderr == b""


def test_tables_are_listed_and_an_empty_namespace_is_unknown(iceberg, warehouse):
    assert actions.tables(iceberg, soon()).tables == ["market_data.trades"]
    warehouse.catalog.create_namespace("bare")
    with pytest.raises(Unknown, match="has no tables"):
        actions.tables(iceberg, soon(), namespace="bare")


def test_a_schema_is_compared_with_the_columns_it_should_have(iceberg):
    found = actions.schema(
        iceberg, soon(), "trades", columns=["message_id", "symbol", "timestamp", "price", "currency"]
    )
    assert (found.missing, found.extra) == (["currency"], ["sequence"])
    assert found.columns["price"] == "decimal(18, 8)"
    assert found.required == ["message_id", "symbol", "timestamp", "price"]
    assert actions.schema(iceberg, soon(), "trades").extra == []


def test_a_mistyped_table_is_unknown_and_the_nearest_name_is_offered(iceberg):
    for look in LOOKS:
        with pytest.raises(Unknown, match=r"did you mean 'market_data\.trades'"):
            look(iceberg, soon(), "trade")


def test_rows_are_counted_from_metadata_or_by_reading_what_meets_a_condition(iceberg, warehouse):
    warehouse.append(100)
    warehouse.append(11)
    everything = actions.rows(iceberg, soon(), "trades")
    assert (everything.rows, everything.told_by) == (111, "snapshot")
    some = actions.rows(iceberg, soon(), "market_data.trades", where="symbol = 'ETHUSDT'")
    assert (some.rows, some.told_by) == (55, "rows")


def test_rows_that_were_deleted_do_not_count(iceberg, warehouse):
    warehouse.append(10)
    warehouse.table.delete("symbol = 'ETHUSDT'")
    assert actions.rows(iceberg, soon(), "trades").rows == 5
    assert actions.rows(iceberg, soon(), "trades", where="true").rows == 5


def test_a_condition_cannot_smuggle_in_another_statement(iceberg, warehouse):
    warehouse.append(1)
    for where in ("true); SELECT (1", "1 = 1) UNION SELECT 1; --"):
        with pytest.raises(Refused):
            actions.rows(iceberg, soon(), "trades", where=where)


def test_a_new_table_has_no_rows_and_nothing_can_be_said_of_its_age(iceberg):
    assert actions.rows(iceberg, soon(), "trades").rows == 0
    assert actions.files(iceberg, soon(), "trades").count == 0
    for look in (actions.snapshots, actions.freshness, actions.compression, actions.duplicates):
        with pytest.raises(Unknown):
            look(iceberg, soon(), "trades")


def test_a_table_whose_files_hold_no_rows_is_not_fresh(iceberg, warehouse):
    warehouse.append(3)
    warehouse.table.delete("symbol != 'x'")
    with pytest.raises(Unknown, match="no rows"):
        actions.freshness(iceberg, soon(), "trades")


def test_snapshots_come_newest_first_and_as_many_as_asked(iceberg, warehouse):
    for count in (1, 2, 3):
        warehouse.append(count)
    found = actions.snapshots(iceberg, soon(), "trades", limit=2)
    assert found.count == 3
    assert [(one.operation, one.added_rows, one.total_rows) for one in found.snapshots] == [
        ("append", 3, 6),
        ("append", 2, 3),
    ]
    assert 0 <= found.newest_age_s < 10


def test_files_are_counted_and_the_small_ones_apart(iceberg, warehouse):
    warehouse.append(2000)
    warehouse.append(1)
    found = actions.files(iceberg, soon(), "trades", small=5000)
    assert (found.count, found.small, found.delete_files, found.rows) == (2, 1, 0, 2001)
    assert found.bytes == sum(path.stat().st_size for path in warehouse.directory.rglob("*.parquet"))


def test_freshness_is_the_age_of_the_newest_row_told_by_the_manifests_alone(iceberg, warehouse):
    newest = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(seconds=60)
    warehouse.append(11, newest=newest)
    for path in warehouse.directory.rglob("*.parquet"):
        path.unlink()
    found = actions.freshness(iceberg, soon(), "trades")
    assert found.age_s == pytest.approx(60, abs=5)
    assert found.span_s == pytest.approx(10)
    assert found.newest == newest.replace(tzinfo=dt.UTC).isoformat()
    assert found.told_by == "manifests"


def test_freshness_reads_the_rows_where_the_manifests_keep_no_bounds(warehouse, iceberg):
    with warehouse.table.transaction() as change:
        change.set_properties({"write.metadata.metrics.column.timestamp": "none"})
    warehouse.append(5)
    found = actions.freshness(iceberg, soon(), "trades")
    assert found.told_by == "rows"
    assert 0 <= found.age_s < 10
    assert found.span_s == pytest.approx(4)


def test_freshness_asks_for_a_column_of_times(iceberg, warehouse):
    warehouse.append(1)
    with pytest.raises(Refused, match="is a string, not a timestamp"):
        actions.freshness(iceberg, soon(), "trades", column="symbol")
    with pytest.raises(Refused, match="no column 'tme'"):
        actions.freshness(iceberg, soon(), "trades", column="tme")


def test_compression_is_bytes_over_bytes_from_the_files_themselves(iceberg, warehouse):
    from pyarrow.parquet import ParquetFile

    warehouse.append(3000)
    warehouse.append(500)
    found = actions.compression(iceberg, soon(), "trades")
    paths = list(warehouse.directory.rglob("*.parquet"))
    groups = [ParquetFile(path).metadata.row_group(0) for path in paths]
    assert found.file_bytes == sum(path.stat().st_size for path in paths)
    assert found.uncompressed_bytes == sum(group.total_byte_size for group in groups)
    assert found.ratio == found.uncompressed_bytes / found.compressed_bytes
    assert found.json_ratio == pytest.approx(found.json_bytes_per_row * 3500 / found.file_bytes)
    assert found.compressed_bytes < found.file_bytes
    assert (found.codecs, found.rows, found.files, found.sampled_rows) == (["zstd"], 3500, 2, 3000)


def test_a_message_stored_twice_is_found_and_named(iceberg, warehouse):
    warehouse.append(50)
    assert actions.duplicates(iceberg, soon(), "trades").duplicates == 0
    warehouse.append(3, message_id="twice")
    found = actions.duplicates(iceberg, soon(), "trades")
    assert (found.rows, found.distinct, found.duplicates, found.examples) == (53, 51, 2, ["twice"])
    assert actions.duplicates(iceberg, soon(), "trades", where="message_id <> 'twice'").duplicates == 0


def test_rows_without_a_value_are_no_duplicates_of_each_other(iceberg, warehouse):
    warehouse.append(9)
    found = actions.duplicates(iceberg, soon(), "trades", column="sequence")
    assert (found.rows, found.duplicates, found.nulls) == (9, 0, 6)


def test_no_rows_prove_no_absence_of_duplicates(iceberg, warehouse):
    warehouse.append(1)
    with pytest.raises(Unknown):
        actions.duplicates(iceberg, soon(), "trades", where="false")


def test_a_cleared_warehouse_under_a_living_catalog_is_told_as_such(iceberg, warehouse):
    warehouse.append(1)
    shutil.rmtree(warehouse.directory / "market_data")
    for look in LOOKS:
        with pytest.raises(Unknown, match=r"is gone: .*warehouse cleared"):
            look(iceberg, soon(), "trades")


def test_a_catalog_that_is_not_there_is_unreachable_and_is_not_made(tmp_path):
    with pytest.raises(Unreachable, match="there is no catalog file"):
        actions.rows(Iceberg(uri=f"sqlite:///{tmp_path}/none.db"), soon(), "trades")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_catalog_is_refused(tmp_path):
    garbage = tmp_path / "garbage.db"
    garbage.write_text("no database at all " * 100)
    with pytest.raises(Refused, match="file is not a database"):
        actions.rows(Iceberg(uri=f"sqlite:///{garbage}"), soon(), "trades")


def test_the_catalog_in_a_database_is_found_when_it_is_the_only_one_else_its_name_is_asked_for(iceberg, warehouse):
    from pyiceberg.catalog.sql import SqlCatalog

    warehouse.append(4)
    assert actions.rows(iceberg, soon(), "trades").rows == 4
    second = SqlCatalog("second", uri=warehouse.uri, warehouse=f"file://{warehouse.directory}/second")
    second.create_namespace("market_data")
    second.create_table("market_data.trades", warehouse.table.schema())
    with pytest.raises(Refused, match="2 catalogs: anything, second"):
        actions.rows(iceberg, soon(), "trades")
    assert actions.rows(replace(iceberg, catalog="anything"), soon(), "trades").rows == 4
    assert actions.rows(replace(iceberg, catalog="second"), soon(), "trades").rows == 0


def test_a_closed_port_of_a_rest_catalog_is_unreachable_at_once():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(Unreachable, match="Connection refused"):
        actions.tables(Iceberg(type="rest", uri=f"http://127.0.0.1:{port}"), soon())
    assert time.monotonic() - started < 1


def test_a_rest_catalog_that_says_nothing_ends_with_the_deadline(speaker):
    silent = threading.Event()
    address = speaker(lambda _: silent.wait(10))
    started = time.monotonic()
    with pytest.raises((Unreachable, TimedOut)):
        actions.tables(Iceberg(type="rest", uri=address), Deadline(3))
    assert time.monotonic() - started < 4
    silent.set()


def test_a_web_server_that_is_no_catalog_is_told(web):
    web.page("/v1/config", "<html>hello</html>")
    with pytest.raises((Refused, Unreachable), match=web.url):
        actions.tables(Iceberg(type="rest", uri=web.url), soon(5))


def test_a_rest_catalog_that_refuses_the_token_is_told(web):
    web.page("/v1/config", '{"error": {"message": "who are you", "type": "NotAuthorizedException", "code": 401}}', 401)
    with pytest.raises(Refused, match="credentials"):
        actions.tables(Iceberg(type="rest", uri=web.url, properties={"token": "tellnoone"}), soon(5))


def test_a_rest_catalog_is_read_as_well(web, warehouse):
    warehouse.append(7)
    metadata = warehouse.table.metadata_location
    web.page("/v1/config", '{"defaults": {}, "overrides": {}}')
    body = warehouse.table.metadata.model_dump_json(by_alias=True, exclude_none=True)
    answer = f'{{"metadata-location": "{metadata}", "metadata": {body}, "config": {{}}}}'
    web.page("/v1/namespaces/market_data/tables/trades", answer)
    rest = Iceberg(type="rest", uri=web.url, namespace="market_data")
    assert actions.rows(rest, soon(), "trades").rows == 7
    assert actions.duplicates(rest, soon(), "trades").distinct == 7


def test_a_password_does_not_show_in_an_error():
    with pytest.raises((Refused, Unreachable)) as failed:
        actions.tables(Iceberg(uri="postgresql://k2:hunter2@127.0.0.1:1/catalog"), soon(5))
    assert "hunter2" not in str(failed.value)

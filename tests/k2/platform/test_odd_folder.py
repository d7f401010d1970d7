"""A folder may be called anything: what is written there is found there, and nothing is written elsewhere."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest
from catalog_server import catalog_server

from k2run.actions.deadline import Deadline
from k2run.adapters import duckdb
from k2run.adapters.iceberg import actions as iceberg
from k2run.adapters.iceberg.catalog import Iceberg
from k2run.k2.platform import rows, table, table_writer
from k2run.k2.platform.queries_files import TableFiles
from k2run.k2.platform.store_files import StoreFiles
from k2run.k2.platform.table_writer import _latest_ids
from k2run.k2.platform.trade import Market

NAMES = ["k2 démo", "100%41 #1; it's [a] *? Ω"]


@pytest.fixture(params=NAMES)
def warehouse(request, tmp_path):
    """A table with two files in a folder of that name."""
    folder = tmp_path / request.param / "warehouse"
    trades = list(Market(("BTCUSDT",), seed=7, first_trade=1).trades(200, 1_772_600_000_000_000, 1_772_600_100_000_000))
    with catalog_server(folder) as catalog:
        for part in (trades[:100], trades[100:]):
            table.open_table(table.open_catalog(catalog), table.TRADES).append(rows.trade_columns(part, {}))
        yield folder, catalog


def test_every_reader_finds_what_was_written_and_nothing_is_written_outside(warehouse, tmp_path):
    warehouse, catalog = warehouse
    followed = TableFiles(catalog, StoreFiles(""), table.TRADES)
    followed.refresh()
    assert followed.view().rows == 200
    written = table.open_table(table.open_catalog(catalog), table.TRADES)
    assert len(list(_latest_ids(written, 200))) == 200
    assert table_writer.sweep(written) == 0
    theirs = Iceberg(uri=f"sqlite:///{warehouse}/catalog.db", warehouse=str(warehouse), namespace="market_data")
    assert iceberg.rows(theirs, Deadline(20), "trades_v2").rows == 200
    assert duckdb.query(theirs, Deadline(20), "SELECT count(*) FROM trades_v2").value == 200
    assert [entry.name for entry in tmp_path.iterdir()] == [warehouse.parent.name]
    assert [entry.name for entry in warehouse.parent.iterdir()] == ["warehouse"]


def test_a_catalog_is_locked_where_it_is(warehouse, tmp_path):
    path = warehouse[0] / "catalog.db"
    with subprocess.Popen(
        [sys.executable, "-m", "k2run.adapters.host.stress_process", "lock", "20", path],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as locked:
        assert locked.stdout.readline() == b"ready\n"
        with sqlite3.connect(path, timeout=0) as database, pytest.raises(sqlite3.OperationalError, match="locked"):
            database.execute("BEGIN IMMEDIATE")
        locked.terminate()

"""A table that is committed to every second stays in few files and few snapshots."""

from __future__ import annotations

import os
import threading
import time

import pytest
from catalog_server import catalog_server

from k2run.k2.platform import rows, table, table_writer, topics, trade
from k2run.k2.platform.table_writer import DeadLetters


@pytest.fixture
def trades(tmp_path):
    """The trades table of a new warehouse, with its writer."""
    with catalog_server(tmp_path) as catalog:
        opened = table.open_table(table.open_catalog(catalog), table.TRADES)
        yield table_writer.TableWriter(
            rows.TRADES, opened, rows.SpillFile(tmp_path / "shed"), DeadLetters(tmp_path / "dlq", "group")
        )


def write(trades, commits, each):
    """That many commits of so many trades."""
    market = trade.Market(["BTCUSDT", "ETHUSDT"], seed=1, first_trade=1)
    offset = sum(trades.ledger.offsets.values())
    for _ in range(commits):
        made = market.trades(each, offset * 1_000, (offset + each) * 1_000)
        kept = [rows.Taken(0, offset + at, trade.encode(one)) for at, one in enumerate(made)]
        offset += each
        trades.write(kept, [], {0: offset}, {})


def test_small_files_are_merged_and_no_row_is_lost(trades):
    write(trades, commits=21, each=10)
    before = trades.table.scan().to_arrow().sort_by("message_id")
    table_writer.merge(trades)
    assert [file.record_count for file in table_writer.data_files(trades.table)] == [210]
    assert trades.table.scan().to_arrow().sort_by("message_id") == before
    assert topics.read_ledger(trades.table.properties).offsets == {0: 210}


def test_files_are_left_alone_while_they_are_few(trades):
    write(trades, commits=5, each=10)
    snapshot = trades.table.current_snapshot()
    table_writer.merge(trades)
    assert trades.table.current_snapshot() == snapshot


def test_old_snapshots_are_forgotten_and_the_newest_kept(trades, monkeypatch):
    monkeypatch.setattr(table_writer, "MOST_SNAPSHOTS", 9)
    monkeypatch.setattr(table_writer, "KEPT_SNAPSHOTS", 5)
    write(trades, commits=table_writer.MOST_SNAPSHOTS, each=1)
    assert table_writer.expire(trades) is None
    assert len(trades.table.metadata.snapshots) == table_writer.MOST_SNAPSHOTS
    write(trades, commits=1, each=1)
    newest = trades.table.current_snapshot()
    table_writer.expire(trades)
    assert len(trades.table.metadata.snapshots) == table_writer.KEPT_SNAPSHOTS
    assert trades.table.current_snapshot() == newest
    assert trades.table.scan().to_arrow().num_rows == table_writer.MOST_SNAPSHOTS + 1


def test_files_nobody_refers_to_are_deleted_once_they_are_old(trades, tmp_path):
    write(trades, commits=21, each=10)
    table_writer.merge(trades)
    trades.forget([snapshot.snapshot_id for snapshot in trades.table.metadata.snapshots[:-1]])
    assert table_writer.sweep(trades.table) == 0, "a file that was just written may still be wanted"
    long_ago = time.time() - 2 * table_writer.LITTER_AGE_S
    for path in tmp_path.rglob("*.*"):
        os.utime(path, (long_ago, long_ago))
    rows_before = trades.table.scan().to_arrow().num_rows
    assert table_writer.sweep(trades.table) > 20
    assert trades.table.scan().to_arrow().num_rows == rows_before
    assert len(list(tmp_path.rglob("*.parquet"))) == len(list(table_writer.data_files(trades.table)))


def test_a_catalog_that_is_away_ends_no_upkeep(tmp_path, monkeypatch):
    monkeypatch.setattr(table_writer, "EVERY_S", 0.05)
    monkeypatch.setattr(table_writer, "SWEEP_EVERY_S", 0.0)
    monkeypatch.setattr(threading, "excepthook", lambda failure: failed.append(failure.exc_value))
    failed, looked, stopping = [], threading.Semaphore(0), threading.Event()
    with catalog_server(tmp_path) as catalog:
        opened = table.open_table(table.open_catalog(catalog), table.TRADES)
        dead = DeadLetters(tmp_path / "dlq", "group")
        writer = table_writer.TableWriter(rows.TRADES, opened, rows.SpillFile(tmp_path / "shed"), dead)
    monkeypatch.setattr(table_writer, "log", lambda *_, **__: looked.release())
    table_writer.Upkeep([writer], lambda: True).watch(stopping)
    assert all(looked.acquire(timeout=20) for _ in range(3))
    stopping.set()
    assert failed == []

"""The sql actions on real CSV, Parquet, JSON and SQLite files."""

from __future__ import annotations

import datetime as dt
import gzip
import sqlite3
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters import sql
from k2run.errors import AuthorError, Interrupted, Refused, TimedOut, Unknown

TESTED_ON = {"sql": "DuckDB on real files"}


def soon(seconds: float = 20) -> Deadline:
    return Deadline(seconds)


@pytest.fixture
def orders(tmp_path) -> str:
    path = tmp_path / "orders.csv"
    path.write_text("id,item,price\n1,tea,2.5\n2,milk,1.25\n3,tea,2.5\n")
    return str(path)


@pytest.fixture
def shop(tmp_path) -> str:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE items (name TEXT, stock INTEGER, note)")
        made.executemany(
            "INSERT INTO items VALUES (?, ?, ?)", [("tea", 7, 1), ("milk", 0, "old"), ("salt", None, None)]
        )
        made.execute('CREATE TABLE "odd name" (n INTEGER)')
    made.close()
    return str(path)


def test_a_csv_file_is_asked_and_no_rows_are_unknown(orders):
    found = sql.query(
        soon(), "SELECT item, sum(price) AS paid FROM orders GROUP BY item ORDER BY item", {"orders": orders}
    )
    assert found.rows == [{"item": "milk", "paid": 1.25}, {"item": "tea", "paid": 5.0}]
    assert (found.columns, found.row_count, found.truncated, found.source) == (["item", "paid"], 2, False, orders)
    counted = sql.query(
        soon(), "SELECT count(*) AS n FROM orders WHERE item = $item", {"orders": orders}, {"item": "tea"}
    )
    assert (counted.value, counted.headline()) == (2, "n 2")
    assert sql.query(soon(), "SELECT * FROM orders", {"orders": orders}, limit=2).truncated
    with pytest.raises(Unknown, match="no rows"):
        sql.query(soon(), "SELECT * FROM orders WHERE id > 3", {"orders": orders})
    empty = sql.query(soon(), "SELECT * FROM orders WHERE id > 3", {"orders": orders}, allow_empty=True)
    assert empty.rows == []


def test_parquet_by_a_pattern_json_and_compressed_text(tmp_path, orders):
    for part in range(3):
        table = pa.table({"n": [part, part + 10], "day": [dt.date(2026, 1, 14 + part)] * 2})
        pq.write_table(table, tmp_path / f"part{part}.parquet")
    (tmp_path / "seen.jsonl").write_text('{"n": 10, "who": {"name": "a"}}\n{"n": 11, "who": {"name": "b"}}\n')
    with gzip.open(tmp_path / "more.csv.gz", "wt") as file:
        file.write("n\n12\n")
    files = {"parts": f"{tmp_path}/part*.parquet", "seen": f"{tmp_path}/seen.jsonl", "more": f"{tmp_path}/more.csv.gz"}
    joined = "SELECT parts.n, day, who.name AS name FROM parts JOIN seen USING (n) ORDER BY n"
    assert sql.query(soon(), joined, files).rows == [
        {"n": 10, "day": "2026-01-14", "name": "a"},
        {"n": 11, "day": "2026-01-15", "name": "b"},
    ]
    assert sql.query(soon(), "SELECT n FROM more", files).value == 12


def test_tables_of_a_sqlite_file_are_joined_with_other_files(orders, shop):
    files = {"orders": orders, "shop": shop}
    asked = "SELECT item, stock FROM orders JOIN shop.items ON item = name WHERE id = 1"
    assert sql.query(soon(), asked, files).rows == [{"item": "tea", "stock": 7}]
    kept = sql.query(soon(), "SELECT note FROM shop.items ORDER BY name", files)
    assert [row["note"] for row in kept.rows] == ["old", None, "1"]
    assert sql.query(soon(), 'SELECT count(*) AS n FROM shop."odd name"', files).value == 0
    with pytest.raises(AuthorError, match=r"name a table of it: shop\.items"):
        sql.query(soon(), "SELECT * FROM shop", files)
    with pytest.raises(Refused, match=r"no such table: gone.*items, odd name"):
        sql.query(soon(), "SELECT * FROM shop.gone", files)


def test_a_query_opens_these_files_and_changes_nothing(tmp_path, orders, shop):
    (tmp_path / "secret.csv").write_text("password\nhunter2\n")
    for wrong in (
        f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
        f"COPY (SELECT 1) TO '{tmp_path}/made.csv'",
        "DROP VIEW orders",
        "SELECT 1; SELECT 2",
        f"ATTACH '{shop}' AS other",
        "SELECT getenv('HOME') FROM orders; SET lock_configuration = false",
    ):
        with pytest.raises((Refused, AuthorError)):
            sql.query(soon(), wrong, {"orders": orders})
    assert not (tmp_path / "made.csv").exists()


def test_what_is_missing_or_no_table_says_what_to_check(tmp_path, orders):
    with pytest.raises(Unknown, match=r"gone\.csv is missing"):
        sql.query(soon(), "SELECT * FROM gone", {"gone": f"{tmp_path}/gone.csv"})
    with pytest.raises(AuthorError, match="the query reads order, but `files` has only orders"):
        sql.query(soon(), 'SELECT * FROM "order"', {"orders": orders})
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(Refused, match="unknown file type"):
        sql.query(soon(), "SELECT * FROM notes", {"notes": f"{tmp_path}/notes.txt"})
    (tmp_path / "broken.parquet").write_text("hello")
    with pytest.raises(Refused, match="DuckDB"):
        sql.query(soon(), "SELECT * FROM broken", {"broken": f"{tmp_path}/broken.parquet"})
    with pytest.raises(Refused, match=r"DuckDB.*prize"):
        sql.query(soon(), "SELECT prize FROM orders", {"orders": orders})


def test_a_slow_query_ends_with_the_step_and_a_request_to_stop_is_heard(orders):
    slow = "SELECT count(*) FROM orders, range(100000000) AS a, range(100000000) AS b"
    started = time.monotonic()
    with pytest.raises(TimedOut):
        sql.query(soon(1), slow, {"orders": orders})
    assert time.monotonic() - started < 3
    deadline = soon()
    threading.Timer(0.5, deadline.stop.set).start()
    with pytest.raises(Interrupted):
        sql.query(deadline, slow, {"orders": orders})

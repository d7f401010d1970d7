"""A table whose files are missing or damaged is never whole; without them the rest can be read again."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from catalog_server import catalog_server

from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg import actions
from k2run.adapters.iceberg.catalog import Iceberg, open_catalog, open_table
from k2run.adapters.iceberg.duckdb_sql import local_path
from k2run.adapters.iceberg.integrity import _together
from k2run.errors import NotApplicable, Refused, Unknown
from k2run.language.quantities import Duration

TABLE = "market_data.trades"
ROWS = pa.table({"message_id": ["m0"]})


def soon() -> Deadline:
    return Deadline(20)


@pytest.fixture
def iceberg(warehouse) -> Iceberg:
    for number in range(12):
        warehouse.append(1, message_id=f"m{number}")
    return Iceberg(uri=warehouse.uri, namespace="market_data")


def newest(iceberg: Iceberg) -> Path:
    """The data file that was written last."""
    files = [task.file.file_path for task in open_table(iceberg, soon(), TABLE).scan().plan_files()]
    return max((Path(file.removeprefix("file://")) for file in files), key=lambda file: file.stat().st_mtime_ns)


def damage(file: Path, how: str) -> None:
    whole = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "cut off":
        file.write_bytes(whole[: len(whole) // 2])
    elif how == "end overwritten":
        file.write_bytes(whole[:-4] + b"\0\0\0\0")
    else:
        file.write_bytes(os.urandom(len(whole)))


def test_a_whole_table_is_told_so(iceberg):
    found = actions.intact(iceberg, soon(), TABLE)
    assert (found.files, found.checked, found.footers, found.damaged) == (12, 12, 12, 0)


@pytest.mark.parametrize("how", ["missing", "cut off", "end overwritten", "other bytes"])
def test_a_damaged_file_is_found_and_the_table_does_without_it(iceberg, how):
    file = newest(iceberg)
    damage(file, how)
    found = actions.intact(iceberg, soon(), TABLE)
    assert (found.damaged, found.rows) == (1, 1)
    assert file.name in found.says[0]
    done = actions.drop_damaged(iceberg, soon(), TABLE)
    assert (done.changed, done.files, done.rows, done.rolled_back) == (True, 1, 1, False)
    assert actions.intact(iceberg, soon(), TABLE).damaged == 0
    assert len(open_table(iceberg, soon(), TABLE).scan().to_arrow()) == 11
    assert open_table(iceberg, soon(), TABLE).snapshot_by_id(done.from_snapshot_id) is not None
    assert actions.drop_damaged(iceberg, soon(), TABLE).changed is False


def test_metadata_that_cannot_be_read_is_damage_and_the_snapshot_before_it_is_taken(iceberg):
    table = open_table(iceberg, soon(), TABLE)
    [newest_manifest] = [
        manifest.manifest_path
        for manifest in table.current_snapshot().manifests(table.io)
        if manifest.added_snapshot_id == table.current_snapshot().snapshot_id
    ]
    Path(newest_manifest.removeprefix("file://")).write_bytes(b"no Avro")
    assert actions.intact(iceberg, soon(), TABLE).damaged == 1
    done = actions.drop_damaged(iceberg, soon(), TABLE)
    assert done.rolled_back
    assert actions.intact(iceberg, soon(), TABLE).damaged == 0
    assert len(open_table(iceberg, soon(), TABLE).scan().to_arrow()) == 11


def test_a_metadata_file_that_is_gone_is_damage_and_the_newest_one_beside_it_is_taken(iceberg):
    Path(open_table(iceberg, soon(), TABLE).metadata_location.removeprefix("file://")).unlink()
    assert actions.intact(iceberg, soon(), TABLE).damaged == 1
    assert actions.drop_damaged(iceberg, soon(), TABLE).rolled_back
    assert actions.intact(iceberg, soon(), TABLE).damaged == 0
    assert len(open_table(iceberg, soon(), TABLE).scan().to_arrow()) == 11


def test_a_metadata_file_that_is_gone_is_damage_also_where_the_catalog_answers_out_of_its_memory(tmp_path):
    with catalog_server(tmp_path) as address:
        iceberg = Iceberg(type="rest", uri=address, namespace="market_data")
        open_catalog(iceberg, soon()).create_namespace("market_data")
        made = open_catalog(iceberg, soon()).create_table(TABLE, ROWS.schema)
        for _ in range(2):
            made.append(ROWS)
        assert actions.intact(iceberg, soon()).damaged == 0
        Path(local_path(made.metadata_location)).unlink()
        assert made.catalog.load_table(TABLE).metadata == made.metadata
        found = actions.intact(iceberg, soon())
        assert found.damaged == 1
        assert found.says[0].endswith(".metadata.json: missing")
        assert actions.drop_damaged(iceberg, soon(), TABLE).rolled_back
        assert actions.intact(iceberg, soon()).damaged == 0
        assert len(open_table(iceberg, soon(), TABLE).scan().to_arrow()) == 1


def test_a_disk_that_is_away_is_not_given_up_as_damaged_files(iceberg):
    for task in list(open_table(iceberg, soon(), TABLE).scan().plan_files()):
        Path(task.file.file_path.removeprefix("file://")).unlink()
    with pytest.raises(Refused, match="12 of 12 rows"):
        actions.drop_damaged(iceberg, soon(), TABLE)


def test_who_holds_the_lock_of_a_catalog_is_told_and_a_short_commit_is_no_lock(iceberg):
    assert actions.catalog_lock(iceberg, soon()).locked is False
    path = iceberg.uri.removeprefix("sqlite:///")
    holder = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        " c.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            found = actions.catalog_lock(iceberg, soon(), patience=Duration(0.3))
        finally:
            process.kill()
    assert found.locked
    assert f"pid {process.pid}" in found.headline()
    with closing(sqlite3.connect(path)) as database:
        database.execute("SELECT 1")
    with pytest.raises(NotApplicable):
        actions.catalog_lock(Iceberg(type="rest", uri="http://127.0.0.1:1"), soon())


def test_every_table_of_the_catalog_is_checked_unless_one_is_named(iceberg):
    catalog = open_catalog(iceberg, soon())
    table = open_table(iceberg, soon(), TABLE)
    other = catalog.create_table("market_data.quotes", table.schema(), location=f"{table.location()}-quotes")
    other.append(table.scan().to_arrow())
    whole = actions.intact(iceberg, soon())
    assert (whole.tables, whole.files, whole.damaged, whole.damaged_tables) == (2, 13, 0, [])
    assert whole.headline() == "13 of 13 files are whole in 2 tables"
    [task] = list(other.scan().plan_files())
    Path(task.file.file_path.removeprefix("file://")).unlink()
    found = actions.intact(iceberg, soon())
    assert (found.damaged, found.rows, found.damaged_tables) == (1, 12, ["market_data.quotes"])
    assert found.says[0].startswith("market_data.quotes: ")
    assert actions.intact(iceberg, soon(), TABLE).damaged == 0


def test_a_table_for_which_no_time_was_left_is_not_called_whole(iceberg):
    whole = actions.intact(iceberg, soon())
    with pytest.raises(Unknown, match="1 of 2 tables were not checked"):
        _together(iceberg, [whole], 2)

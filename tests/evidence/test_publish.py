import shutil
from pathlib import Path

import duckdb
import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg.catalog import Iceberg, open_table
from k2run.errors import K2runError
from k2run.evidence.history import History
from k2run.evidence.reports import publish

MEASURED = Path(__file__).parent / "journals" / "measured.jsonl"


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home" / "runs" / "20261121-101448-demo-day-eb08"
    folder.mkdir(parents=True)
    shutil.copy(MEASURED, folder / "journal.jsonl")
    return tmp_path / "home"


@pytest.fixture
def iceberg(tmp_path):
    from pyiceberg.catalog.sql import SqlCatalog

    (tmp_path / "warehouse").mkdir()
    uri = f"sqlite:///{tmp_path}/catalog.db"
    SqlCatalog("team", uri=uri, warehouse=f"file://{tmp_path}/warehouse").create_namespace("other")
    return Iceberg(uri=uri, warehouse=f"file://{tmp_path}/warehouse", catalog="team")


def test_published_runs_can_be_asked_by_any_engine_and_are_there_once(home, iceberg):
    first = publish(History(home), iceberg, "k2run", Deadline(60))
    assert first["k2run.runs"] == 1
    assert first["k2run.measures"] > 200
    assert publish(History(home), iceberg, "k2run", Deadline(60)) == {"k2run.runs": 0, "k2run.measures": 0}
    measures = open_table(iceberg, Deadline(10), "k2run.measures").scan().to_arrow()
    asked = duckdb.sql("select value, seq from measures where metric = 'p99_ms' and kind = 'figure'").fetchall()
    assert asked == [(38.303, 67)]
    assert measures.num_rows == first["k2run.measures"]


def test_a_catalog_that_is_not_there_is_told(home, tmp_path):
    nowhere = Iceberg(uri=f"sqlite:///{tmp_path}/none/catalog.db", warehouse=str(tmp_path))
    with pytest.raises(K2runError):
        publish(History(home), nowhere, "k2run", Deadline(10))

"""A server in a process of its own, which keeps its own record of how long each request took it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from running_platform import platform  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


PROGRAM = Path(__file__).with_name("recording_server.py")


class Recording(NamedTuple):
    url: str
    stop: Callable[[], list[float]]


@contextmanager
def recording(*settings: str) -> Iterator[Recording]:
    process = subprocess.Popen(
        [sys.executable, PROGRAM, *settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def stop() -> list[float]:
        record, _ = process.communicate("stop\n", timeout=10)
        return json.loads(record)

    try:
        yield Recording(f"http://127.0.0.1:{int(process.stdout.readline())}", stop)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def serve():
    return recording


@pytest.fixture(scope="session")
def nothing(tmp_path_factory: pytest.TempPathFactory):
    """The services of a stack without any: benchmarks by URL."""
    from k2run.stack.services import Services
    from k2run.stack.stack import load_stack

    folder = tmp_path_factory.mktemp("stack")
    path = folder / "stack.yaml"
    path.write_text("stack: 1\nname: tested\n")
    return Services.of(load_stack(str(path), near=None, home=folder / ".k2run", overrides={}))


@pytest.fixture(scope="session")
def trades(tmp_path_factory: pytest.TempPathFactory):
    """A real Iceberg table `market_data.trades` with 5,000 rows of two symbols."""
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog

    from k2run.adapters.iceberg.catalog import Iceberg

    folder = tmp_path_factory.mktemp("warehouse")
    place = {"uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}"}
    iceberg = Iceberg(type="sql", namespace="market_data", **place)
    catalog = SqlCatalog("tested", uri=iceberg.uri, warehouse=iceberg.warehouse)
    catalog.create_namespace("market_data")
    rows = pa.table({"symbol": ["BTCUSDT", "ETHUSDT"] * 2500, "price": [float(n) for n in range(5000)]})
    catalog.create_table("market_data.trades", rows.schema).append(rows)
    return iceberg

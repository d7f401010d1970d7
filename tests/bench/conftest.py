"""A server in a process of its own, which keeps its own record of how long each request took it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k2run.adapters._iceberg.catalog import Iceberg
    from k2run.adapters._kafka.link import Kafka
    from k2run.stack.services import Services

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
    from k2run.stack.loading import load_stack
    from k2run.stack.services import Services

    folder = tmp_path_factory.mktemp("stack")
    path = folder / "stack.yaml"
    path.write_text("stack: 1\nname: tested\n")
    return Services.of(load_stack(str(path), near=None, home=folder / ".k2run", overrides={}))


@pytest.fixture(scope="session")
def trades(tmp_path_factory: pytest.TempPathFactory):
    """A real Iceberg table `market_data.trades` with 5,000 rows of two symbols."""
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog

    from k2run.adapters._iceberg.catalog import Iceberg

    folder = tmp_path_factory.mktemp("warehouse")
    iceberg = Iceberg(type="sql", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog = SqlCatalog("tested", uri=iceberg.uri, warehouse=iceberg.warehouse)
    catalog.create_namespace("market_data")
    rows = pa.table({"symbol": ["BTCUSDT", "ETHUSDT"] * 2500, "price": [float(n) for n in range(5000)]})
    catalog.create_table("market_data.trades", rows.schema).append(rows)
    return iceberg


SANDBOX = """\
stack: 1
name: benched
connections:
  kafka: {{bootstrap: "127.0.0.1:{broker}"}}
  iceberg: {{type: sql, uri: "sqlite:///{warehouse}/catalog.db", warehouse: "{warehouse}"}}
services:
  broker:
    run: process
    command: [python, -m, k2run.sandbox.broker, --port, {broker}]
    stop_signal: SIGINT
    ready: {{tcp: "127.0.0.1:{broker}"}}
  stream:
    run: process
    command: [python, -m, k2run.sandbox.stream, "--bootstrap=127.0.0.1:{broker}", --metrics-port={stream}, --rate=20]
    ready: {{http: "http://127.0.0.1:{stream}/metrics"}}
    needs: [broker]
  consumer:
    run: process
    command:
      [python, -m, k2run.sandbox.consumer, "--bootstrap=127.0.0.1:{broker}", "--warehouse={warehouse}",
      --metrics-port={consumer}, --interval=0.2]
    ready: {{http: "http://127.0.0.1:{consumer}/metrics"}}
    needs: [broker]
  api:
    run: process
    command:
      [python, -m, k2run.sandbox.api, --port={api}, "--warehouse={warehouse}", "--bootstrap=127.0.0.1:{broker}",
      --api-key=tested]
    url: "http://127.0.0.1:{api}"
    headers: {{X-API-Key: tested}}
    ready: {{http: "http://127.0.0.1:{api}/health", body: {{status: healthy}}}}
    needs: [broker, consumer]
"""


class Platform(NamedTuple):
    """A running sandbox: its connections, as actions are handed them."""

    services: Services
    kafka: Kafka
    iceberg: Iceberg


@pytest.fixture(scope="package")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Broker, stream, consumer and API, each a process of its own on free ports."""
    from k2run.actions.deadline import Deadline
    from k2run.adapters._iceberg.catalog import Iceberg
    from k2run.adapters._kafka.link import Kafka
    from k2run.stack import lifecycle
    from k2run.stack.loading import load_stack
    from k2run.stack.services import Services

    folder = tmp_path_factory.mktemp("sandbox")
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    ports = dict(zip(("broker", "stream", "consumer", "api"), (each.getsockname()[1] for each in probes), strict=True))
    for each in probes:
        each.close()
    path = folder / "stack.yaml"
    path.write_text(SANDBOX.format(**ports, warehouse=folder / "warehouse"))
    stack = load_stack(str(path), near=None, home=folder / ".k2run", overrides={})
    try:
        lifecycle.start(stack, None, Deadline(90))
        yield Platform(Services.of(stack), Kafka.of(stack), Iceberg.of(stack))
    finally:
        for service in Services.of(stack).all():
            Services.of(stack).backend(service.name).kill(Deadline(10))

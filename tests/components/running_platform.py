"""The embedded platform, running, for tests of loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from wheel_programs import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.adapters.iceberg.catalog import Iceberg
    from k2run.adapters.kafka.client import Kafka
    from k2run.stack.services import Services

SANDBOX = """\
stack: 1
name: benched
connections:
  kafka: {{bootstrap: "127.0.0.1:{broker}"}}
  iceberg: {{type: rest, namespace: market_data, uri: "http://127.0.0.1:{catalog}"}}
services:
  broker:
    run: process
    command: [python, -m, k2run.k2.platform.broker, --port, {broker}]
    stop_signal: SIGINT
    ready: {{tcp: "127.0.0.1:{broker}"}}
  iceberg-rest:
    run: process
    command:
      [python, -m, k2run.k2.platform.iceberg_rest, --port={catalog}, "--database=sqlite:///{folder}/catalog.db",
      "--warehouse={folder}/warehouse"]
    ready: {{http: "http://127.0.0.1:{catalog}/v1/config", within: 60s}}
  stream:
    run: process
    command: [python, -m, k2run.k2.platform.stream, "--bootstrap=127.0.0.1:{broker}",
      --metrics-port={stream}, --rate=20]
    ready: {{http: "http://127.0.0.1:{stream}/metrics"}}
    needs: [broker]
  consumer:
    run: process
    command:
      [python, -m, k2run.k2.platform.consumer, "--bootstrap=127.0.0.1:{broker}", "--catalog=http://127.0.0.1:{catalog}",
      "--state={folder}/state", --metrics-port={consumer}, --interval=0.2]
    ready: {{http: "http://127.0.0.1:{consumer}/metrics"}}
    needs: [broker, iceberg-rest]
  api:
    run: process
    command:
      [python, -m, k2run.k2.platform.api, --port={api}, "--catalog=http://127.0.0.1:{catalog}",
      "--cache={folder}/cache", "--bootstrap=127.0.0.1:{broker}", --api-key=tested]
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
    from k2run.adapters.iceberg.catalog import Iceberg
    from k2run.adapters.kafka.client import Kafka
    from k2run.stack import lifecycle
    from k2run.stack.services import Services
    from k2run.stack.stack import load_stack

    folder = tmp_path_factory.mktemp("sandbox")
    names = ("broker", "stream", "consumer", "api", "catalog")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    path = folder / "stack.yaml"
    path.write_text(SANDBOX.format(**ports, folder=folder))
    stack = load_stack(str(path), near=None, home=folder / ".k2run", overrides={})
    try:
        lifecycle.start(stack, None, Deadline(90))
        yield Platform(Services.of(stack), Kafka.of(stack), Iceberg.of(stack))
    finally:
        for service in Services.of(stack).all():
            Services.of(stack).backend(service.name).kill(Deadline(10))

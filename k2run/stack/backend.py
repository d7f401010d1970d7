"""What can be seen of a service and done to it, whoever runs it: whether it is ready, and the end of its log."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from k2run.stack.model import Ready

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from pathlib import Path

    from k2run.actions.deadline import Deadline
    from k2run.stack.model import Service

TAIL_BYTES = 32 * 2**20
"""At most this much of the end of a log is read."""
_BLOCK = 64 * 1024
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
_HEAD = 200  # characters at the start of a line in which its time is looked for
HANG_UP_S = 0.05
"""How long an accepted connection is watched: a proxy accepts for a service that does not listen, and then hangs up."""
STARTUP = (3 << 16).to_bytes(4) + b"user\0postgres\0database\0postgres\0\0"
"""PostgreSQL's protocol, 54.7, StartupMessage without its length: version 3.0 and who asks."""
CANNOT_CONNECT_NOW = b"57P03"
"""PostgreSQL's error code while it starts, recovers after a crash, or shuts down."""
ANSWER_BYTES = 4096
BODY_BYTES = 2**20
"""At most this much of an answer is read."""


class State(StrEnum):
    """What a service is doing."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABSENT = "absent"  # cannot be started here: no such program, no such container
    UNHEALTHY = "unhealthy"  # running, but not ready
    UNKNOWN = "unknown"  # what runs it gives no answer, or the stack does not say how to see it


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """A look at one service.

    Attributes:
        pid: The process (for a container: its first process on the host), when it runs.
        started_at: When it was started last.
        uptime_s: Seconds since then, when it runs.
        restarts: How often it was started again since the stack came up; None where it is not counted.
        detail: Why it is in this state, for people; may be empty.
        last_pid: The process that it was, when it does not run any more.
        ended_at: When it ended, as far as that is known.
        ended_by_us: When k2run ended it, and on whose command; empty when it did not.
    """

    service: str
    state: State
    pid: int | None = None
    started_at: datetime | None = None
    uptime_s: float | None = None
    restarts: int | None = None
    detail: str = ""
    last_pid: int | None = None
    ended_at: datetime | None = None
    ended_by_us: str = ""


class LogLine(Struct, frozen=True):
    """One line of a service's log; `at` is None when the line itself does not say."""

    text: str
    at: datetime | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """What a service uses of its machine.

    Attributes:
        cpu_percent: Of one core: 100 is one core busy, 200 two.
        rss_bytes: Memory in use, caches of files left out.
        processes: How many processes or threads of control it has.
        waiting_percent: How long its threads were ready to run and had no core, in the same unit; None where the system
            does not say.
    """

    cpu_percent: float
    rss_bytes: int
    processes: int
    waiting_percent: float | None = None


class Backend(Protocol):
    """Runs one service. Every method raises `Unreachable`, `Refused` or `NotApplicable` when it fails."""

    def status(self) -> ServiceStatus:
        """What the service is doing now."""
        ...

    def start(self, deadline: Deadline) -> bool:
        """Make it run; False when it ran already. Does not wait for it to be ready."""
        ...

    def stop(self, deadline: Deadline) -> bool:
        """Ask it to end, and end it at the deadline; False when it did not run."""
        ...

    def kill(self, deadline: Deadline) -> None:
        """End it at once, with everything it started; returns when it is gone."""
        ...

    def pause(self, deadline: Deadline) -> None:
        """Hold it where it stands; returns when it stands."""
        ...

    def resume(self, deadline: Deadline) -> bool:
        """Let a paused one go on; False when it was not paused."""
        ...

    def log(self, *, lines: int, since: datetime | None, deadline: Deadline) -> list[LogLine]:
        """The newest lines of its log, oldest first; with `since`, only those that say they are newer."""
        ...

    def last_words(self, lines: int = 12) -> str:
        """The end of what it logged since it was started last; for the message that says that it failed."""
        ...

    def usage(self, over_s: float, deadline: Deadline) -> Usage:
        """What it uses, measured over so many seconds."""
        ...


def read_tail(path: Path, *, lines: int, since: datetime | None = None, start: int = 0) -> list[LogLine]:
    """The newest lines of a log, oldest first.

    Args:
        path: The file; one that is missing has no lines.
        lines: How many at most.
        since: Only lines from then on; a line without a time has that of the line before it.
        start: Offset in bytes before which nothing is read.
    """
    if lines <= 0:
        return []
    texts = _last_lines(path, TAIL_BYTES if since else None, lines, start)
    if since is None:
        return [LogLine(text, time_of(text)) for text in texts[-lines:]]
    found: list[LogLine] = []
    at: datetime | None = None
    for text in texts:
        at = time_of(text) or at
        if at is not None and at >= since:
            found.append(LogLine(text, at))
    return found[-lines:]


def has_times(path: Path) -> bool:
    """Whether the lines of a log say when they were written."""
    return any(time_of(text) for text in _last_lines(path, None, 50, 0))


def time_of(text: str) -> datetime | None:
    """When a line says it was written; a time without zone is taken as local."""
    match = _TIME.search(text, 0, _HEAD)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    try:
        at = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}{zone or ''}")
    except ValueError:
        return None
    return at.astimezone(UTC)


def _last_lines(path: Path, most: int | None, lines: int, start: int) -> list[str]:
    """The end of a file as lines: `most` bytes of it, or blocks until there are enough lines."""
    try:
        with path.open("rb") as file:
            at = file.seek(0, os.SEEK_END)
            start = start if start <= at else 0  # a log that was cut short since begins with its newest part
            floor = max(start, at - TAIL_BYTES)
            if most is not None:
                file.seek(floor)
                raw = file.read(at - floor)
                at = floor
            else:
                raw = b""
                while at > floor and raw.count(b"\n") <= lines:
                    step = min(_BLOCK, at - floor)
                    at = file.seek(at - step)
                    raw = file.read(step) + raw
    except FileNotFoundError:
        return []
    if at > start and b"\n" in raw:
        raw = raw[raw.index(b"\n") + 1 :]  # what is before it is the rest of a line
    return [_ANSI.sub("", line) for line in raw.decode(errors="replace").splitlines()]


class Probe(Struct, frozen=True, kw_only=True):
    """One look.

    Attributes:
        ready: Whether it is ready.
        answered: Something answered, rightly or not.
        address: What was asked.
        detail: What was wrong, or "".
        elapsed_ms: How long the look took.
        hopeless: The address is none: looking again cannot help.
    """

    ready: bool
    answered: bool
    address: str
    detail: str = ""
    elapsed_ms: float = 0.0
    hopeless: bool = False


def readiness(service: Service) -> Ready | None:
    """How to see that a service is ready: as its stack says, else by its first port."""
    if service.ready is not None:
        return service.ready
    return Ready(tcp=f"127.0.0.1:{service.ports[0]}") if service.ports else None


def probe(ready: Ready, timeout: float, headers: dict[str, str] | None = None) -> Probe:
    """Look once.

    Args:
        ready: What to look at.
        timeout: Seconds to wait for an answer.
        headers: Sent with an HTTP request, beside those of `ready`.
    """
    began = time.perf_counter()
    address = ready.tcp or ready.postgres or ready.http
    try:
        wrong = _look(ready, timeout, headers or {})
        seen = Probe(ready=not wrong, answered=True, address=address, detail=wrong)
    except TimeoutError:
        seen = Probe(ready=False, answered=False, address=address, detail=f"no answer within {timeout:.3g}s")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        hopeless = isinstance(error, ValueError)
        seen = Probe(ready=False, answered=False, address=address, detail=reason, hopeless=hopeless)
    elapsed = round((time.perf_counter() - began) * 1000, 3)
    return msgspec.structs.replace(seen, elapsed_ms=elapsed)


def _look(ready: Ready, timeout: float, headers: dict[str, str]) -> str:
    """What is wrong, or ""."""
    if ready.tcp:
        return _connect(ready.tcp, timeout)
    return _greet(ready.postgres, timeout) if ready.postgres else _ask(ready, timeout, headers)


def _opened(address: str, timeout: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise ValueError(f"{address!r} is not HOST:PORT")
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


def _greet(address: str, timeout: float) -> str:
    """Begin a session as `pg_isready` does, and end it before anything is proven of who asks.

    Any answer of PostgreSQL will do, also that the account may not connect, but for "not now".
    """
    with _opened(address, timeout) as connection:
        connection.settimeout(timeout)
        connection.sendall((len(STARTUP) + 4).to_bytes(4) + STARTUP)
        said = connection.recv(ANSWER_BYTES)
    if not said:
        raise OSError("closed the connection without an answer")
    if said[:1] not in b"RE" or int.from_bytes(said[1:5]) > ANSWER_BYTES:
        return "not an answer of PostgreSQL"
    fields = {field[:1]: field[1:] for field in said[5:].split(b"\0")}
    if said[:1] == b"E" and fields.get(b"C") == CANNOT_CONNECT_NOW:
        return fields.get(b"M", b"").decode("utf-8", "replace")
    return ""


def _connect(address: str, timeout: float) -> str:
    with _opened(address, timeout) as connection:
        connection.settimeout(min(timeout, HANG_UP_S))
        try:
            gone = connection.recv(1, socket.MSG_PEEK) == b""
        except TimeoutError:
            return ""  # it waits for a question, as most servers do
        except ConnectionResetError:
            gone = True
    if gone:
        raise OSError("hangs up at once, as Docker's proxy does while nothing listens behind it")
    return ""


def _ask(ready: Ready, timeout: float, headers: dict[str, str]) -> str:
    from http.client import HTTPConnection, HTTPException, HTTPSConnection, RemoteDisconnected

    url = urlsplit(ready.http)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError(f"{ready.http!r} is not an http URL")
    kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
    connection = kind(url.hostname, url.port, timeout=timeout)
    try:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", target, headers={"Connection": "close", **headers, **ready.headers})
        return _judge(ready, connection.getresponse())
    except RemoteDisconnected:
        raise OSError("closed the connection without an answer") from None
    except HTTPException as error:
        return f"not an HTTP answer ({type(error).__name__})"
    finally:
        connection.close()


def _judge(ready: Ready, answer: HTTPResponse) -> str:
    """What is wrong with an answer, or ""."""
    if answer.status != ready.status:
        return f"HTTP {answer.status} instead of {ready.status}"
    if not ready.body:
        return ""
    try:
        content = answer.read(BODY_BYTES + 1)
        if len(content) > BODY_BYTES:
            return f"the body is larger than {BODY_BYTES >> 20} MiB"
        body = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return "the body is not JSON"
    return _difference(ready.body, body, "")


def _difference(wanted: Any, found: Any, where: str) -> str:
    """The first value of `wanted` that `found` does not have; further ones in `found` do not matter."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return f"{where or 'the body'} is not an object"
        for key, value in wanted.items():
            name = f"{where}.{key}" if where else str(key)
            wrong = _difference(value, found[key], name) if key in found else f"{name} is missing"
            if wrong:
                return wrong
        return ""
    return "" if wanted == found else f"{where or 'the body'} is {found!r} instead of {wanted!r}"

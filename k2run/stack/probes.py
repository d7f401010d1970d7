"""Probe whether a service is ready: a port that answers, or an HTTP answer with the right things in it.

Kept to the standard library: these probes run before anything else of k2run is needed.
"""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from k2run.stack.model import Ready

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from k2run.stack.model import Service

HANG_UP_S = 0.05
"""How long an accepted connection is watched: a proxy accepts for a service that does not listen, and then hangs up."""
STARTUP = (3 << 16).to_bytes(4) + b"user\0postgres\0database\0postgres\0\0"
"""PostgreSQL's protocol, 54.7, StartupMessage without its length: version 3.0 and who asks."""
CANNOT_CONNECT_NOW = b"57P03"
"""PostgreSQL's error code while it starts, recovers after a crash, or shuts down."""
ANSWER_BYTES = 4096
BODY_BYTES = 2**20
"""At most this much of an answer is read."""


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

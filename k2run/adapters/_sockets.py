"""Sockets that obey a deadline: every wait is short, and asks the deadline whether to go on.

httpcore hands a request's `timeout` to its network stream as it is, so the `Deadline` of the step itself travels there:
a server that sends one byte a second cannot stretch it, and a run that is asked to end does not wait for a slow answer.
The classes have the shape of `httpcore.NetworkBackend` and `httpcore.NetworkStream`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import threading
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from k2run.actions.deadline import Deadline

T = TypeVar("T")

SLICE = 0.2
"""Seconds of one wait; a request to stop is noticed within it."""

Address = tuple[socket.AddressFamily, tuple[Any, ...]]


class SocketBackend:
    """Connects; what httpcore calls a network backend."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: Deadline,
        local_address: str | None = None,  # noqa: ARG002 - httpcore's interface
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - httpcore's interface
    ) -> SocketStream:
        """Connect to the first address of `host` that answers.

        Raises:
            OSError: No address answers, or the name is not known.
            TimedOut: The deadline passed first.
        """
        failure: OSError = OSError(f"{host} has no address")
        for family, address in _resolve(host, port, timeout):
            try:
                return SocketStream(_connect(family, address, timeout))
            except OSError as error:
                failure = error
        raise failure


class SocketStream:
    """One connection; what httpcore calls a network stream."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def read(self, max_bytes: int, timeout: Deadline) -> bytes:
        """At most `max_bytes`, as soon as there are any; empty when the server closed."""
        return _patiently(self._socket, timeout, lambda: self._socket.recv(max_bytes))

    def write(self, buffer: bytes, timeout: Deadline) -> None:
        """All of `buffer`."""
        rest = memoryview(buffer)
        while rest:
            sent = _patiently(self._socket, timeout, lambda: self._socket.send(rest))  # noqa: B023 - called at once
            rest = rest[sent:]

    def close(self) -> None:
        """Close; whatever happened before."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: Deadline | None = None
    ) -> SocketStream:
        """The same connection, encrypted."""
        if timeout is None:
            raise ValueError("TLS needs the deadline of its step")
        try:
            secured = ssl_context.wrap_socket(
                self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            _patiently(secured, timeout, secured.do_handshake)
        except BaseException:
            self.close()
            raise
        return SocketStream(secured)

    def get_extra_info(self, info: str) -> Any:
        """`is_readable` tells httpcore that an idle connection was closed by the server."""
        if info == "is_readable":
            return _readable_now(self._socket)
        if info == "ssl_object":
            return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        return None


def _patiently(waiting: socket.socket, deadline: Deadline, attempt: Callable[[], T]) -> T:
    """Try again after each slice of waiting, until the deadline says no."""
    while True:
        waiting.settimeout(deadline.at_most(SLICE))
        try:
            return attempt()
        except TimeoutError:
            continue


def _connect(family: socket.AddressFamily, address: tuple[Any, ...], deadline: Deadline) -> socket.socket:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connecting.setblocking(False)
        code = connecting.connect_ex(address)
        if code == errno.EINPROGRESS:
            code = _outcome(connecting, deadline)
    except BaseException:
        connecting.close()
        raise
    if code:
        connecting.close()
        raise OSError(code, os.strerror(code))
    return connecting


def _outcome(connecting: socket.socket, deadline: Deadline) -> int:
    """The error number that connecting ends with; 0 is success."""
    poll = select.poll()
    poll.register(connecting, select.POLLOUT)
    while not poll.poll(deadline.at_most(SLICE) * 1000):
        pass
    return connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _readable_now(idle: socket.socket) -> bool:
    if idle.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(idle, select.POLLIN)
    return bool(poll.poll(0))


def _resolve(host: str, port: int, deadline: Deadline) -> list[Address]:
    """The addresses of a host; a name is looked up in a thread, because the system's resolver knows no deadline."""
    if _is_literal(host):
        return _look_up(host, port)
    found: list[list[Address] | OSError] = []
    known = threading.Event()

    def look_up() -> None:
        try:
            found.append(_look_up(host, port))
        except OSError as error:
            found.append(error)
        known.set()

    threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
    while not known.wait(deadline.at_most(SLICE)):
        pass
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def _look_up(host: str, port: int) -> list[Address]:
    return [(family, address) for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

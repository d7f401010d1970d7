"""Sockets that obey a deadline: every wait is short, and asks the deadline whether to go on.

A server that sends one byte a second cannot stretch a step, and a run that is asked to end does not wait for an answer.
"""

from __future__ import annotations

import errno
import io
import os
import select
import socket
import threading
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from typing_extensions import Buffer

    from k2run.actions.deadline import Deadline

T = TypeVar("T")

SLICE = 0.2
"""Seconds of one wait; a request to stop is noticed within it."""

Address = tuple[socket.AddressFamily, tuple[Any, ...]]


class PatientSocket:
    """A connected socket, with as much of `socket.socket` as `http.client` uses.

    Attributes:
        deadline: That of the step which uses it now.
    """

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        self._socket = connected
        self.deadline = deadline

    def sendall(self, data: Buffer) -> None:
        """All of it."""
        rest = memoryview(data)
        while rest:
            rest = rest[_patiently(self._socket, self.deadline, lambda: self._socket.send(rest)) :]  # noqa: B023 - called at once

    def makefile(self, mode: str) -> io.BufferedReader:
        """A file to read from; closing it leaves the socket open."""
        if mode != "rb":
            raise ValueError(mode)
        return io.BufferedReader(_Incoming(self))

    def recv_into(self, buffer: Buffer) -> int:
        """What there is, as soon as there is anything; 0 when the other side closed."""
        return _patiently(self._socket, self.deadline, lambda: self._socket.recv_into(buffer))

    def secured(self, context: ssl.SSLContext, server_name: str) -> PatientSocket:
        """The same connection, encrypted.

        Raises:
            ssl.SSLError: The two do not agree, or the certificate is not trusted.
        """
        wrapped = context.wrap_socket(self._socket, server_hostname=server_name, do_handshake_on_connect=False)
        try:
            _patiently(wrapped, self.deadline, wrapped.do_handshake)
        except BaseException:
            wrapped.close()
            raise
        return PatientSocket(wrapped, self.deadline)

    def is_stale(self) -> bool:
        """The other side closed it, or says something without being asked."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class _Incoming(io.RawIOBase):
    def __init__(self, source: PatientSocket) -> None:
        super().__init__()
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        return self._source.recv_into(buffer)


def connect(host: str, port: int, deadline: Deadline) -> PatientSocket:
    """Connect to the first address of `host` that answers.

    Raises:
        OSError: No address answers, or the name is not known.
        TimedOut: The deadline passed first.
    """
    failure = OSError(f"{host} has no address")
    for family, address in _resolve(host, port, deadline):
        try:
            return PatientSocket(_connect(family, address, deadline), deadline)
        except OSError as error:
            failure = error
    raise failure


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

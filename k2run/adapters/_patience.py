"""httpx under the deadline of a step: every wait for an answer is short, and asks the deadline whether to go on.

httpx bounds each read. A server that sends one byte a second could stretch a step all the same, and a request to stop
would not be heard before the read is over; so the waiting is cut into slices one layer below.
"""

from __future__ import annotations

import ssl
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from k2run.adapters._tls import Tls, trust

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.actions.deadline import Deadline

SLICE = 0.2
"""Seconds of one wait; a request to stop is noticed within it."""
KEPT_FOR = 2.0
"""Seconds that an idle connection is kept: shorter than servers keep theirs, so that none is closed under a request."""
CONNECTIONS = 256


class _Thread(threading.local):
    """The deadline of the step that this thread asks for."""

    deadline: Deadline | None = None

    def slice(self) -> float | None:
        """Seconds of the next wait.

        Raises:
            TimedOut: The deadline passed.
            Interrupted: The run was asked to end.
        """
        return None if self.deadline is None else self.deadline.at_most(SLICE)

    def rest(self) -> float | None:
        """All the seconds that are left."""
        return None if self.deadline is None else self.deadline.remaining()


_thread = _Thread()


class _Stream(httpcore.NetworkStream):
    """A connection whose reads are patient. Writes get the whole rest: a part of one cannot be sent again."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the thread's deadline rules
        while True:
            try:
                return self._stream.read(max_bytes, timeout=_thread.slice())
            except httpcore.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the thread's deadline rules
        self._stream.write(buffer, timeout=_thread.rest())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the thread's deadline rules
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout=_thread.rest()))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    """Opens patient connections."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the thread's deadline rules
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        opened = super().connect_tcp(host, port, _thread.rest(), local_address, socket_options)
        return _Stream(opened)


class PatientTransport(httpx.HTTPTransport):
    """An httpx transport with a pool of patient connections; no cookies, no credentials, no redirects of its own.

    Args:
        tls: How servers are trusted; None where only plain HTTP is spoken.
    """

    def __init__(self, tls: Tls | None) -> None:
        context = trust(tls) if tls is not None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        super().__init__(verify=context)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=KEPT_FOR,
            network_backend=_Backend(),
        )


def ask(request: httpx.Request, tls: Tls | None, deadline: Deadline) -> httpx.Response:
    """Send a request and read the head of its answer; the caller reads the body (in the same thread) and closes it.

    Raises:
        httpx.HTTPError: Nobody answers, or what comes is no answer.
        Refused: The files of `tls` cannot be used.
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    _thread.deadline = deadline
    return transport(tls).handle_request(request)


@cache
def transport(tls: Tls | None) -> PatientTransport:
    """The transport for such trust, one for all threads."""
    return PatientTransport(tls)

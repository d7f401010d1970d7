"""httpcore under the deadline of a step: every wait for an answer is short, and asks the deadline whether to go on.

httpcore is the engine of httpx. The transport of httpx takes no network backend, so slices would need httpcore beside
it; its first request costs 75 ms more (import included), each other a fifth more.

httpcore bounds each read. A server that sends one byte a second could stretch a step all the same, and a request to
stop would not be heard before the read ends; so waits are cut into slices one layer below.
"""

from __future__ import annotations

import ssl
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import httpcore

from k2run.adapters.http.endpoint import Tls, trust

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
        # As bytes: the standard library loads its tables for international names for any host given as text.
        name: Any = host.encode() if host.isascii() else host
        return _Stream(super().connect_tcp(name, port, _thread.rest(), local_address, socket_options))


def ask(request: httpcore.Request, tls: Tls | None, deadline: Deadline) -> httpcore.Response:
    """Send a request and read the head of its answer; the caller reads the body (in the same thread) and closes it.

    Without `tls` it is plain HTTP.

    Raises:
        httpcore.NetworkError, httpcore.ProtocolError: Nothing answers, or what comes is no answer.
        Refused: The files of `tls` cannot be used.
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    _thread.deadline = deadline
    return pool(tls).handle_request(request)


@cache
def pool(tls: Tls | None) -> httpcore.ConnectionPool:
    """The connections for such trust, for all threads; no cookies, no credentials, no redirects of its own."""
    return httpcore.ConnectionPool(
        ssl_context=trust(tls) if tls is not None else None,
        max_connections=CONNECTIONS,
        max_keepalive_connections=CONNECTIONS,
        keepalive_expiry=KEPT_FOR,
        network_backend=_Backend(),
    )

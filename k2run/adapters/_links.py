"""Kept HTTP/1.1 connections: one request and its answer on each, again and again, from whichever thread.

The standard library's http.client reads and writes them, over sockets that know the deadline.
"""

from __future__ import annotations

import ssl
import time
import zlib
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from k2run.adapters._sockets import connect
from k2run.errors import Refused

if TYPE_CHECKING:
    from k2run.actions.deadline import Deadline

LARGEST_BODY = 64 * 2**20
"""Bytes of a (decoded) body; more is refused, so that a wrong URL cannot fill the memory."""
KEPT_FOR = 15.0
"""Seconds that an idle connection is kept."""
CHUNK = 256 * 1024
SHOWN = 100


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an HTTPS server is trusted and how the client shows itself.

    Attributes:
        verify: Whether the server's certificate must be valid.
        ca: File with the certificates to trust; empty means the system's.
        certificate: File with the client's certificate.
        private_key: File with its key, unless the certificate's file has it.
    """

    verify: bool = True
    ca: str = ""
    certificate: str = ""
    private_key: str = ""


TRUSTING_THE_SYSTEM = Tls()


class Place(NamedTuple):
    """A server, and how it is trusted; `tls` is None for plain HTTP."""

    host: str
    port: int
    tls: Tls | None


class _Link:
    """One kept connection."""

    __slots__ = ("http", "socket", "used")

    def __init__(self, place: Place, deadline: Deadline) -> None:
        plain = connect(place.host, place.port, deadline)
        self.socket = plain if place.tls is None else plain.secured(trust(place.tls), place.host)
        self.http = HTTPConnection(place.host, place.port)
        self.http.sock = self.socket
        self.http.auto_open = 0
        self.used = 0.0

    def is_usable(self) -> bool:
        return time.monotonic() - self.used < KEPT_FOR and not self.socket.is_stale()


_kept: defaultdict[Place, list[_Link]] = defaultdict(list)
"""Idle connections. Lists only lose and gain their last element, which is atomic."""


class Message(NamedTuple):
    """One request as it goes over the wire."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes


class Reply(NamedTuple):
    """One answer: header names in lower case, the body decoded."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(place: Place, message: Message, deadline: Deadline, *, repeatable: bool) -> Reply:
    """Send a request on a kept connection, or a new one, and read its answer.

    Args:
        repeatable: The request may be sent again when a kept connection turns out to be closed.

    Raises:
        OSError: Nobody answers, or the connection breaks.
        HTTPException: What comes back is not a whole HTTP answer.
        ValueError: The request makes no sense, or the answer is too large.
    """
    link = _take(place)
    if link is not None:
        try:
            return _talk(place, link, deadline, message)
        except ConnectionError:
            # The server closed it at the very moment of the request, which is nobody's failure.
            if not repeatable:
                raise
    return _talk(place, _Link(place, deadline), deadline, message)


def _take(place: Place) -> _Link | None:
    kept = _kept[place]
    while kept:
        try:
            link = kept.pop()
        except IndexError:  # another thread was faster
            return None
        if link.is_usable():
            return link
        link.socket.close()
    return None


def _talk(place: Place, link: _Link, deadline: Deadline, message: Message) -> Reply:
    link.socket.deadline = deadline
    try:
        http = link.http
        http.putrequest(message.method, message.path, skip_host=True, skip_accept_encoding=True)
        for name, value in message.headers.items():
            http.putheader(name, value)
        http.endheaders(message.content or None)
        response = http.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        body = _body(response, headers)
    except BaseException:
        link.socket.close()
        raise
    if response.will_close:
        link.socket.close()
    else:
        link.used = time.monotonic()
        _kept[place].append(link)
    return Reply(response.status, headers, body)


def _body(response: HTTPResponse, headers: Mapping[str, str]) -> bytes:
    zipped = headers.get("content-encoding", "").lower() in {"gzip", "x-gzip"}
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16) if zipped else None  # 16: with gzip's own header
    body = bytearray()
    while chunk := response.read(CHUNK):
        body += inflate.decompress(chunk, LARGEST_BODY + 1) if inflate else chunk
        if len(body) > LARGEST_BODY:
            raise ValueError(f"its answer is larger than {LARGEST_BODY >> 20} MiB")
    if response.length:
        raise IncompleteRead(bytes(body[:SHOWN]), response.length)
    return bytes(body)


@cache
def trust(tls: Tls) -> ssl.SSLContext:
    """The SSL context for such trust.

    Raises:
        Refused: A file is missing or is no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca or None)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.private_key or None)
    except OSError as error:
        raise Refused(
            f"the TLS files cannot be used: {error}", hint="look at tls: {ca, certificate, private_key}"
        ) from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

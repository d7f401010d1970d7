"""One HTTP exchange under the deadline of a step: what `http`, `metrics` and `prometheus` have in common.

It speaks through httpcore, the engine below httpx: half the time to import, a third of the work per request.
Connections are kept in one thread-safe pool per TLS setting; plain HTTP never builds an SSL context.
"""

from __future__ import annotations

import ssl
import time
import zlib
from base64 import b64encode
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlencode, urljoin, urlsplit, urlunsplit

from msgspec import Struct

from k2run.adapters._sockets import SocketBackend
from k2run.errors import Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpcore

    from k2run.actions.deadline import Deadline

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
LARGEST_BODY = 64 * 2**20
"""Bytes of a (decoded) body; more is refused, so that a wrong URL cannot fill the memory."""
PAUSE_BEFORE_RETRY = 0.25
"""Seconds."""
_PASSING = frozenset({502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to ask.

    Attributes:
        retries: How often an idempotent request is tried again when nobody answers, or with 502, 503 or 504.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    follow_redirects: bool = True
    retries: int = 0
    tls: Tls = TRUSTING_THE_SYSTEM

    @property
    def address(self) -> str:
        """The URL as it may be shown: without a user or password in it."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. `elapsed` is in seconds, from the first attempt to connect to the last byte of the body."""

    url: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    elapsed: float

    @property
    def text(self) -> str:
        """The body as text, in the character set that the server names."""
        _, _, charset = self.headers.get("content-type", "").lower().partition("charset=")
        try:
            return self.content.decode(charset.split(";")[0].strip("\"' ") or "utf-8", "replace")
        except LookupError:
            return self.content.decode("utf-8", "replace")

    @property
    def status_line(self) -> str:
        """Such as `503 Service Unavailable`."""
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return str(self.status)


def with_query(url: str, params: Mapping[str, Any]) -> str:
    """The URL with parameters added; lists repeat the parameter, booleans are `true` and `false`, None is left out."""
    pairs = [
        (name, str(value).lower() if isinstance(value, bool) else value)
        for name, given in params.items()
        for value in (given if isinstance(given, list | tuple) else [given])
        if value is not None
    ]
    if not pairs:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, [parts.query, urlencode(pairs)]))))


def identified(url: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with those that every request needs: the host, who asks, and a user and password of the URL."""
    user, _, host = urlsplit(url).netloc.rpartition("@")
    needed = {"Host": host, "User-Agent": "k2run"}
    if user:
        needed["Authorization"] = f"Basic {b64encode(unquote(user).encode()).decode()}"
    given = {name.lower() for name in headers}
    return {name: value for name, value in needed.items() if name.lower() not in given} | dict(headers)


def send(request: Request, deadline: Deadline) -> Answer:
    """Ask, and read the whole answer, whatever its status.

    Raises:
        Unreachable: Nobody answers, or the answer breaks off.
        Refused: The certificate is not trusted, the URL makes no sense, the body is too large.
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    attempts = 1 + (request.retries if request.method in IDEMPOTENT else 0)
    for left in reversed(range(attempts)):
        try:
            answer = _follow(request, deadline)
        except Unreachable:
            if not left:
                raise
        else:
            if not left or answer.status not in _PASSING:
                return answer
        deadline.sleep(PAUSE_BEFORE_RETRY)
    raise AssertionError("the last attempt returns or raises")


def _follow(request: Request, deadline: Deadline) -> Answer:
    started = time.perf_counter()
    method, url, headers = request.method, request.url, dict(request.headers)
    for _ in range(_MOST_REDIRECTS):
        status, answered, content = _exchange(request, method, url, headers, deadline)
        target = answered.get("location") if status in _REDIRECTS and request.follow_redirects else None
        if target is None:
            elapsed = time.perf_counter() - started
            return Answer(url=url, status=status, headers=answered, content=content, elapsed=elapsed)
        moved = urljoin(url, target)
        if urlsplit(moved)[:2] != urlsplit(url)[:2]:
            headers = {}  # an API key belongs to the server it was meant for
        if status == HTTPStatus.SEE_OTHER or (method == "POST" and status < HTTPStatus.TEMPORARY_REDIRECT):
            method = "GET"
        url = moved
    raise Refused(f"{request.address} redirects more than {_MOST_REDIRECTS} times")


def _exchange(
    request: Request, method: str, url: str, headers: Mapping[str, str], deadline: Deadline
) -> tuple[int, dict[str, str], bytes]:
    import httpcore

    content = request.content if method == request.method else b""
    patience = {"connect": deadline, "read": deadline, "write": deadline, "pool": deadline.remaining()}
    for again in (True, False):
        try:
            with _pool(request.tls if url.startswith("https:") else None).stream(
                method,
                url,
                headers=[*_framed(url, headers, content).items()],
                content=content,
                extensions={"timeout": patience},
            ) as response:
                answered = {name.decode("ascii").lower(): value.decode("latin-1") for name, value in response.headers}
                return response.status, answered, _body(response, answered, request.address)
        except httpcore.RemoteProtocolError as error:
            # A kept connection that the server closes at the very moment of the request is nobody's failure.
            if again and method in IDEMPOTENT and "without sending" in str(error):
                continue
            raise Unreachable(f"{request.address} broke off its answer: {error}") from error
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"the certificate of {request.address} is not trusted: {error.verify_message}",
                hint="set tls: {ca: FILE}, or tls: {verify: false} where that is acceptable",
            ) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unreachable(
                f"{request.address} does not answer: {reason}", hint="is the service up, and its url right?"
            ) from error
        except (httpcore.UnsupportedProtocol, httpcore.LocalProtocolError, ValueError, zlib.error) as error:
            raise Refused(f"{request.address or 'the empty URL'} cannot be asked: {error}") from error
    raise AssertionError("the second attempt returns or raises")


def _framed(url: str, headers: Mapping[str, str], content: bytes) -> dict[str, str]:
    framed = {"Accept-Encoding": "gzip"} | identified(url, headers)
    return framed | {"Content-Length": str(len(content))} if content else framed


def _body(response: httpcore.Response, headers: Mapping[str, str], address: str) -> bytes:
    zipped = headers.get("content-encoding", "").lower() in {"gzip", "x-gzip"}
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16) if zipped else None  # 16: with gzip's own header
    body = bytearray()
    for chunk in response.iter_stream():
        body += inflate.decompress(chunk, LARGEST_BODY + 1) if inflate else chunk
        if len(body) > LARGEST_BODY:
            raise Refused(f"the answer of {address} is larger than {LARGEST_BODY >> 20} MiB")
    return bytes(body)


@cache
def _pool(tls: Tls | None) -> httpcore.ConnectionPool:
    import httpcore

    # Without an upper bound: the engine bounds how many steps run at once, and a step must not wait for a connection.
    return httpcore.ConnectionPool(
        ssl_context=trust(tls) if tls else None,
        max_connections=None,
        max_keepalive_connections=None,
        keepalive_expiry=15,
        network_backend=cast("httpcore.NetworkBackend", SocketBackend()),
    )


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

"""HTTP exchanges under the deadline of a step, and systems that are asked for JSON that way."""

from __future__ import annotations

import ssl
import time
import zlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import msgspec

from k2run.actions.action import beginning
from k2run.adapters._answers import MISREAD
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls
from k2run.errors import Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    import httpcore

    from k2run.actions.deadline import Deadline


IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
PAUSE_BEFORE_RETRY = 0.25
"""Seconds."""
_AS_WRITTEN = "%/:=&?~#+!$,;'@()*[]{}|"
"""What a URL keeps as it is; anything else beyond ASCII letters and digits is percent-encoded."""
LARGEST_BODY = 64 * 2**20
"""Bytes of a (decoded) body; more is refused, so that a wrong URL cannot fill the memory."""
_PASSING = frozenset({502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10
_CLOSED = frozenset({401, 403})
SHOWN = 300
"""Characters of a refusing answer that an error quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to ask.

    Attributes:
        retries: How often an idempotent request is tried again when nothing answers, or with 502, 503 or 504.
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
        return _without_user(self.url)


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


class _Reply(NamedTuple):
    """One answer: header names in lower case, the body decoded."""

    status: int
    headers: dict[str, str]
    body: bytes


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
        Unreachable: Nothing answers, or the answer breaks off.
        Refused: The certificate is not trusted, the URL is invalid, the body is too large.
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    attempts = 1 + (request.retries if request.method in IDEMPOTENT else 0)
    for left in reversed(range(attempts)):
        try:
            answer = _follow(request, deadline)
        except TimedOut as error:
            raise TimedOut(
                f"{request.address} has not answered within {deadline.seconds:g}s",
                hint="is it up and healthy? or raise the step's timeout",
            ) from error
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


def _exchange(request: Request, method: str, url: str, headers: Mapping[str, str], deadline: Deadline) -> _Reply:
    """One request and its answer."""
    import httpcore

    from k2run.adapters.http.transport import ask

    content = request.content if method == request.method else b""
    try:
        framed = {"Accept": "*/*", "Accept-Encoding": "gzip"} | _sendable(identified(url, headers))
        if content:
            framed["Content-Length"] = str(len(content))
        asked = httpcore.Request(method, _encoded(url), headers=list(framed.items()), content=content)
        answer = ask(asked, request.tls if url.startswith("https:") else None, deadline)
        try:
            answered = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
            return _Reply(answer.status, answered, _body(answer, answered.get("content-encoding", "")))
        finally:
            answer.close()
    except httpcore.ConnectionNotAvailable as error:
        raise Unreachable(f"{request.address}: too many connections at once") from error
    except (httpcore.RemoteProtocolError, zlib.error) as error:
        raise Unreachable(f"{request.address} broke off its answer: {error}") from error
    except (httpcore.NetworkError, httpcore.TimeoutException) as error:
        raise _no_answer(request.address, error) from error
    except (httpcore.UnsupportedProtocol, httpcore.LocalProtocolError, ValueError) as error:
        raise Refused(f"{request.address or 'the empty URL'} cannot be asked: {error}") from error


def _sendable(headers: dict[str, str]) -> dict[str, str]:
    """The headers, when HTTP takes them.

    Raises:
        ValueError: One has a line break in it, or a character beyond ASCII.
    """
    for name, value in headers.items():
        if not (name + value).isascii() or set(name + value) & set("\r\n\0"):
            raise ValueError(f"the header {name!r} has a character that HTTP does not allow")
    return headers


def _no_answer(address: str, error: Exception) -> Unreachable | Refused:
    """What it means that nothing answers: a certificate that is not trusted is a refusal."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Refused(
            f"the certificate of {address} is not trusted: {cause.verify_message}",
            hint="set tls: {ca: FILE}, or tls: {verify: false} where that is acceptable",
        )
    said = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)
    return Unreachable(f"{address} does not answer: {said}", hint="is the service up, and its url right?")


def _body(answer: httpcore.Response, encoding: str) -> bytes:
    """The whole body, decompressed."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16) if encoding.lower() in {"gzip", "x-gzip"} else None  # 16: gzip
    body = bytearray()
    for chunk in answer.iter_stream():
        body += inflate.decompress(chunk, LARGEST_BODY + 1) if inflate else chunk
        if len(body) > LARGEST_BODY:
            raise ValueError(f"its answer is larger than {LARGEST_BODY >> 20} MiB")
    return bytes(body)


def _encoded(url: str) -> str:
    """The URL as it goes over the wire: without a user, and with what is not allowed in it percent-encoded.

    Raises:
        ValueError: It is no URL of the web.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("a URL begins with http:// or https:// and a host")
    _ = parts.port  # raises when it is none
    kept = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path or "/", fragment="")
    return quote(urlunsplit(kept), safe=_AS_WRITTEN)


def _without_user(url: str) -> str:
    """The URL without a user and password; they go into a header. What cannot be read as a URL is not shown."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the URL"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class Api(NamedTuple):
    """Where such a system answers.

    Attributes:
        name: What an error calls it: "the schema registry".
        url: Its base URL.
        setting: The connection in the stack file that an error points to: `connections.grafana`.
    """

    name: str
    url: str
    setting: str
    headers: Mapping[str, str]
    tls: Tls = TRUSTING_THE_SYSTEM

    def ask(
        self,
        deadline: Deadline,
        path: str,
        *,
        method: str = "GET",
        sent: Any = None,
        media_type: str = "application/json",
    ) -> Answer:
        """One exchange, whatever its status.

        Raises:
            Unreachable: Nothing answers.
            TimedOut: The deadline passed first.
        """
        headers = {"Accept": "application/json", **self.headers}
        content = b""
        if sent is not None:
            headers["Content-Type"] = media_type
            content = msgspec.json.encode(sent)
        url = self.url.rstrip("/") + path
        try:
            return send(Request(url=url, method=method, headers=headers, content=content, tls=self.tls), deadline)
        except Unreachable as error:
            raise Unreachable(error.message, hint=f"is {self.name} up? see {self.setting} in the stack file") from error

    def read(self, answer: Answer, kind: Any) -> Any:
        """A good answer as `kind`.

        Raises:
            Refused: It is not what such a system answers.
        """
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except MISREAD as error:
            raise Refused(
                f"{self.url} does not answer like {self.name} ({answer.status_line}): {error}",
                hint=f"see {self.setting}.url in the stack file",
            ) from error

    def refusal(self, answer: Answer, doing: str, said: str = "") -> Refused:
        """The error for an answer that says no."""
        hint = f"see the credentials of {self.setting} in the stack file" if answer.status in _CLOSED else ""
        cause = said or beginning(" ".join(answer.text.split()), SHOWN)
        return Refused(f"{self.url} refused to {doing}: {answer.status_line}{': ' * bool(cause)}{cause}", hint=hint)


def basic(user: str, password: str) -> dict[str, str]:
    """The header of basic authentication; nothing without a user."""
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"} if user else {}

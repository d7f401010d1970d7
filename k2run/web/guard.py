"""Who may do what: tokens and sessions; the checks before every request (host, rate, size, time, origin)."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections import OrderedDict
from contextlib import suppress
from enum import IntEnum
from hashlib import sha256
from secrets import token_hex, token_urlsafe
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from k2run.errors import OperatorError
from k2run.files import Spent, account_name, look_private, make_private

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FILE = "tokens"
_NAME = re.compile(r"[\w.@+-]{1,64}")
_SHORTEST = 16
_DIGITS = 12
_SKEW_S = 60.0
"""Seconds by which a clock that was set back may make a session begin in the future."""
SESSION_S = 12 * 3600.0
"""Seconds after which a session ends, whatever the browser has kept."""
_HEAD = """\
# Who may use `k2run serve`: role, name, token. Roles: viewer (reads), operator (also starts, answers, aborts),
# approver (also confirms what only a person can vouch for). Removing a line ends its sessions at once.
"""
HOOKS = "/hooks/"
"""Below this, programs call: they prove themselves in their own way, send no origin, and may send more."""
SIGN_IN = "/enter"
SIGNED = ("authorization", "x-k2run-signature")
"""Headers by which a program says who it is."""
UNAUTHORIZED = 401
LINGER_BYTES, LINGER_S = 1024 * 1024, 2.0
"""How much of a refused body is still taken, and for how many seconds."""
READING = frozenset({"GET", "HEAD"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; manifest-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with `no-referrer`, browsers would hide the origin of our own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Role(IntEnum):
    """What a user may do; each role includes those before it."""

    ANONYMOUS = 0
    VIEWER = 1
    OPERATOR = 2
    APPROVER = 3

    @property
    def word(self) -> str:
        """Its name as people write it."""
        return self.name.lower()


class User(Struct, frozen=True, kw_only=True):
    """The user of a request.

    Attributes:
        csrf: What a form of this session must carry; empty for a bearer token, which no browser sends by itself.
    """

    name: str = ""
    role: Role = Role.ANONYMOUS
    csrf: str = ""


class TokenEntry(Struct, frozen=True, kw_only=True):
    """A line of the token file."""

    role: Role
    name: str
    token: str


class Tokens:
    """The token file of a k2run home, which is read again whenever it has changed, and the sessions it has opened."""

    def __init__(self, home: Path) -> None:
        self.path = home / FILE
        self._ended = Spent(home / "serve" / "ended-sessions", SESSION_S)
        self._seen: tuple[int, int] | None = None
        self._entries: tuple[TokenEntry, ...] = ()

    def ensure(self) -> TokenEntry:
        """The first entry of the file; when there is no file, one is made with an approver's token for this account.

        Raises:
            OperatorError: The file cannot be used, or other accounts can read it.
        """
        make_private(self.path, f"{_HEAD}approver {account_name()} k2_{token_urlsafe(24)}\n")
        entries = self._read()
        if not entries:
            raise OperatorError(f"{self.path} has no entries", hint="delete it; `k2run serve` makes a new one")
        return entries[0]

    def by_token(self, token: str) -> User:
        """The user of a token; anonymous when it is unknown."""
        found = [entry for entry in self._read() if hmac.compare_digest(entry.token.encode(), token.encode())]
        return User(name=found[0].name, role=found[0].role) if found else User()

    def open_session(self, token: str, now: float) -> str:
        """The cookie of a new session for the user of a token; empty when it is unknown."""
        who = self.by_token(token)
        mark = f"{int(now)}.{token_hex(16)}"
        return f"{who.name}:{mark}:{_sign(token, 'session', who.name, mark)}" if who.role else ""

    def by_session(self, cookie: str, now: float) -> User:
        """The user of a session; anonymous when it is forged, expired or signed out, or its token is gone."""
        name, _, rest = cookie.partition(":")
        mark, _, signature = rest.partition(":")
        if not _is_fresh(mark, now) or mark in self._ended:
            return User()
        for entry in self._read():
            good = _sign(entry.token, "session", entry.name, mark)
            if entry.name == name and hmac.compare_digest(good.encode(), signature.encode()):
                return User(name=name, role=entry.role, csrf=_sign(entry.token, "form", name, mark))
        return User()

    def end_session(self, cookie: str) -> None:
        """End a session, whatever the browser keeps."""
        mark = cookie.split(":")[1]
        if self._ended.take(mark):
            self._ended.keep(mark)

    def _read(self) -> tuple[TokenEntry, ...]:
        try:
            text, seen = look_private(self.path)
        except FileNotFoundError:
            return ()
        if self._seen != seen:
            self._entries = tuple(
                _entry(line, self.path, number)
                for number, line in enumerate(text.splitlines(), start=1)
                if line.strip() and not line.lstrip().startswith("#")
            )
            self._seen = seen
        return self._entries


def _is_fresh(mark: str, now: float) -> bool:
    """Whether a session was opened within the hours for which it lasts."""
    began = mark.partition(".")[0]
    return began.isdecimal() and began.isascii() and len(began) <= _DIGITS and -_SKEW_S <= now - int(began) < SESSION_S


def _entry(line: str, path: Path, number: int) -> TokenEntry:
    words = line.split()
    roles = {role.word: role for role in Role if role}
    if len(words) != 3 or words[0] not in roles or not _NAME.fullmatch(words[1]):  # noqa: PLR2004 - role, name, token
        raise OperatorError(f"{path}:{number}: expected a role, a name and a token", hint=f"roles: {', '.join(roles)}")
    if len(words[2]) < _SHORTEST:
        raise OperatorError(f"{path}:{number}: a token has at least {_SHORTEST} characters")
    return TokenEntry(role=roles[words[0]], name=words[1], token=words[2])


def _sign(token: str, *parts: str) -> str:
    return hmac.new(token.encode(), "\n".join(parts).encode(), sha256).hexdigest()


class Limits(Struct, frozen=True, kw_only=True):
    """What one client may take.

    Attributes:
        body_bytes: Size of a form.
        hook_bytes: Size of what a program sends.
        body_s: Seconds in which a body must have arrived.
        reads: Pages a second in the long run, from one address.
        changes: Forms a second in the long run, from one address.
        sign_ins: Tokens a second in the long run, from one address.
        burst_s: For how many seconds any of them may come at once.
    """

    body_bytes: int = 64 * 1024
    hook_bytes: int = 2 * 1024 * 1024
    body_s: float = 10.0
    reads: float = 50.0
    changes: float = 5.0
    sign_ins: float = 1.0
    burst_s: float = 20.0


class Rate:
    """Lets so many through for each key, and more only as time goes by.

    Args:
        per_s: How many a second in the long run.
        burst: How many at once.
    """

    REMEMBERED = 4096

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str) -> float:
        """Take one; the seconds to wait when there is none left, else 0."""
        now = time.monotonic()
        left = self._now_left(key, now)
        self._left.pop(key, None)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left, now)
        if len(self._left) > self.REMEMBERED:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_s

    def spent(self, key: str) -> float:
        """The seconds to wait, without taking one."""
        return max(0.0, (1 - self._now_left(key, time.monotonic())) / self._per_s)

    def _now_left(self, key: str, now: float) -> float:
        left, then = self._left.get(key, (self._burst, now))
        return min(self._burst, left + (now - then) * self._per_s)


class Guard:
    """Refuses requests that none of our pages would send.

    Args:
        app: What comes after.
        hosts: Names by which this server may be called; another name is a page elsewhere that was pointed here.
        limits: What one client may take.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], limits: Limits) -> None:
        self._app = app
        self._hosts = hosts
        self._limits = limits
        self._reads, self._changes, self._sign_ins = (
            Rate(per_s, per_s * limits.burst_s) for per_s in (limits.reads, limits.changes, limits.sign_ins)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == UNAUTHORIZED and _says_who(Headers(scope=scope)):
                    self._sign_ins.wait(_client(scope))  # a wrong token is a guess, wherever it is tried
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refusal(scope)
        if scope["method"] not in READING:
            if refused is None:
                limit = self._limits.hook_bytes if scope["path"].startswith(HOOKS) else self._limits.body_bytes
                refused, receive = await _read(scope, receive, limit, self._limits.body_s)
            if refused is not None:
                await _linger(receive)
        await (refused or self._app)(scope, receive, dressed)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            return _refuse(421, "unknown host name; see `k2run serve --allow`")
        client = _client(scope)
        reading = scope["method"] in READING
        hook = scope["path"].startswith(HOOKS)
        rate = self._reads if reading or hook else self._sign_ins if scope["path"] == SIGN_IN else self._changes
        wait = rate.wait(client) or (self._sign_ins.spent(client) if _says_who(headers) else 0.0)
        if wait:
            return _refuse(429, "too many requests; try again in a moment", {"retry-after": str(int(wait) + 1)})
        if not reading and not hook and not _ours(headers, host):
            return _refuse(403, "cross-site request refused")
        return None


def _client(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _says_who(headers: Headers) -> bool:
    """Whether a program shows a token or a signature."""
    return any(name in headers for name in SIGNED)


def _name(host: str) -> str:
    """A `Host` header without its port."""
    return host.rsplit(":", 1)[0].lower() if not host.endswith("]") else host.lower()


def _ours(headers: Headers, host: str) -> bool:
    """Whether a form was sent by a page of ours; a program that shows a token need not say where it comes from."""
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = headers.get("origin")
    if origin is None:
        return headers.get("authorization", "").startswith("Bearer ")
    return urlsplit(origin).netloc.lower() == host.lower()


async def _read(scope: Scope, receive: Receive, limit: int, seconds: float) -> tuple[PlainTextResponse | None, Receive]:
    """Read a whole body, within its limits, and hand it on as if it had come at once."""
    length = Headers(scope=scope).get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        return _refuse(413, f"at most {limit:,} bytes"), receive
    body = b""
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return _refuse(400, "cut off"), receive
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limit:
                    return _refuse(413, f"at most {limit:,} bytes"), receive
    except TimeoutError:
        return _refuse(408, f"the body did not arrive within {seconds:g}s"), receive
    whole = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        return next(whole, None) or await receive()

    return None, again


async def _linger(receive: Receive) -> None:
    """Take what is left of a refused body, within bounds: closing before it has come would take the answer away too."""
    taken = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while taken < LINGER_BYTES:
                message = await receive()
                taken += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _refuse(status: int, why: str, headers: dict[str, str] | None = None) -> PlainTextResponse:
    return PlainTextResponse(f"{why}\n", status, {"connection": "close", **(headers or {})})

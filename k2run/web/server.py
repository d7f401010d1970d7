"""`k2run serve`: the web application and its routes, limits of connections, the server until a signal ends it."""

from __future__ import annotations

import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from k2run.daemon.alerts.delivery import hooks_secret
from k2run.daemon.alerts.incident_messages import open_messages
from k2run.daemon.alerts.worker import Worker
from k2run.daemon.own_metrics import metrics_routes
from k2run.engine.store import Store
from k2run.errors import K2runError, OperatorError, UsageError
from k2run.stack.redactor import unsecret
from k2run.web import forms, incidents, pages, stack_pages
from k2run.web.fragments import icon, static
from k2run.web.guard import READING, UNAUTHORIZED, Guard, Limits
from k2run.web.listings import NotFound
from k2run.web.site import Denied, Site, site_of
from k2run.web.stack_pages import StackWatches

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Sequence

    from starlette.requests import Request

HEAD_S = 10.0
"""Seconds in which the head of a request must have arrived."""
QUIET_S = 60.0
"""Seconds between two identical log records."""
MOST, LEAST, RESERVED = 1000, 16, 96
"""Connections at once; file descriptors that are left to everything else: pages read files, and start runs."""
AT_ONCE, QUEUE = 16, 512
"""Connections accepted in one go before the first is served, and connections that may wait for that."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_TITLES = {
    400: "Bad request",
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    409: "Not possible now",
    503: "Busy",
}
PORT = 8642
HIGHEST_PORT = 65_535
TURN_S = 0.001
"""Seconds after which a thread that draws makes way for those who wait for an answer."""
PIPE_READ = 4096
"""Bytes read at once from an input that only tells that it has ended."""
GRACE_S = 1
"""Seconds that open connections get when the server ends; the pages come back by themselves."""


def most_connections() -> int:
    """How many connections this process may hold."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(LEAST, min(MOST, soft - RESERVED - AT_ONCE))


class Gate:
    """Limits the number of connections: an idle one makes way for a new one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        self._working: set[Connection] = set()
        self._cut = 0
        self._told = -QUIET_S

    def opened(self, connection: Connection) -> None:
        """Count a new connection; with too many, close the one that has been idle longest."""
        self._waiting[connection] = None
        if len(self._waiting) + len(self._working) > self._most:
            oldest = next(iter(self._waiting))
            self.closed(oldest)
            oldest.transport.abort()
            self.cut()

    def works(self, connection: Connection) -> None:
        """It has sent a request."""
        if self._waiting.pop(connection, self) is not self:
            self._working.add(connection)

    def waits(self, connection: Connection) -> None:
        """Its request is answered."""
        if connection in self._working:
            self._working.discard(connection)
            self._waiting[connection] = None

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self._waiting.pop(connection, None)
        self._working.discard(connection)

    def cut(self) -> None:
        """Count a closed connection, and warn at most once a minute."""
        self._cut += 1
        if time.monotonic() - self._told >= QUIET_S:
            self._told = time.monotonic()
            print(
                f"warning: idle connections were closed ({self._cut:,} since the last such warning); "
                f"{self._most} may be open at once (`ulimit -n`), and a request's head must arrive within {HEAD_S:g}s",
                file=sys.stderr,
                flush=True,
            )
            self._cut = 0


class Connection(H11Protocol):
    """One connection of a gate, with a time limit for the head of its request."""

    gate: ClassVar[Gate]
    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Start the time limit."""
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_S, self._too_slow)
        self.gate.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._in_time()
        self.gate.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive a part of a request."""
        super().data_received(data)
        if self._is_answered():
            self._head = self._head or self.loop.call_later(HEAD_S, self._too_slow)
        else:
            self._in_time()
            self.gate.works(self)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self._is_answered():
            self.gate.waits(self)

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _in_time(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_slow(self) -> None:
        self._head = None
        if not self.transport.is_closing() and self._is_answered():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
            self.gate.cut()


def through(gate: Gate) -> type[Connection]:
    """The connections of a gate."""
    return type("GatedConnection", (Connection,), {"gate": gate})


class Server(uvicorn.Server):
    """A server whose sockets keep their queue: asyncio would make it as short as what is accepted in one go."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE)


class OncePerMinute(logging.Filter):
    """Let the same log record through once a minute: clients decide how often there is cause for it."""

    REMEMBERED = 64

    def __init__(self) -> None:
        super().__init__()
        self._said: OrderedDict[str, float] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record was not logged within the last minute."""
        now, text = time.monotonic(), str(record.msg)
        if now - self._said.get(text, -QUIET_S) < QUIET_S:
            return False
        self._said[text] = now
        self._said.move_to_end(text)
        if len(self._said) > self.REMEMBERED:
            self._said.popitem(last=False)
        return True


def log_seldom() -> None:
    """Log complaints about connections at most once a minute."""
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(OncePerMinute())


def create_app(
    site: Site, *, hosts: frozenset[str] = LOOPBACK, limits: Limits | None = None, more: Sequence[BaseRoute] = ()
) -> Starlette:
    """The application for one k2run home.

    Args:
        site: What it serves.
        hosts: Names by which it may be called.
        limits: What one client may take.
        more: Routes of other parts of k2run: hooks under `/hooks/`, metrics, and such.
    """
    app = Starlette(
        routes=[
            Route("/static/{version}/{name}", static),
            Route("/favicon.ico", icon),
            *pages.routes(),
            *pages.replay_routes(pages.Journals()),
            *stack_pages.routes(StackWatches(site.store)),
            *forms.ROUTES,
            *incidents.ROUTES,
            *more,
        ],
        middleware=[Middleware(Guard, hosts=hosts, limits=limits or Limits())],
        exception_handlers={
            Denied: _denied,
            K2runError: _refused,
            HTTPException: _failed,
            500: _broke,
        },
    )
    app.state.site = site
    return app


async def _denied(request: Request, error: Exception) -> Response:
    assert isinstance(error, Denied)  # noqa: S101 - registered for it
    site = site_of(request)
    program = "authorization" in request.headers or request.url.path.endswith("/events")
    if error.status == UNAUTHORIZED and request.method in READING and not program:
        return RedirectResponse("/enter", 303)
    html = site.page(
        "error.html",
        site.user_or_anonymous(request),
        title=_TITLES.get(error.status, "Request failed"),
        message=unsecret(error.message),
        hint=unsecret(error.hint),
        back="/enter" if error.status == UNAUTHORIZED else "/",
    )
    return HTMLResponse(html, error.status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, K2runError)  # noqa: S101 - registered for it
    return await _denied(request, Denied(404 if isinstance(error, NotFound) else 409, error.message, error.hint))


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return await _denied(request, Denied(error.status_code, "There is no page at this address"))


async def _broke(request: Request, error: Exception) -> Response:  # noqa: ARG001 - what broke is in the server's log, not on the page
    return HTMLResponse(
        "<!doctype html><title>k2run</title><p>Internal error of k2run; see the log of <code>k2run serve</code>.</p>",
        500,
    )


def serve(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    allow: Iterable[str] = (),
    private: bool = False,
    until_eof: bool = False,
) -> None:
    """Serve the page.

    Args:
        host: Address to listen on.
        port: Its port; 0 takes a free one.
        allow: Further names by which the server is called, behind a proxy for example.
        private: Reading needs a token too; always so beyond this machine.
        until_eof: End when standard input ends.

    Raises:
        OperatorError: The address cannot be used, or the token file is not private.
    """
    store = Store()
    site = Site(store, private=private or not _is_loopback(host))
    secret = hooks_secret(store.home)
    entry = site.tokens.ensure()
    listener = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"serving  {address}/", flush=True)
    print(f"sign in  {address}/enter#{entry.token}", flush=True)
    print(f"tokens   {site.tokens.path} ({entry.role.word} {entry.name})", flush=True)
    more = [*incidents.hook_routes(site.incidents, secret), *metrics_routes(store, secret if site.private else "")]
    config = uvicorn.Config(
        create_app(site, hosts=LOOPBACK | {host, *(name.lower() for name in allow)}, more=more),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=int(HEAD_S),
        h11_max_incomplete_event_size=32 * 1024,
        http=through(Gate(most_connections())),
        ws="none",
        loop="asyncio",
        backlog=AT_ONCE,
    )
    worker = Worker(store, site.incidents, messages=open_messages(store))
    worker.start()
    if until_eof:
        threading.Thread(target=_end_with_input, name="until-eof", daemon=True).start()
    sys.setswitchinterval(TURN_S)
    log_seldom()
    Server(config).run([listener])
    worker.stop()


def _end_with_input() -> None:
    """Ask this process to end when its standard input has ended."""
    while os.read(0, PIPE_READ):  # not `sys.stdin`: its lock would be held when the process ends for another reason
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= HIGHEST_PORT:
        raise UsageError(f"--port {port}: not a port number", hint=f"choose one from 1 to {HIGHEST_PORT}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, for asyncio to send at once
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OperatorError(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}", hint="choose another with --port"
        ) from error
    listener.listen(QUEUE)
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

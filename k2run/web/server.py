"""`k2run serve`: serve the page until a signal ends it."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import TYPE_CHECKING

from k2run.daemon.alerts.delivery import hooks_secret
from k2run.daemon.alerts.hooks import hook_routes
from k2run.daemon.alerts.messages import open_messages
from k2run.daemon.alerts.worker import Worker
from k2run.daemon.metrics import metrics_routes
from k2run.engine.store import Store
from k2run.errors import OperatorError, UsageError
from k2run.web.app import LOOPBACK, create_app
from k2run.web.connections import AT_ONCE, HEAD_S, QUEUE, Gate, Server, log_seldom, most_connections, through
from k2run.web.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterable

PORT = 8642
HIGHEST_PORT = 65_535
TURN_S = 0.001
"""Seconds after which a thread that draws makes way for those who wait for an answer."""
GRACE_S = 1
"""Seconds that open connections get when the server ends; the pages come back by themselves."""


def serve(host: str = "127.0.0.1", port: int = PORT, *, allow: Iterable[str] = (), private: bool = False) -> None:
    """Serve the page.

    Args:
        host: Address to listen on.
        port: Its port; 0 takes a free one.
        allow: Further names by which the server is called, behind a proxy for example.
        private: Reading needs a token too; always so beyond this machine.

    Raises:
        OperatorError: The address cannot be used, or the token file is not private.
    """
    import uvicorn

    store = Store()
    site = Site(store, private=private or not _is_loopback(host))
    secret = hooks_secret(store.home)
    entry = site.tokens.ensure()
    listener = _listen(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"serving  {address}/", flush=True)
    print(f"sign in  {address}/enter#{entry.token}", flush=True)
    print(f"tokens   {site.tokens.path} ({entry.role.word} {entry.name})", flush=True)
    more = [*hook_routes(site.incidents, secret), *metrics_routes(store, secret if site.private else "")]
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
    sys.setswitchinterval(TURN_S)
    log_seldom()
    Server(config).run([listener])
    worker.stop()


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

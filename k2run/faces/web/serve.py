"""`k2run serve`: the page on an address, until it is told to end."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TYPE_CHECKING

from k2run.engine.store import Store
from k2run.errors import OperatorError
from k2run.faces.alerts.hooks import hook_routes
from k2run.faces.alerts.keeper import Keeper
from k2run.faces.alerts.messages import open_messages
from k2run.faces.alerts.secret import hooks_secret
from k2run.faces.telemetry.endpoint import metrics_routes
from k2run.faces.web.app import LOOPBACK, create_app
from k2run.faces.web.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterable

PORT = 8642
GRACE_S = 1
"""Seconds that open connections get when the server ends; the pages come back by themselves."""


def serve(host: str = "127.0.0.1", port: int = PORT, *, allow: Iterable[str] = (), private: bool = False) -> None:
    """Serve the page.

    Args:
        host: Address to listen on.
        port: Its port; 0 takes a free one.
        allow: Further names by which the server is called, behind a proxy for example.
        private: Looking needs a token too; always so beyond this machine.

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
    more = [*hook_routes(site.book, secret), *metrics_routes(store, secret if site.private else "")]
    config = uvicorn.Config(
        create_app(site, hosts=LOOPBACK | {host, *(name.lower() for name in allow)}, more=more),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=32 * 1024,
    )
    keeper = Keeper(store, site.book, messages=open_messages(store))
    keeper.start()
    uvicorn.Server(config).run([listener])
    keeper.stop()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OperatorError(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}", hint="choose another with --port"
        ) from error
    listener.listen(512)
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

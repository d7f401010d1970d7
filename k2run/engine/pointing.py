"""Where an action spoke to when nobody answered: the address, and the setting of the stack file that names it.

Adapters say both where they know better; this sees to it that no error of an adapter, also a third party's, goes
without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from k2run.errors import TimedOut, Unreachable
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from k2run.actions.connection import Connection

_ADDRESSES = ("bootstrap", "url", "uri", "endpoint")
"""Attributes by which connections name their address."""

Silence = Unreachable | TimedOut


class Place(NamedTuple):
    """Somewhere an action speaks to: `127.0.0.1:9092`, by `connections.kafka`."""

    address: str
    setting: str


def places(connections: Iterable[Connection], args: Mapping[str, Any]) -> list[Place]:
    """The places that an action with these connections and arguments speaks to."""
    found: list[Place] = []
    for connection in connections:
        if isinstance(connection, Services):
            found += _of_service(connection, args.get("service"))
        elif address := _address(connection):
            found.append(Place(address, f"connections.{connection.key}"))
    return found


def pointed(error: Silence, there: list[Place]) -> Silence:
    """The error with the address and the setting, where it has none of them yet."""
    said = f"{error.message} {error.hint}"
    message, hint = error.message, error.hint
    if not any(place.address in said for place in there):
        message += f" (at {' and '.join(place.address for place in there)})" if there else ""
    if there and not any(place.setting in said for place in there):
        settings = " and ".join(place.setting for place in there)
        hint = "; ".join(filter(None, [hint, f"see {settings} in the stack file"]))
    return error if (message, hint) == (error.message, error.hint) else type(error)(message, hint=hint)


def _of_service(services: Services, name: Any) -> list[Place]:
    service = services.stack.services.get(name) if isinstance(name, str) else None
    if service is None:
        return []
    shown = service.url or service.metrics or (service.ready.http or service.ready.tcp if service.ready else "")
    return [Place(_host(shown), f"services.{name}")] if shown else []


def _address(connection: Connection) -> str:
    """Host and port; never a path, which may be the secret of a webhook."""
    for name in _ADDRESSES:
        if written := getattr(connection, name, ""):
            return _host(written)
    host, port = getattr(connection, "host", ""), getattr(connection, "port", "")
    return f"{host}:{port}" if host and port else str(host)


def _host(written: str) -> str:
    """`host:port` of a URL without user and password, or the file that it names; what is no URL stays as it is."""
    if "://" not in written:
        return written
    parts = urlsplit(written)
    return parts.netloc.rpartition("@")[2] or f"/{parts.path.lstrip('/')}"

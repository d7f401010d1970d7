"""Which URL a step means: a path of a service of the stack, or a whole URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from k2run.errors import NotApplicable, Refused
from k2run.stack.services import Services


class Target(NamedTuple):
    """A URL and the headers to send there."""

    url: str
    headers: dict[str, str]


def target(services: Services, service: str, path: str, url: str, headers: Mapping[str, str]) -> Target:
    """What a step's `service` and `path`, or `url`, and `headers` amount to.

    Raises:
        Refused: Both a service and a URL are given, or neither.
        NotApplicable: The stack has no such service, or it has no URL.
    """
    if bool(service) == bool(url):
        raise Refused("give either a service (with a path) or a url")
    if url:
        return Target(url, dict(headers))
    found = services.find(service)
    if not found.url:
        raise NotApplicable(f"the service {service!r} has no url in this stack", hint="add `url:` to it")
    return Target(f"{found.url.rstrip('/')}/{path.lstrip('/')}", {**found.headers, **headers})

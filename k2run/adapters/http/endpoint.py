"""Where a step's HTTP request goes, and how the server there is trusted."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit, urlunsplit

from msgspec import Struct

from k2run.errors import Refused
from k2run.stack.services import Services


class Target(NamedTuple):
    """A URL and the headers to send there."""

    url: str
    headers: dict[str, str]


def target(
    services: Services,
    service: str,
    path: str,
    url: str,
    headers: Mapping[str, str] = {},
    params: Mapping[str, Any] = {},
) -> Target:
    """What a step's `service` and `path`, or `url`, its `headers` and its query parameters amount to.

    Raises:
        Refused: Both a service and a URL are given, or neither.
        NotApplicable: The stack has no such service, or it has no URL.
    """
    if bool(service) == bool(url):
        raise Refused("give either a service (with a path) or a url")
    if url:
        return Target(with_query(url, params), dict(headers))
    found = services.find_with_url(service)
    address = f"{found.url.rstrip('/')}/{path.lstrip('/')}"
    return Target(with_query(address, params), {**found.headers, **headers})


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
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Refused(f"the URL cannot be asked: {error}", hint="write it like http://host:port/path") from error
    return urlunsplit(parts._replace(query="&".join(filter(None, [parts.query, urlencode(pairs)]))))


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
            f"the TLS files cannot be used: {error}", hint="check tls: {ca, certificate, private_key}"
        ) from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

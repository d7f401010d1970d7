"""TLS: until when a server's certificate is valid, who vouches for it, and for which names."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

from k2run.actions.action import Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters._clients import apart, late, require_client
from k2run.errors import AuthorError, Refused, TimedOut, Unreachable
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate as Parsed

HTTPS = 443
_DAY_S = 86_400


class Link(Struct, frozen=True, kw_only=True):
    """One certificate of a chain.

    Attributes:
        subject: Whom it names, as `CN=api.example,O=Example`.
        issuer: Who signed it.
        not_after: When it expires, ISO 8601 in UTC.
        days_left: Days until then; below zero when it has expired.
    """

    subject: str
    issuer: str
    not_after: str
    days_left: float


class Certificate(Result, frozen=True, kw_only=True):
    """A certificate, and what stands behind it.

    Attributes:
        subject: Whom it names, as `CN=api.example,O=Example`.
        issuer: Who signed it.
        names: The DNS names and addresses that it is valid for.
        not_before: From when it is valid, ISO 8601 in UTC.
        not_after: When it expires.
        days_left: Days until then; below zero when it has expired.
        soonest_days_left: The same of whichever certificate of the chain expires first.
        self_signed: Whether it vouches for itself.
        key: Kind and size of its key: `RSA 2048`, `EC 256`, `Ed25519`.
        sha256: Its fingerprint, in hexadecimal digits.
        chain: What was presented, the server's own certificate first.
    """

    subject: str
    issuer: str
    names: list[str]
    not_before: str
    not_after: str
    days_left: float
    soonest_days_left: float
    self_signed: bool
    key: str
    sha256: str
    chain: list[Link]

    def headline(self) -> str:
        """Such as `CN=api.example, 41 days left`."""
        days = f"{self.days_left:,.0f} days left" if self.days_left >= 0 else f"expired {-self.days_left:,.0f} days ago"
        return f"{self.subject}, {days}"


class Served(Certificate, frozen=True, kw_only=True):
    """The certificate of a server.

    Attributes:
        trusted: Whether the chain ends at an authority that is trusted here, and nothing in it has expired.
        why_not: What the verification complains of; empty when it is trusted.
        name_matches: Whether the certificate is valid for the name that was asked for.
        protocol: Such as `TLSv1.3`.
        cipher: Such as `TLS_AES_256_GCM_SHA384`.
        elapsed_ms: Connecting and the handshake.
    """

    trusted: bool
    why_not: str
    name_matches: bool
    protocol: str
    cipher: str
    elapsed_ms: float

    def headline(self) -> str:
        """With what is wrong about it."""
        faults = [self.why_not] if not self.trusted else []
        if not self.name_matches:
            faults.append(f"valid for {', '.join(self.names[:3]) or 'no name'} only")
        return "; ".join([super().headline(), *faults])


class _Place(NamedTuple):
    """Where to connect, for which name, and what to check when that fails."""

    host: str
    port: int
    name: str
    hint: str

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


class _Handshake(NamedTuple):
    chain: list[bytes]
    protocol: str
    cipher: str


@action("tls.certificate")
def certificate(
    services: Services, deadline: Deadline, service: str = "", address: str = "", name: str = "", ca: str = ""
) -> Served:
    """The certificate that a server presents: expiry, chain, names; one that is not trusted is reported, not refused.

    Args:
        service: The service whose `url` says where; instead of `address`.
        address: `host` or `host:port`, 443 when no port is given.
        name: The name to ask for (SNI) and to compare with; the host when empty.
        ca: File with the certificates to trust, instead of the system's.
    """
    require_client("tls", "cryptography")
    from cryptography.x509 import load_der_x509_certificate

    place = _place(services, service, address, name)
    open_ = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    open_.check_hostname = False
    open_.verify_mode = ssl.CERT_NONE  # an expired certificate is to be described, too
    started = time.perf_counter()
    try:
        met = apart(lambda: _meet(place, open_, deadline), deadline)
        elapsed_ms = (time.perf_counter() - started) * 1000
        why_not = apart(lambda: _objection(place, ca, deadline), deadline)
    except TimedOut as error:
        raise late(place.address, deadline, place.hint) from error
    described = _described([load_der_x509_certificate(one) for one in met.chain])
    return Served(
        **described,
        trusted=not why_not,
        why_not=why_not,
        name_matches=any(_covers(pattern, place.name) for pattern in described["names"]),
        protocol=met.protocol,
        cipher=met.cipher,
        elapsed_ms=elapsed_ms,
        source=f"tls {place.address}",
    )


@action("tls.file")
def file(path: str) -> Certificate:
    """The certificate in a PEM file, with the chain that follows it there.

    Args:
        path: The file, on the machine that k2run runs on.
    """
    require_client("tls", "cryptography")
    from cryptography.x509 import load_pem_x509_certificates

    try:
        links = load_pem_x509_certificates(Path(path).read_bytes())
    except OSError as error:
        raise Unreachable(
            f"{path} cannot be read: {error.strerror}", hint="does it exist, and is it readable?"
        ) from error
    except ValueError as error:
        raise Refused(
            f"{path} has no certificate in PEM: {error}", hint="it begins with -----BEGIN CERTIFICATE"
        ) from error
    return Certificate(**_described(links), source=path)


def _place(services: Services, service: str, address: str, name: str) -> _Place:
    if bool(service) == bool(address):
        raise AuthorError(
            "tls.certificate needs either a service or an address", hint="such as address: api.example:443"
        )
    if address:
        parts, hint = urlsplit(f"//{address}"), "check the step's address"
    else:
        url = services.find_with_url(service).url
        parts, hint = urlsplit(url), f"see services.{service}.url in the stack file"
    try:
        port = parts.port or HTTPS
    except ValueError as error:
        raise AuthorError(f"{address} has no valid port: {error}", hint="such as api.example:443") from error
    host = parts.hostname or ""
    return _Place(host, port, name or host, hint)


def _meet(place: _Place, context: ssl.SSLContext, deadline: Deadline) -> _Handshake:
    """Connect and shake hands.

    Raises:
        Unreachable: Nothing answers.
        Refused: It speaks no TLS.
        TimedOut: It did not answer in time.
        ssl.SSLCertVerificationError: The context does not trust it.
    """
    try:
        with (
            socket.create_connection((place.host, place.port), deadline.remaining()) as link,
            context.wrap_socket(link, server_hostname=place.name) as secured,
        ):
            cipher = secured.cipher()
            return _Handshake(_presented(secured), secured.version() or "", cipher[0] if cipher else "")
    except ssl.SSLCertVerificationError:
        raise
    except TimeoutError as error:
        raise TimedOut("no answer in time") from error
    except ssl.SSLError as error:
        reason = str(error.reason or error).replace("_", " ").lower()
        raise Refused(
            f"TLS handshake with {place.address} failed: {reason}", hint=f"is it a TLS port? {place.hint}"
        ) from error
    except OSError as error:
        raise Unreachable(f"{place.address} does not answer: {error.strerror or error}", hint=place.hint) from error


def _presented(link: ssl.SSLSocket) -> list[bytes]:
    """The chain in DER, the server's own certificate first; Python before 3.13 hands it out only inside."""
    if hasattr(link, "get_unverified_chain"):
        return list(link.get_unverified_chain())
    inner: Any = link._sslobj  # type: ignore[attr-defined]  # noqa: SLF001
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_unverified_chain()]


def _objection(place: _Place, ca: str, deadline: Deadline) -> str:
    """Why the chain is not trusted; empty when it is."""
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise Refused(f"{ca} has no certificates to trust: {error}", hint="look at the step's `ca`") from error
    context.check_hostname = False  # compared on its own: an answer of two parts
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as most clients do, and the same with every Python
    try:
        _meet(place, context, deadline)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return ""


def _described(links: Sequence[Parsed]) -> dict[str, Any]:
    from cryptography.hazmat.primitives.hashes import SHA256

    now = dt.datetime.now(dt.UTC)
    chain = [
        Link(
            subject=one.subject.rfc4514_string(),
            issuer=one.issuer.rfc4514_string(),
            not_after=one.not_valid_after_utc.isoformat(),
            days_left=(one.not_valid_after_utc - now).total_seconds() / _DAY_S,
        )
        for one in links
    ]
    own = links[0]
    return {
        "subject": chain[0].subject,
        "issuer": chain[0].issuer,
        "names": _names(own),
        "not_before": own.not_valid_before_utc.isoformat(),
        "not_after": chain[0].not_after,
        "days_left": chain[0].days_left,
        "soonest_days_left": min(link.days_left for link in chain),
        "self_signed": own.subject == own.issuer,
        "key": _key(own),
        "sha256": own.fingerprint(SHA256()).hex(),
        "chain": chain,
    }


def _names(own: Parsed) -> list[str]:
    from cryptography.x509 import DNSName, ExtensionNotFound, IPAddress, SubjectAlternativeName

    try:
        names = own.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return []  # the subject's common name counts no more (RFC 9525)
    return [*names.get_values_for_type(DNSName), *map(str, names.get_values_for_type(IPAddress))]


def _key(own: Parsed) -> str:
    key = own.public_key()
    kind = type(key).__name__.removesuffix("PublicKey").lstrip("_")
    size = getattr(key, "key_size", None)
    short = {"EllipticCurve": "EC", "ECPublicKey": "EC"}.get(kind, kind)
    return f"{short} {size}" if size else short


def _covers(pattern: str, name: str) -> bool:
    """Whether a name of a certificate covers a host: the same, or with `*` for its first label."""
    try:
        return ipaddress.ip_address(pattern) == ipaddress.ip_address(name)
    except ValueError:
        wanted, given = name.lower().rstrip("."), pattern.lower()
        return given == wanted or (given.startswith("*.") and given[1:] == f".{wanted.partition('.')[2]}")

"""gRPC: whether a server says that it is healthy, by the standard health protocol (grpc.health.v1)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from k2run.actions.action import Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters._clients import SLICE, late, require_client
from k2run.errors import ActionError, AuthorError, Refused, TimedOut, Unknown, Unreachable
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Mapping

_METHOD = "/grpc.health.v1.Health/Check"
_STATUS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_SECURE = {"https", "grpcs"}
_FIELD_1_TEXT, _FIELD_1_NUMBER = 0x0A, 0x08
_MORE = 0x80


class Health(Result, frozen=True, kw_only=True):
    """What a server says of itself, or of one of its services.

    Attributes:
        serving: Whether it says SERVING.
        status: In its own words: `SERVING`, `NOT_SERVING`.
        elapsed_ms: With connecting.
    """

    serving: bool
    status: str
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `SERVING, 4.2 ms`."""
        return f"{self.status}, {self.elapsed_ms:.1f} ms"


class _Place(NamedTuple):
    address: str
    secure: bool
    hint: str


@action("grpc.health")
def health(
    services: Services,
    deadline: Deadline,
    service: str = "",
    address: str = "",
    name: str = "",
    tls: bool = False,
    ca: str = "",
    metadata: dict[str, str] = {},
    allow_not_serving: bool = False,
) -> Health:
    """Ask a server for its health; one that says NOT_SERVING fails the step unless that is an answer, too.

    Args:
        service: The service of the stack whose `url` says where (`grpc://`, `grpcs://`, `http://`, `https://`).
        address: `host:port`, instead of a service.
        name: The gRPC service to ask about, such as `shop.v1.Orders`; the server as a whole when empty.
        tls: Whether the connection to `address` is encrypted; the scheme of a service's `url` says it by itself.
        ca: File with the certificates to trust, instead of the system's.
        metadata: Sent with the question, such as `authorization`.
        allow_not_serving: Whether NOT_SERVING is an answer, for symptoms: `expect: not result.serving`.
    """
    require_client("grpc", "grpc")
    place = _place(services, service, address, secure=tls)
    started = time.perf_counter()
    status = _STATUS.get(_check(place, deadline, name, ca, metadata), "UNKNOWN")
    elapsed_ms = (time.perf_counter() - started) * 1000
    found = Health(serving=status == "SERVING", status=status, elapsed_ms=elapsed_ms, source=f"grpc {place.address}")
    what = f"{name} at {place.address}" if name else place.address
    if status in {"UNKNOWN", "SERVICE_UNKNOWN"}:
        raise Unknown(f"{what} does not know its own health: {status}", hint=place.hint, result=found)
    if not found.serving and not allow_not_serving:
        raise Refused(f"{what} says {status}", hint="check its log; or set allow_not_serving: true", result=found)
    return found


def _place(services: Services, service: str, address: str, *, secure: bool) -> _Place:
    if bool(service) == bool(address):
        raise AuthorError("grpc.health needs either a service or an address", hint="such as address: 127.0.0.1:50051")
    if address:
        return _Place(address, secure, "check the step's address")
    parts = urlsplit(services.find_with_url(service, "url: grpc://host:port").url)
    return _Place(parts.netloc, parts.scheme in _SECURE, f"see services.{service}.url in the stack file")


def _check(place: _Place, deadline: Deadline, name: str, ca: str, metadata: Mapping[str, str]) -> int:
    import grpc

    options = [("grpc.enable_retries", 0)]
    if place.secure:
        trusted = grpc.ssl_channel_credentials(_read(ca) if ca else None)
        channel = grpc.secure_channel(place.address, trusted, options)
    else:
        channel = grpc.insecure_channel(place.address, options)
    with channel:
        ask = channel.unary_unary(_METHOD, request_serializer=_request, response_deserializer=_status)
        try:
            asked = ask.future(name, timeout=deadline.remaining(), metadata=tuple(metadata.items()))
            while not asked.done():
                deadline.sleep(SLICE / 10)
            return int(asked.result())
        except TimedOut as error:
            raise late(place.address, deadline, place.hint) from error
        except grpc.RpcError as error:
            raise _judge(place, name, error, deadline) from error


def _judge(place: _Place, name: str, error: Any, deadline: Deadline) -> ActionError:
    from grpc import StatusCode

    said = " ".join(str(error.details() or "").split())[:300]
    match error.code():
        case StatusCode.DEADLINE_EXCEEDED:
            return late(place.address, deadline, place.hint)
        case StatusCode.NOT_FOUND:
            return Unknown(
                f"{place.address} knows no service {name!r}", hint="is its full name right, with the package?"
            )
        case StatusCode.UNIMPLEMENTED:
            hint = "register the standard health service there, or use another probe"
            return Unknown(f"{place.address} does not speak the health protocol: {said}", hint=hint)
        case StatusCode.UNAUTHENTICATED | StatusCode.PERMISSION_DENIED:
            return Refused(f"{place.address} refuses: {said}", hint=f"metadata, such as authorization; {place.hint}")
        case StatusCode.UNAVAILABLE:
            return Unreachable(
                f"{place.address} does not answer: {said}", hint=f"is it up, and is that gRPC? {place.hint}"
            )
    return Refused(f"{place.address} refuses: {error.code().name} {said}", hint=place.hint)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}", hint="look at the step's `ca`") from error


def _request(name: str) -> bytes:
    """The request of the protocol: the name, as its only field."""
    text, size = name.encode(), bytearray()
    left = len(text)
    while left >= _MORE:
        size.append(left % _MORE | _MORE)
        left //= _MORE
    return bytes([_FIELD_1_TEXT, *size, left]) + text if text else b""


def _status(answer: bytes) -> int:
    """The status in an answer of the protocol, its only field; 0 where it is left out, as protobuf leaves out zeros."""
    return answer[1] if len(answer) > 1 and answer[0] == _FIELD_1_NUMBER else 0

"""grpc.health against a real gRPC server with the standard health service."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health as health_service
from grpc_health.v1 import health_pb2, health_pb2_grpc

from k2run.actions.deadline import Deadline
from k2run.adapters import grpc as adapter
from k2run.errors import AuthorError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTED_ON = {"grpc": "grpcio's own server with its standard health service, plain and over TLS"}

SAYS = health_pb2.HealthCheckResponse
LONG = "shop.v1." + "a" * 300


def soon(seconds: float = 30) -> Deadline:
    return Deadline(seconds)


class Locked(grpc.ServerInterceptor):
    """Lets in who shows a token."""

    def intercept_service(self, continuation, details):
        if ("authorization", "a-token") in details.invocation_metadata:
            return continuation(details)
        return grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        )


@pytest.fixture
def start() -> Iterator:
    """Starts a server; returns its health service and its address."""
    running: list[grpc.Server] = []

    def begin(*, speaks_health: bool = True, credentials=None, interceptors=()):
        server = grpc.server(ThreadPoolExecutor(2), interceptors=interceptors)
        servicer = health_service.HealthServicer()
        if speaks_health:
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = (
            server.add_secure_port("127.0.0.1:0", credentials)
            if credentials
            else server.add_insecure_port("127.0.0.1:0")
        )
        server.start()
        running.append(server)
        return servicer, f"127.0.0.1:{port}"

    yield begin
    for server in running:
        server.stop(None).wait()


def test_a_server_and_its_services_say_how_they_are(start, services):
    servicer, address = start()
    servicer.set("shop.v1.Orders", SAYS.NOT_SERVING)
    servicer.set(LONG, SAYS.SERVING)
    stack = services(f"shop: {{run: external, url: 'grpc://{address}'}}")
    whole = adapter.health(stack, soon(), service="shop")
    assert (whole.serving, whole.status, whole.source) == (True, "SERVING", f"grpc {address}")
    assert whole.headline().startswith("SERVING, ")
    assert adapter.health(stack, soon(), address=address, name=LONG).serving
    with pytest.raises(Refused, match=rf"shop\.v1\.Orders at {address} says NOT_SERVING") as refused:
        adapter.health(stack, soon(), address=address, name="shop.v1.Orders")
    assert refused.value.result.status == "NOT_SERVING"
    assert not adapter.health(stack, soon(), address=address, name="shop.v1.Orders", allow_not_serving=True).serving


def test_what_cannot_be_known_is_unknown(start, services):
    servicer, address = start()
    servicer.set("later", SAYS.UNKNOWN)
    with pytest.raises(Unknown, match=r"knows no service 'shop\.v2\.Orders'"):
        adapter.health(services(""), soon(), address=address, name="shop.v2.Orders")
    with pytest.raises(Unknown, match="does not know its own health"):
        adapter.health(services(""), soon(), address=address, name="later")
    _, bare = start(speaks_health=False)
    with pytest.raises(Unknown, match="does not speak the health protocol"):
        adapter.health(services(""), soon(), address=bare)


def test_over_tls_and_with_a_token(start, services, certificate):
    pem = certificate.read_bytes()
    key = pem[pem.index(b"-----BEGIN PRIVATE KEY") :]
    _, address = start(credentials=grpc.ssl_server_credentials([(key, pem)]), interceptors=[Locked()])
    stack = services(f"shop: {{run: external, url: 'grpcs://{address}'}}")
    shown = {"authorization": "a-token"}
    assert adapter.health(stack, soon(), service="shop", ca=str(certificate), metadata=shown).serving
    assert adapter.health(stack, soon(), address=address, tls=True, ca=str(certificate), metadata=shown).serving
    with pytest.raises(Refused, match=r"no token.*authorization"):
        adapter.health(stack, soon(), service="shop", ca=str(certificate))
    with pytest.raises(Unreachable, match=r"services\.shop\.url"):
        adapter.health(stack, soon(), service="shop", metadata=shown)
    with pytest.raises(Refused, match=r"`ca`"):
        adapter.health(stack, soon(), service="shop", ca="/nowhere.pem")


def test_a_closed_port_and_a_silent_one_say_what_to_check(services, speaker):
    stack = services("shop: {run: external, url: 'grpc://127.0.0.1:1'}")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 does not answer.*services\.shop\.url"):
        adapter.health(stack, soon(), service="shop")
    silent = speaker(lambda _: time.sleep(30)).removeprefix("http://")
    started = time.monotonic()
    with pytest.raises((TimedOut, Unreachable), match=silent):
        adapter.health(stack, soon(0.5), address=silent)
    assert time.monotonic() - started < 3
    with pytest.raises(AuthorError, match="either a service or an address"):
        adapter.health(stack, soon())

"""The dns actions against real DNS servers of the library dnslib."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from dnslib import RCODE
from dnslib.server import BaseResolver, DNSLogger, DNSServer
from dnslib.zoneresolver import ZoneResolver
from wheel_programs import free_ports

from k2run.actions.deadline import Deadline
from k2run.adapters import dns
from k2run.adapters.dns import Dns
from k2run.errors import AuthorError, Interrupted, Refused, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTED_ON = {"dns": "real DNS servers of the library dnslib, over UDP and TCP"}

ZONE = """\
shop.test.       300 IN SOA ns1.shop.test. admin.shop.test. 7 3600 600 86400 300
shop.test.       300 IN MX 10 mail.shop.test.
api.shop.test.   60  IN A 10.0.0.8
api.shop.test.   60  IN A 10.0.0.7
api.shop.test.   60  IN AAAA fd00::7
www.shop.test.   300 IN CNAME api.shop.test.
many.shop.test.  60  IN TXT "{long}"
"""


class Zone(ZoneResolver):
    """Answers NXDOMAIN only for names that are not there, and as the zone's own server."""

    def resolve(self, request, handler):
        reply = super().resolve(request, handler)
        known = any(request.q.qname == name for name, _, _ in self.zone)
        if known and reply.header.rcode == RCODE.NXDOMAIN:
            reply.header.rcode = RCODE.NOERROR
        return reply


class Declines(BaseResolver):
    def resolve(self, request, handler):  # noqa: ARG002 - as dnslib calls it
        reply = request.reply()
        reply.header.rcode = RCODE.REFUSED
        return reply


@pytest.fixture
def serve() -> Iterator[Callable[[BaseResolver], str]]:
    """Starts a DNS server, over UDP and TCP; returns its address."""
    running: list[DNSServer] = []

    def start(resolver: BaseResolver) -> str:
        port = free_ports(1)[0]
        for tcp in (False, True):
            server = DNSServer(
                resolver, address="127.0.0.1", port=port, tcp=tcp, logger=DNSLogger(log="-", prefix=False)
            )
            server.start_thread()
            running.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in running:
        server.stop()
        server.server.server_close()


@pytest.fixture
def zone(serve) -> Dns:
    return Dns(servers=[serve(Zone(ZONE.format(long="x" * 200)))])


def soon(seconds: float = 10) -> Deadline:
    return Deadline(seconds)


def test_a_name_resolves_to_its_addresses_through_an_alias(zone):
    found = dns.resolve(zone, soon(), "www.shop.test")
    assert found.addresses == ["10.0.0.7", "10.0.0.8", "fd00::7"]
    assert (found.canonical, found.ttl_s, found.server) == ("api.shop.test", 60, zone.servers[0])
    assert found.headline() == "10.0.0.7, 10.0.0.8, fd00::7"


def test_aliases_of_each_other_end_as_unknown(serve):
    loop = "a.test. 60 IN CNAME b.test.\nb.test. 60 IN CNAME a.test.\n"
    with pytest.raises(Unknown, match="has no address"):
        dns.resolve(Dns(servers=[serve(Zone(loop))]), soon(), "a.test")


def test_records_of_each_type_and_a_missing_one_is_unknown(zone):
    found = dns.records(zone, soon(), "shop.test", "MX")
    assert (found.values, found.exists, found.ttl_s, found.authoritative) == (["10 mail.shop.test."], True, 300, True)
    assert dns.records(zone, soon(), "www.shop.test", "A").values == ["10.0.0.7", "10.0.0.8"]
    assert dns.records(zone, soon(), "www.shop.test", "CNAME").values == ["api.shop.test."]
    with pytest.raises(Unknown, match=r"gone\.shop\.test does not exist"):
        dns.records(zone, soon(), "gone.shop.test", "A")
    with pytest.raises(Unknown, match="has no MX record"):
        dns.records(zone, soon(), "api.shop.test", "MX")
    with pytest.raises(Unknown, match="has no address"):
        dns.resolve(zone, soon(), "shop.test")
    empty = dns.records(zone, soon(), "gone.shop.test", "A", allow_empty=True)
    assert (empty.values, empty.exists, empty.headline()) == ([], False, "no such name")
    with pytest.raises(AuthorError, match="NONSENSE"):
        dns.records(zone, soon(), "shop.test", "NONSENSE")


def test_an_answer_that_does_not_fit_a_datagram_comes_over_tcp(serve):
    lines = "".join(f'many.shop.test. 60 IN TXT "{number:03}{"x" * 200}"\n' for number in range(40))
    found = dns.records(Dns(servers=[serve(Zone(lines))]), soon(), "many.shop.test", "TXT")
    assert len(found.values) == 40


def test_servers_agree_or_differ_and_a_silent_one_is_no_agreement(serve):
    first, second = (serve(Zone(ZONE.format(long="x"))) for _ in range(2))
    behind = serve(Zone(ZONE.format(long="x").replace(" 7 3600", " 6 3600")))
    same = dns.agreement(Dns(servers=[first, second]), soon(), "shop.test", "SOA")
    assert (same.agree, same.servers) == (True, 2)
    differ = dns.agreement(Dns(), soon(), "shop.test", "SOA", servers=[first, second, behind])
    assert not differ.agree
    assert "the servers differ" in differ.headline()
    assert dns.agreement(Dns(servers=[first, behind]), soon(), "gone.shop.test").agree
    moved = serve(Zone("www.shop.test. 300 IN CNAME new.shop.test."))
    aliases = dns.agreement(
        Dns(servers=[serve(Zone("www.shop.test. 300 IN CNAME api.shop.test.")), moved]), soon(), "www.shop.test"
    )
    assert not aliases.agree
    assert "no such record at new.shop.test" in aliases.headline()
    closed = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(Unreachable, match=rf"1 of 2 servers gave no answer: {closed}"):
        dns.agreement(Dns(servers=[first, closed]), soon(1), "shop.test", "SOA")
    with pytest.raises(AuthorError, match="two servers or more"):
        dns.agreement(Dns(servers=[first]), soon(), "shop.test")


def test_the_second_server_is_asked_when_the_first_is_silent(serve, zone):
    closed = f"127.0.0.1:{free_ports(1)[0]}"
    found = dns.resolve(Dns(servers=[closed, *zone.servers]), soon(2), "api.shop.test")
    assert found.server == zone.servers[0]


def test_a_server_that_declines_and_one_that_is_silent_each_say_what_to_check(serve):
    with pytest.raises(Refused, match=r"answers REFUSED.*connections\.dns"):
        dns.resolve(Dns(servers=[serve(Declines())]), soon(), "api.shop.test")
    with pytest.raises(Refused, match="not a server address"):
        dns.resolve(Dns(servers=["10.0.0.1:http"]), soon(), "api.shop.test")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(Unreachable, match=rf"{address} has not answered within.*connections\.dns"):
            dns.resolve(Dns(servers=[address]), soon(0.5), "api.shop.test")
        assert time.monotonic() - started < 3
        deadline = soon()
        threading.Timer(0.2, deadline.stop.set).start()
        started = time.monotonic()
        with pytest.raises(Interrupted):
            dns.resolve(Dns(servers=[address]), deadline, "api.shop.test")
        assert time.monotonic() - started < 3


def test_a_lost_datagram_is_sent_again(serve, zone):
    host, port = zone.servers[0].split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
        relay.bind(("127.0.0.1", 0))

        def pass_on_the_second() -> None:
            relay.recvfrom(4096)
            query, asker = relay.recvfrom(4096)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inner:
                inner.sendto(query, (host, int(port)))
                relay.sendto(inner.recv(4096), asker)

        threading.Thread(target=pass_on_the_second, daemon=True).start()
        found = dns.records(Dns(servers=[f"127.0.0.1:{relay.getsockname()[1]}"]), soon(), "api.shop.test", "A")
    assert found.values == ["10.0.0.7", "10.0.0.8"]
    assert found.elapsed_ms > dns.ATTEMPT_S * 1000


def test_a_stack_without_the_connection_uses_the_servers_of_the_machine(services):
    assert Dns.of(services("").stack) == Dns()

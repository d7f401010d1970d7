"""DNS: what a name resolves to, its records, whether its servers agree; asked directly, past caches and hosts files."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Self

from msgspec import Struct

from k2run.actions.action import Result, action
from k2run.actions.connection import Connection, Site
from k2run.actions.deadline import Deadline
from k2run.adapters._clients import apart, require_client
from k2run.errors import ActionError, AuthorError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dns.message import Message

_SETTING = "see connections.dns.servers in the stack file"
ATTEMPT_S = 2.0
"""Seconds after which a question is sent again: a datagram may be lost."""
PORT = 53
MOST_ALIASES = 8
"""Aliases of aliases; more are a loop."""


class Dns(Connection, frozen=True, kw_only=True, key="dns"):
    """DNS servers; a stack without this connection uses those of the machine.

    Attributes:
        servers: Addresses, with a port where it is not 53: `10.0.0.2`, `127.0.0.1:5353`, `[::1]:53`. They are asked in
            this order until one answers.
    """

    servers: list[str] = []

    @classmethod
    def of(cls, site: Site) -> Self:
        """The servers of the stack, or those of the machine."""
        return cls() if site.settings(cls.key) is None else super().of(site)


class Resolved(Result, frozen=True, kw_only=True):
    """The addresses of a name.

    Attributes:
        addresses: IPv4 first, each sorted.
        canonical: The name at the end of the chain of aliases.
        ttl_s: Seconds for which the answer may be kept; the least in the chain.
        server: Who answered.
    """

    addresses: list[str]
    canonical: str
    ttl_s: int
    server: str
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `10.0.0.7, 10.0.0.8`."""
        return ", ".join(self.addresses[:4]) + (", …" if len(self.addresses) > 4 else "")  # noqa: PLR2004 - fits a line


class Records(Result, frozen=True, kw_only=True):
    """The records of one type.

    Attributes:
        values: As in a zone file, sorted; empty only with `allow_empty`.
        exists: Whether the name exists at all, with records of whatever type.
        ttl_s: Seconds for which the answer may be kept; 0 without values.
        server: Who answered.
        authoritative: Whether the server is one of the zone's own.
    """

    values: list[str]
    exists: bool
    ttl_s: int
    server: str
    authoritative: bool
    elapsed_ms: float

    def headline(self) -> str:
        """The values, or that there are none."""
        return ", ".join(self.values[:3]) or ("no such record" if self.exists else "no such name")


class ServersAnswer(Struct, frozen=True, kw_only=True):
    """What one server says.

    Attributes:
        answer: `records`, `no such record`, `no such name`.
        canonical: The name at the end of the chain of aliases, as far as this server knows it.
        values: Sorted.
    """

    server: str
    answer: str
    canonical: str
    values: list[str]

    def shown(self) -> str:
        """The values, or what there is instead."""
        return ", ".join(self.values[:3]) or f"{self.answer} at {self.canonical}"


class Agreement(Result, frozen=True, kw_only=True):
    """The answers of several servers to one question.

    Attributes:
        agree: Whether all gave the same answer; times to live do not count.
        servers: How many answered.
        answers: One for each server.
    """

    agree: bool
    servers: int
    answers: list[ServersAnswer]

    def headline(self) -> str:
        """That they agree, and on what; or what each says."""
        if self.agree:
            return f"{self.servers} servers agree: {self.answers[0].shown()}"
        said = (f"{one.server} says {one.shown()}" for one in self.answers)
        return f"the servers differ: {'; '.join(said)}"


class _Reply(NamedTuple):
    server: str
    exists: bool
    values: list[str]
    canonical: str
    ttl_s: int
    authoritative: bool

    @property
    def answer(self) -> str:
        return "records" if self.values else "no such record" if self.exists else "no such name"


@action("dns.resolve")
def resolve(dns: Dns, deadline: Deadline, name: str) -> Resolved:
    """The IPv4 and IPv6 addresses of a name, through its aliases; a name without addresses is unknown.

    Args:
        name: The whole name; no search domain is appended.
    """
    started = time.perf_counter()
    found = [_through_aliases(dns, deadline, name, kind) for kind in ("A", "AAAA")]
    addresses = [value for reply in found for value in reply.values]
    if not addresses:
        what = "has no address" if any(reply.exists for reply in found) else "does not exist"
        raise Unknown(f"{name} {what}, says {found[0].server}", hint="is the name spelled right, and in the zone?")
    with_values = [reply for reply in found if reply.values]
    return Resolved(
        addresses=addresses,
        canonical=with_values[0].canonical,
        ttl_s=min(reply.ttl_s for reply in with_values),
        server=with_values[0].server,
        elapsed_ms=(time.perf_counter() - started) * 1000,
        source=f"dns {with_values[0].server}",
    )


@action("dns.records")
def records(dns: Dns, deadline: Deadline, name: str, type: str, allow_empty: bool = False) -> Records:
    """The records of one type that a name has; none are unknown.

    Args:
        name: The whole name.
        type: `A`, `AAAA`, `CNAME`, `MX`, `NS`, `PTR`, `SOA`, `SRV`, `TXT`, `CAA`, ….
        allow_empty: Whether no records are an answer, too.
    """
    started = time.perf_counter()
    reply = _through_aliases(dns, deadline, name, type)
    if not reply.values and not allow_empty:
        what = f"has no {type} record" if reply.exists else "does not exist"
        raise Unknown(f"{name} {what}, says {reply.server}", hint="is the name spelled right? or set allow_empty: true")
    return Records(
        values=reply.values,
        exists=reply.exists,
        ttl_s=reply.ttl_s,
        server=reply.server,
        authoritative=reply.authoritative,
        elapsed_ms=(time.perf_counter() - started) * 1000,
        source=f"dns {reply.server}",
    )


@action("dns.agreement")
def agreement(dns: Dns, deadline: Deadline, name: str, type: str = "A", servers: list[str] = []) -> Agreement:
    """Whether several servers give the same answer; one that does not answer fails the step.

    Args:
        name: The whole name.
        type: `A`, `SOA` (whether a zone has reached its secondaries), ….
        servers: Who is asked; those of the stack when there are none here.
    """
    asked = servers or dns.servers
    if len(asked) < 2:  # noqa: PLR2004 - one agrees with itself
        raise AuthorError("dns.agreement needs two servers or more", hint=f"give servers: […], or {_SETTING}")
    with ThreadPoolExecutor(len(asked), "dns") as threads:
        replies = list(threads.map(lambda server: _tried(Dns(servers=[server]), deadline, name, type), asked))
    silent = [reply for reply in replies if isinstance(reply, ActionError)]
    if silent:
        told = "; ".join(error.message for error in silent)
        raise Unreachable(f"{len(silent)} of {len(asked)} servers gave no answer: {told}", hint=silent[0].hint)
    answers = [
        ServersAnswer(server=reply.server, answer=reply.answer, canonical=reply.canonical, values=reply.values)
        for reply in replies
        if isinstance(reply, _Reply)
    ]
    agree = len({(one.answer, one.canonical, *one.values) for one in answers}) == 1
    return Agreement(agree=agree, servers=len(answers), answers=answers, source=f"dns {', '.join(asked)}")


def _through_aliases(dns: Dns, deadline: Deadline, name: str, kind: str) -> _Reply:
    """The records at the end of a chain of aliases, of which a server may answer the first part only."""
    ttl_s: list[int] = []
    reply = _ask(dns, deadline, name, kind)
    while not reply.values and reply.canonical != name.rstrip(".").lower() and len(ttl_s) < MOST_ALIASES:
        ttl_s.append(reply.ttl_s)
        name = reply.canonical.lower()
        reply = _ask(dns, deadline, name, kind)
    return reply._replace(ttl_s=min([*ttl_s, reply.ttl_s]))


def _tried(dns: Dns, deadline: Deadline, name: str, kind: str) -> _Reply | ActionError:
    try:
        return _ask(dns, deadline, name, kind)
    except ActionError as error:
        return error


def _ask(dns: Dns, deadline: Deadline, name: str, kind: str) -> _Reply:
    """What the first server that answers says."""
    require_client("dns", "dns")
    from dns.exception import DNSException
    from dns.message import make_query

    servers = dns.servers or _servers_of_the_machine()
    try:
        query = make_query(name, kind)
    except (DNSException, ValueError) as error:
        raise AuthorError(f"cannot query {name} {kind}: {error}", hint="such as name: a.example, type: A") from error
    failed: ActionError | None = None
    for number, server in enumerate(servers):
        share = Deadline(deadline.remaining() / (len(servers) - number), deadline.stop)
        try:
            return _reply(server, apart(lambda at=server, until=share: _exchange(query, at, until), share))  # type: ignore[misc]
        except TimedOut:
            message = f"{server} has not answered within {share.seconds:.3g}s"
            failed = failed or Unreachable(message, hint=f"is it up, and does UDP get through? {_SETTING}")
        except OSError as error:
            failed = failed or Unreachable(f"{server} does not answer: {error.strerror or error}", hint=_SETTING)
        except DNSException as error:
            failed = failed or Refused(f"{server} does not speak DNS: {error}", hint=_SETTING)
        except Refused as error:
            failed = failed or error
    raise failed or Unreachable("no DNS server is known", hint=f"this machine configures none; {_SETTING}")


def _exchange(query: Message, server: str, deadline: Deadline) -> Message:
    """Ask one server over UDP, over TCP where the answer does not fit, and again when nothing comes."""
    from dns.exception import Timeout
    from dns.query import udp_with_fallback

    host, port = _place(server)
    address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4][0]
    while True:
        try:
            wait = deadline.at_most(ATTEMPT_S)
            return udp_with_fallback(query, str(address), timeout=wait, port=port, ignore_unexpected=True)[0]
        except Timeout:
            deadline.remaining()


def _reply(server: str, message: Message) -> _Reply:
    from dns.flags import AA
    from dns.message import QueryMessage
    from dns.rcode import NOERROR, NXDOMAIN, to_text

    code = message.rcode()
    if code not in {NOERROR, NXDOMAIN} or not isinstance(message, QueryMessage):
        raise Refused(f"{server} answers {to_text(code)}", hint=f"does it serve this zone, and us? {_SETTING}")
    chain = message.resolve_chaining()
    values = sorted(record.to_text() for record in chain.answer or ())
    return _Reply(
        server=server,
        exists=code == NOERROR,
        values=values,
        canonical=chain.canonical_name.to_text(omit_final_dot=True).lower(),
        ttl_s=chain.minimum_ttl if values or chain.cnames else 0,
        authoritative=bool(message.flags & AA),
    )


def _servers_of_the_machine() -> Sequence[str]:
    from dns.resolver import NoResolverConfiguration, Resolver

    try:
        return [str(server) for server in Resolver().nameservers]
    except NoResolverConfiguration:
        return []


def _place(server: str) -> tuple[str, int]:
    """Host and port of `10.0.0.2`, `ns1.example:5353` or `[::1]:53`."""
    host, colon, port = server.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        return server.strip("[]"), PORT
    if not port.isdecimal():
        raise Refused(f"{server!r} is not a server address", hint=f"such as 10.0.0.2 or 127.0.0.1:5353; {_SETTING}")
    return host.strip("[]"), int(port)

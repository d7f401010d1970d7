"""The network between services, as a proxy shows it: cut it, slow it down, narrow it, lose or refuse what it carries.

Works with Toxiproxy, and with the small proxy of the sandbox, which speaks the same interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from msgspec import Struct, structs

from k2run.actions.action import Effect, Result, Striking, Undo, action, fault
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters.http.client import Api
from k2run.errors import NotApplicable, Refused
from k2run.language.quantities import Duration, Rate

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_TIME = Duration(0)
_ALL = "all"
_REFUSING = "refused"
_MS = 1000.0
_ABSENT = 404

Way = Literal["both", "upstream", "downstream"]
BOTH = ("upstream", "downstream")


class Network(Connection, frozen=True, kw_only=True, key="network"):
    """The proxy that links go through.

    Attributes:
        url: Of its HTTP interface, such as `http://127.0.0.1:8474`.
    """

    url: str

    def ask(self, deadline: Deadline, method: str, path: str, sent: Any = None) -> Any:
        """What the proxy answers; None when there is no such thing.

        Raises:
            Unreachable: It does not answer.
            Refused: It says no.
        """
        api = Api("the proxy", self.url, "connections.network", {})
        answer = api.ask(deadline, path, method=method, sent=sent)
        if answer.status == _ABSENT:
            return None
        if answer.status >= 300:  # noqa: PLR2004 - everything but OK
            raise api.refusal(answer, f"{method} {path}")
        return api.read(answer, Any) if answer.content else {}


class Wrong(Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a link."""

    name: str
    type: str
    stream: str = ""
    attributes: dict[str, float] = {}


class Line(Result, frozen=True, kw_only=True):
    """A link as it is now.

    Attributes:
        listen: Where the proxy takes connections.
        upstream: Where it leads them to.
        open: Whether it takes connections.
        wrong: What is wrong with it.
    """

    link: str
    listen: str
    upstream: str
    open: bool
    wrong: list[Wrong] = []

    def headline(self) -> str:
        """Such as `consumer → 127.0.0.1:19092: latency 200`."""
        said = ", ".join(f"{one.type} {next(iter(one.attributes.values()), 0):g}" for one in self.wrong)
        return f"{self.link} → {self.upstream}: {'' if self.open else 'closed '}{said or ('open' if self.open else '')}"


class Mended(Line, frozen=True, kw_only=True):
    """A link that works again.

    Attributes:
        listen: Where the proxy takes connections.
        upstream: Where it leads them to.
        open: Whether it takes connections.
        wrong: What is wrong with it.
        changed: Something was wrong with it that was taken away.
    """

    changed: bool


class Lines(Result, frozen=True, kw_only=True):
    """All links of the proxy."""

    count: int
    troubled: list[str]
    links: list[Line]

    def headline(self) -> str:
        """Such as `2 links, none in trouble`."""
        return f"{self.count} links, {', '.join(self.troubled) or 'none'} in trouble"


@action("network.links")
def links(network: Network, deadline: Deadline) -> Lines:
    """The links between services that can be broken, and what is wrong with each."""
    found = [_line(network, entry) for entry in network.ask(deadline, "GET", "/proxies").values()]
    troubled = [line.link for line in found if line.wrong or not line.open]
    return Lines(count=len(found), troubled=troubled, links=found, source=network.url)


@fault("network.cut", undone_by="network.mend")
def cut(
    network: Network, deadline: Deadline, link: str, how: Literal["silent", "refused"] = "silent"
) -> Striking[Line]:
    """Cut a link. Undone by mending it.

    Blast radius: the service that uses the link, and who depends on it.

    Args:
        link: Name of the link.
        how: `silent`: nothing goes through and neither side is told, as with a broken cable; `refused`: connections
            end at once.
    """
    _known(network, deadline, link)
    if how == "silent":
        yield from _poison(network, deadline, link, "timeout", {"attributes": {"timeout": 0.0}})
    else:
        yield Undo(action="network.mend", args={"link": link, "what": _REFUSING}, says=f"open the link {link}")
        network.ask(deadline, "POST", _path(link), {"enabled": False})
    return _known(network, deadline, link)


@fault("network.delay", undone_by="network.mend")
def delay(
    network: Network,
    deadline: Deadline,
    link: str,
    latency: Duration,
    jitter: Duration = NO_TIME,
    way: Way = "both",
) -> Striking[Line]:
    """Let everything on a link arrive later. Undone by mending it.

    Blast radius: the service that uses the link, and who depends on it.

    Args:
        link: Name of the link.
        latency: How much later, in each direction.
        jitter: How far a single delay may lie from that.
        way: Which direction: to the far side (`upstream`), from it (`downstream`), or both.
    """
    _known(network, deadline, link)
    toxic = {"attributes": {"latency": latency * _MS, "jitter": jitter * _MS}}
    yield from _poison(network, deadline, link, "latency", toxic, _streams(way))
    return _known(network, deadline, link)


@fault("network.lose", undone_by="network.mend")
def lose(network: Network, deadline: Deadline, link: str, percent: float, way: Way = "both") -> Striking[Line]:
    """Lose some packets of a link: TCP repeats them, so the link stutters. Undone by mending it.

    Blast radius: the service that uses the link, and who depends on it. Toxiproxy cannot do this.

    Args:
        link: Name of the link.
        percent: How many of a hundred packets.
        way: Which direction: to the far side (`upstream`), from it (`downstream`), or both.
    """
    _known(network, deadline, link)
    yield from _poison(network, deadline, link, "loss", {"attributes": {"percent": percent}}, _streams(way))
    return _known(network, deadline, link)


@fault("network.throttle", undone_by="network.mend")
def throttle(network: Network, deadline: Deadline, link: str, rate: Rate, way: Way = "both") -> Striking[Line]:
    """Let no more than so many bytes a second through a link. Undone by mending it.

    Blast radius: the service that uses the link, and who depends on it.

    Args:
        link: Name of the link.
        rate: Bytes a second, such as `50000/s`.
        way: Which direction: to the far side (`upstream`), from it (`downstream`), or both.
    """
    _known(network, deadline, link)
    toxic = {"attributes": {"rate": max(1.0, round(rate / 1000))}}
    yield from _poison(network, deadline, link, "bandwidth", toxic, _streams(way))
    return _known(network, deadline, link)


@fault("network.reset", undone_by="network.mend")
def reset(
    network: Network, deadline: Deadline, link: str, percent: float = 100, after: Duration = NO_TIME
) -> Striking[Line]:
    """End connections of a link in the middle, with a reset, as a firewall does. Undone by mending it.

    Blast radius: the service that uses the link, and who depends on it.

    Args:
        link: Name of the link.
        percent: How many of a hundred connections: those that are open, and each new one.
        after: How long a connection lives.
    """
    toxic = {"attributes": {"timeout": after * _MS}, "toxicity": percent / 100}
    yield from _poison(network, deadline, link, "reset_peer", toxic, ("downstream",))
    return _known(network, deadline, link)


@fault("network.fail", undone_by="network.mend")
def fail(network: Network, deadline: Deadline, link: str, percent: float = 100, status: int = 500) -> Striking[Line]:
    """Answer requests on a link with an error, in the place of the server. Undone by mending it.

    Blast radius: who uses the service behind the link. HTTP has to be spoken on it; Toxiproxy cannot do this.

    Args:
        link: Name of the link.
        percent: How many of a hundred requests.
        status: The status of the answer, 400 to 599.

    Raises:
        Refused: HTTP is not spoken on the link.
    """
    if not 400 <= status <= 599:  # noqa: PLR2004 - what HTTP calls an error
        raise Refused(f"{status} is not an error status", hint="between 400 and 599")
    toxic = {"attributes": {"percent": percent, "status": float(status)}}
    yield from _poison(network, deadline, link, "error", toxic, ("upstream",))
    return _known(network, deadline, link)


@action("network.mend", effect=Effect.CHANGES)
def mend(network: Network, deadline: Deadline, link: str, what: str = _ALL) -> Mended:
    """Take away what is wrong with a link; nothing happens when nothing is.

    Args:
        link: Name of the link.
        what: `timeout`, `latency`, `loss`, `bandwidth`, `reset_peer`, `error`, `refused`, or all of it.
    """
    line = _known(network, deadline, link)
    toxics = [wrong.name for wrong in line.wrong if what in {_ALL, wrong.type}]
    for name in toxics:
        network.ask(deadline, "DELETE", f"{_path(link)}/toxics/{quote(name, safe='')}")
    closed = what in {_ALL, _REFUSING} and not line.open
    if closed:
        network.ask(deadline, "POST", _path(link), {"enabled": True})
    now = structs.asdict(_known(network, deadline, link))
    return Mended(**now, changed=bool(toxics) or closed)


# --- what they share -------------------------------------------------------------------------------------------------


_UNDOING = {
    "timeout": "reconnect",
    "latency": "quicken",
    "loss": "steady",
    "bandwidth": "widen",
    "reset_peer": "steady",
    "error": "let requests through",
}


def _poison(
    network: Network, deadline: Deadline, link: str, kind: str, toxic: dict[str, Any], streams: Sequence[str] = BOTH
) -> Striking[None]:
    """Put a toxic on a link, in one direction or both; the undo is planned first."""
    if any(wrong.type == kind for wrong in _known(network, deadline, link).wrong):
        raise Refused(f"the link {link} has a {kind} already", hint=f"network.mend: {{link: {link}, what: {kind}}}")
    yield Undo(action="network.mend", args={"link": link, "what": kind}, says=f"{_UNDOING[kind]} the link {link}")
    for stream in streams:
        body = {"name": f"k2run-{kind}-{stream}", "type": kind, "stream": stream, **toxic}
        network.ask(deadline, "POST", f"{_path(link)}/toxics", body)


def _streams(way: Way) -> Sequence[str]:
    return BOTH if way == "both" else (way,)


def _known(network: Network, deadline: Deadline, link: str) -> Line:
    """The link of that name.

    Raises:
        NotApplicable: The proxy has none.
    """
    found = network.ask(deadline, "GET", _path(link))
    if found is None:
        names = ", ".join(network.ask(deadline, "GET", "/proxies"))
        raise NotApplicable(f"there is no link {link!r}", hint=f"the proxy has {names or 'none'}")
    return _line(network, found)


def _path(link: str) -> str:
    return f"/proxies/{quote(link, safe='')}"


def _line(network: Network, entry: dict[str, Any]) -> Line:
    return Line(
        link=entry["name"],
        listen=entry["listen"],
        upstream=entry["upstream"],
        open=entry["enabled"],
        wrong=[
            Wrong(name=one["name"], type=one["type"], stream=one["stream"], attributes=one["attributes"])
            for one in entry["toxics"]
        ],
        source=network.url,
    )

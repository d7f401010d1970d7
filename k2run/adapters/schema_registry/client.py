"""A schema registry that speaks Confluent's HTTP API: where it is, and how it is asked.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import Struct

from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import MISREAD
from k2run.adapters.http.client import Api, basic
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls
from k2run.errors import ActionError, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from k2run.adapters.http.client import Answer

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
SchemaType = Literal["AVRO", "JSON", "PROTOBUF"]
_ABSENT = {40401: "subject", 40402: "version", 40403: "schema", 40408: "compatibility level of its own"}
_STORE = {50001, 50002, 50003}
_MOST_KEPT = 1000
_NODE_S = 2.0
"""How long a node may take to answer while another one could be asked."""


class SchemaRegistry(Connection, frozen=True, kw_only=True, key="schema_registry"):
    """A schema registry.

    Attributes:
        url: Its base URL, such as `http://127.0.0.1:8081`.
        nodes: The base URLs of further nodes; each is checked by `schema_registry.health`.
        user: Of basic authentication; empty for none.
        password: Likewise.
        headers: Sent with every request, such as an authorization.
        tls: How an HTTPS server is trusted.
    """

    url: str
    nodes: list[str] = []
    user: str = ""
    password: str = ""
    headers: dict[str, str] = {}
    tls: Tls = TRUSTING_THE_SYSTEM

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"schema registry {self.url}"

    def api(self, url: str = "") -> Api:
        """How one of its nodes is asked; the first one when none is named."""
        headers = {"Accept": f"{MEDIA_TYPE}, application/json", **basic(self.user, self.password), **self.headers}
        return Api("the schema registry", url or self.url, "connections.schema_registry", headers, self.tls)


class Schema(Struct, frozen=True):
    """A schema as the registry tells it, by version or by id."""

    schema: str
    subject: str = ""
    version: int = 0
    id: int = 0
    schemaType: str = "AVRO"  # noqa: N815 - the API's name


class Failed(Struct):
    """What the registry says when it says no."""

    error_code: int = 0
    message: str = ""


_known: dict[tuple[str, int], Schema] = {}
"""Schemas by registry and id: an id never changes its meaning."""


def path(*parts: str | int) -> str:
    """A path of the API; a subject may hold any character."""
    return "/" + "/".join(quote(str(part), safe="") for part in parts)


def call(
    registry: SchemaRegistry, deadline: Deadline, where: str, kind: Any, *, method: str = "GET", sent: Any = None
) -> Any:
    """Ask the registry, one node after the other, and read the first answer as `kind`.

    Raises:
        Unreachable: Nothing answers, or the registry cannot reach its own storage.
        Refused: It says no, or it is no schema registry.
        Unknown: There is no such subject, version or schema.
    """
    urls = [registry.url, *registry.nodes]
    for left, url in zip(range(len(urls) - 1, -1, -1), urls, strict=True):
        api = registry.api(url)
        try:
            answer = api.ask(_share(deadline, left), where, method=method, sent=sent, media_type=MEDIA_TYPE)
            if answer.status == 200:  # noqa: PLR2004 - OK
                return api.read(answer, kind)
            failed = _failure(api, answer, f"{method} {where}")
            if not (left and isinstance(failed, Unreachable)):
                raise failed
        except (Unreachable, TimedOut):
            if not left:
                raise
            deadline.remaining()  # the deadline holds, also when there is another node
    raise AssertionError("a registry has a node")


def _share(deadline: Deadline, left: int) -> Deadline:
    """The time for one node, when so many others can be asked after it."""
    return Deadline(min(_NODE_S, deadline.remaining() / (left + 1)), deadline.stop) if left else deadline


def _failure(api: Api, answer: Answer, doing: str) -> ActionError:
    try:
        failed = msgspec.json.decode(answer.content, type=Failed)
    except MISREAD:
        return api.refusal(answer, doing)
    if failed.error_code in _ABSENT:
        return Unknown(f"{api.url} has no such {_ABSENT[failed.error_code]}: {failed.message}", hint="check the name")
    if failed.error_code in _STORE:
        return Unreachable(
            f"{api.url} cannot reach its own storage: {failed.message}", hint="is the Kafka behind the registry up?"
        )
    return api.refusal(answer, doing, failed.message)


def schema_of(registry: SchemaRegistry, deadline: Deadline, number: int) -> Schema:
    """The schema with that id, asked for once.

    Raises:
        Unknown: The registry has none with that id.
    """
    key = (registry.url, number)
    if key not in _known:
        found = call(registry, deadline, path("schemas", "ids", number), Schema)
        if len(_known) >= _MOST_KEPT:
            _known.clear()
        _known[key] = found
    return _known[key]


def latest(registry: SchemaRegistry, deadline: Deadline, subject: str, version: int | str = "latest") -> Schema:
    """A version of a subject, the newest by default."""
    found: Schema = call(registry, deadline, path("subjects", subject, "versions", version), Schema)
    return found


_newest: dict[tuple[str, str], Schema] = {}
"""What `latest_known` falls back on."""


def latest_known(registry: SchemaRegistry, deadline: Deadline, subject: str) -> Schema:
    """The newest version of a subject; while no node answers, the one that was the newest when last asked for.

    Raises:
        Unknown: There is no such subject.
        Unreachable: No node answers, and none was asked for it before.
    """
    key = (registry.url, subject)
    try:
        _newest[key] = latest(registry, deadline, subject)
    except (Unreachable, TimedOut):
        if key not in _newest:
            raise
        deadline.remaining()
    return _newest[key]

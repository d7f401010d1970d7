"""Schema registry: subjects and their schemas, registering and checking them, and whether each node answers."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from msgspec import Struct

from k2run.actions.action import Blast, Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters.schema_registry.avro import decode as decoded
from k2run.adapters.schema_registry.avro import framed_id
from k2run.adapters.schema_registry.client import Schema, SchemaRegistry, SchemaType, call, latest, path
from k2run.errors import ActionError, AuthorError, Interrupted, Unknown, Unreachable

Level = Literal["BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE", "NONE"]


class Subjects(Result, frozen=True, kw_only=True):
    """The subjects of the registry."""

    subjects: list[str]
    count: int


class Described(Result, frozen=True, kw_only=True):
    """One version of a subject.

    Attributes:
        id: Number of the schema, as framed messages carry it.
        type: `AVRO`, `JSON` or `PROTOBUF`.
        fields: Names of the fields of an Avro record, in order; otherwise empty.
        missing: Expected fields that the schema lacks.
        extra: Fields that were not expected; empty when none were named.
        text: The schema itself.
    """

    subject: str
    version: int
    id: int
    type: str
    fields: list[str]
    missing: list[str]
    extra: list[str]
    text: str

    def headline(self) -> str:
        """Such as `version 2, id 7, 15 fields`."""
        wrong = [
            f"{word} {', '.join(names)}" for word, names in (("missing", self.missing), ("extra", self.extra)) if names
        ]
        return ", ".join([f"version {self.version}", f"id {self.id}", f"{len(self.fields)} fields", *wrong])


class Registered(Result, frozen=True, kw_only=True):
    """A schema that the registry has."""

    subject: str
    id: int
    version: int


class Compatibility(Result, frozen=True, kw_only=True):
    """Whether a schema may follow those that are there.

    Attributes:
        reasons: Why not, in the registry's words.
    """

    subject: str
    compatible: bool
    reasons: list[str]

    def headline(self) -> str:
        """Such as `compatible`."""
        return (
            "compatible" if self.compatible else f"not compatible: {'; '.join(self.reasons[:2]) or 'no reason given'}"
        )


class Config(Result, frozen=True, kw_only=True):
    """The rule by which new versions are judged."""

    subject: str
    compatibility: str


class Node(Struct, frozen=True, kw_only=True):
    """One node of the registry, and why it does not answer when it does not."""

    url: str
    healthy: bool
    subjects: int | None
    elapsed_ms: float | None
    error: str = ""


class Health(Result, frozen=True, kw_only=True):
    """Whether each node answers from its storage."""

    healthy: int
    unhealthy: int
    nodes: list[Node]

    def headline(self) -> str:
        """Such as `1 of 2 nodes healthy; not http://127.0.0.1:8082`."""
        down = [node.url for node in self.nodes if not node.healthy]
        return f"{self.healthy} of {len(self.nodes)} nodes healthy" + (f"; not {', '.join(down)}" if down else "")


class Decoded(Result, frozen=True, kw_only=True):
    """A record that was taken out of its framing."""

    schema_id: int
    value: Any


class _Id(Struct):
    id: int


class _Level(Struct):
    compatibilityLevel: str = ""  # noqa: N815 - the API's names
    compatibility: str = ""


class _Verdict(Struct):
    is_compatible: bool
    messages: list[str] = []


@action("schema_registry.subjects")
def subjects(schema_registry: SchemaRegistry, deadline: Deadline, prefix: str = "") -> Subjects:
    """The subjects that the registry knows; none at all is unknown.

    Args:
        prefix: Only those that start so.
    """
    found = [name for name in call(schema_registry, deadline, "/subjects", list[str]) if name.startswith(prefix)]
    if not found:
        beginning = f" that starts with {prefix!r}" if prefix else ""
        raise Unknown(f"{schema_registry.url} has no subject{beginning}", hint="was anything registered?")
    return Subjects(subjects=sorted(found), count=len(found), source=schema_registry.source)


@action("schema_registry.schema")
def schema(
    schema_registry: SchemaRegistry, deadline: Deadline, subject: str, version: int = 0, fields: list[str] = []
) -> Described:
    """A version of a subject, compared with the fields it should have.

    Args:
        subject: Such as `orders-value`.
        version: Number of the version; 0 is the newest.
        fields: Names of the fields that it should have, no more and no less; empty means no comparison.
    """
    found = latest(schema_registry, deadline, subject, version or "latest")
    names = _field_names(found)
    return Described(
        subject=found.subject,
        version=found.version,
        id=found.id,
        type=found.schemaType,
        fields=names,
        missing=[name for name in fields if name not in names],
        extra=[name for name in names if name not in fields] if fields else [],
        text=found.schema,
        source=schema_registry.source,
    )


@action("schema_registry.register", effect=Effect.CHANGES, blast=Blast.DATA)
def register(
    schema_registry: SchemaRegistry, deadline: Deadline, subject: str, schema: Any, type: SchemaType = "AVRO"
) -> Registered:
    """Register a schema under a subject; one that is there already keeps its id.

    Args:
        subject: Such as `orders-value`.
        schema: The schema, as a document or as text.
        type: Its language.
    """
    sent = _sent(schema, type)
    made = call(schema_registry, deadline, path("subjects", subject, "versions"), _Id, method="POST", sent=sent)
    known = call(schema_registry, deadline, path("subjects", subject), Schema, method="POST", sent=sent)
    return Registered(subject=subject, id=made.id, version=known.version, source=schema_registry.source)


@action("schema_registry.compatible")
def compatible(
    schema_registry: SchemaRegistry,
    deadline: Deadline,
    subject: str,
    schema: Any,
    version: int = 0,
    type: SchemaType = "AVRO",
) -> Compatibility:
    """Whether a schema may follow a version of a subject, by the subject's own rule; nothing is registered.

    Args:
        subject: Such as `orders-value`.
        schema: The schema, as a document or as text.
        version: The version to compare with; 0 is the newest.
        type: The schema's language.
    """
    where = path("compatibility", "subjects", subject, "versions", version or "latest") + "?verbose=true"
    found = call(schema_registry, deadline, where, _Verdict, method="POST", sent=_sent(schema, type))
    return Compatibility(
        subject=subject, compatible=found.is_compatible, reasons=found.messages, source=schema_registry.source
    )


@action("schema_registry.config")
def config(schema_registry: SchemaRegistry, deadline: Deadline, subject: str = "") -> Config:
    """The compatibility rule of a subject, or of the whole registry.

    Args:
        subject: Empty for the registry's own; a subject without a rule of its own follows that.
    """
    where = path("config", subject) + "?defaultToGlobal=true" if subject else "/config"
    found = call(schema_registry, deadline, where, _Level)
    return Config(
        subject=subject, compatibility=found.compatibilityLevel or found.compatibility, source=schema_registry.source
    )


@action("schema_registry.set_config", effect=Effect.CHANGES, blast=Blast.DATA)
def set_config(schema_registry: SchemaRegistry, deadline: Deadline, compatibility: Level, subject: str = "") -> Config:
    """Set the compatibility rule of a subject, or of the whole registry.

    Args:
        compatibility: The rule.
        subject: Empty for the registry's own.
    """
    where = path("config", subject) if subject else "/config"
    call(schema_registry, deadline, where, _Level, method="PUT", sent={"compatibility": compatibility})
    return config(schema_registry, deadline, subject)


@action("schema_registry.health")
def health(schema_registry: SchemaRegistry, deadline: Deadline) -> Health:
    """Whether every node of the registry lists its subjects; an open port alone is not enough.

    Fails only when no node answers at all; expectations judge `healthy` and `unhealthy`.
    """
    urls = [schema_registry.url, *schema_registry.nodes]
    share = deadline.remaining() / len(urls)
    nodes = [_look(schema_registry, Deadline(min(share, deadline.remaining()), deadline.stop), url) for url in urls]
    healthy = sum(node.healthy for node in nodes)
    if not healthy:
        causes = "; ".join(dict.fromkeys(node.error for node in nodes))
        raise Unreachable(
            f"no node of the schema registry answers: {causes}",
            hint="see connections.schema_registry in the stack file",
        )
    return Health(healthy=healthy, unhealthy=len(nodes) - healthy, nodes=nodes, source=schema_registry.source)


@action("schema_registry.decode")
def decode(schema_registry: SchemaRegistry, deadline: Deadline, value: str) -> Decoded:
    """The Avro record in a framed message.

    Args:
        value: The message in hexadecimal digits, as `kafka.sample` shows what it cannot read.
    """
    try:
        content = bytes.fromhex(value)
    except ValueError as error:
        raise AuthorError(f"schema_registry.decode takes hexadecimal digits: {error}") from error
    record = decoded(schema_registry, deadline, content)
    return Decoded(schema_id=framed_id(content) or 0, value=record, source=schema_registry.source)


def _look(registry: SchemaRegistry, deadline: Deadline, url: str) -> Node:
    started = time.perf_counter()
    try:
        api = registry.api(url)
        answer = api.ask(deadline, "/subjects")
        if answer.status != 200:  # noqa: PLR2004 - OK
            raise api.refusal(answer, "list its subjects")
        found = api.read(answer, list[str])
    except Interrupted:
        raise
    except ActionError as error:
        return Node(url=url, healthy=False, subjects=None, elapsed_ms=None, error=error.message)
    elapsed_ms = (time.perf_counter() - started) * 1000
    return Node(url=url, healthy=True, subjects=len(found), elapsed_ms=elapsed_ms)


def _sent(schema: Any, kind: SchemaType) -> dict[str, str]:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return {"schema": text} if kind == "AVRO" else {"schema": text, "schemaType": kind}


def _field_names(found: Schema) -> list[str]:
    if found.schemaType != "AVRO":
        return []
    try:
        document = json.loads(found.schema)
    except ValueError:
        return []
    return [field["name"] for field in document.get("fields", ())] if isinstance(document, dict) else []

"""Whether what is made up for a topic has to be Avro in the schema registry's framing, and by which schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from k2run.adapters.kafka.form import Form, MessageTemplate, form_of, newest_values, template_of
from k2run.adapters.schema_registry.client import latest_known
from k2run.errors import Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.adapters.kafka.client import Link
    from k2run.adapters.schema_registry.client import Schema

Made = tuple[bytes | None, bytes]


def schema_for(link: Link, topic: str, subject: str = "") -> Schema | None:
    """The schema by which messages of a topic are written; None where its readers read JSON.

    The newest messages show which; where there are none, that the registry has the topic's subject.

    Args:
        link: The cluster.
        topic: Name of the topic.
        subject: Of the schema; without it the topic's name and `-value`.
    """
    registry = link.kafka.registry
    if registry is None:
        return None
    forms = [form_of(value) for value in newest_values(link, topic)]
    if Form.FRAMED in forms:
        return latest_known(registry, link.deadline, subject or f"{topic}-value")
    if Form.JSON in forms:
        return None
    try:
        return latest_known(registry, link.deadline, subject or f"{topic}-value")
    except Unknown:
        return None


def writes(maker: MessageTemplate, schema: Schema) -> bool:
    """Whether a template makes up messages by exactly this schema."""
    return maker.framed is not None and schema.schemaType == "AVRO" and maker.fits(json.loads(schema.schema))


def frame_for(link: Link, topic: str, template: str) -> int:
    """The id of the schema by which a template's messages are written to a topic; 0 where they are JSON.

    Raises:
        Refused: The template does not make up messages by the topic's schema.
    """
    schema = schema_for(link, topic)
    if schema is None:
        return 0
    if not writes(template_of(template), schema):
        raise Refused(
            f"nothing was written: `template: {template}` does not make up messages by version {schema.version} of "
            f"{schema.subject} (schema id {schema.id})",
            hint="kafka.produce writes such messages too, though slower",
        )
    return schema.id


def made_up(template: str, prefix: str, seed: int, symbols: Sequence[str], frame: int = 0) -> Iterator[Made]:
    """Endless messages of a template, in the frame of a schema's id, or as JSON when it is 0."""
    maker = template_of(template)
    if not frame:
        return maker.messages(prefix, seed, symbols)
    if maker.framed is None:
        raise Refused(f"`template: {template}` makes up JSON alone")
    return maker.framed(prefix, seed, symbols, frame)


def as_document(link: Link, value: bytes) -> Any:
    """A message as JSON has it, framed or not.

    Raises:
        ValueError, Refused, Unknown: It is neither JSON nor Avro that the registry can explain.
    """
    from k2run.adapters.schema_registry.avro import decode, framed_id

    if framed_id(value) is not None and link.kafka.registry is not None:
        return decode(link.kafka.registry, link.deadline, value)
    return json.loads(value)

"""The form of what is in a topic: whoever reads it can read nothing else."""

from __future__ import annotations

import json
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from k2run.adapters.kafka import consumer as reading
from k2run.adapters.kafka import offsets
from k2run.adapters.schema_registry.avro import framed_id
from k2run.errors import Refused

if TYPE_CHECKING:
    from k2run.adapters.kafka.client import Link

_NEWEST = 5


class Form(StrEnum):
    """How a value is written, as far as its bytes show."""

    FRAMED = "Avro (or Protobuf) in the schema registry's framing"
    JSON = "JSON"
    OTHER = "neither JSON nor framed by a schema registry"


_WAYS_OUT = {
    Form.FRAMED: "write it with `format: avro` (`subject:` names the schema)",
    Form.JSON: "write it with `format: json`",
    Form.OTHER: "write it as those who read the topic expect it",
}


def form_of(value: bytes) -> Form:
    """The form of one value."""
    if framed_id(value) is not None:
        return Form.FRAMED
    with suppress(ValueError, RecursionError):
        json.loads(value)
        return Form.JSON
    return Form.OTHER


def refuse_other_form(link: Link, topic: str, value: bytes) -> None:
    """Refuse to write what the topic's readers could not read: its newest messages show what they read.

    A topic without messages takes anything. Nothing has been written when this raises.

    Args:
        link: The cluster.
        topic: The topic; it must be there.
        value: What is to be written.

    Raises:
        Refused: None of the newest messages has the form of this one.
    """
    newest = reading.newest(link, topic, offsets.spans(link, topic), _NEWEST)
    values = [found for raw in newest if isinstance(found := raw.value(), bytes) and found]
    forms = [form_of(found) for found in values]
    own = form_of(value)
    if not forms or own in forms:
        return
    ids = sorted({number for found in values if (number := framed_id(found)) is not None})
    schema = f" (schema id {', '.join(map(str, ids))})" if ids else ""
    raise Refused(
        f"nothing was written: the newest messages of {topic!r} are {forms[0]}{schema}, and this would be {own}, "
        "which those who read the topic cannot read",
        hint=f"{_WAYS_OUT[forms[0]]}, or give it a topic of its own",
    )

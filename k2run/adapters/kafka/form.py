"""The form of a topic's messages, which is all that its readers can read; messages made up, by template or by size.

A template is an entry point of the group `k2run.messages`, named in a step as `template: NAME`.
"""

from __future__ import annotations

import json
import random
from contextlib import suppress
from enum import StrEnum
from functools import cache
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self
from weakref import WeakKeyDictionary

from msgspec import Struct
from msgspec.structs import replace

from k2run.actions.catalogue import load_point
from k2run.adapters.kafka import offsets, transfer
from k2run.adapters.kafka.transfer import given
from k2run.adapters.schema_registry.avro import framed_id
from k2run.adapters.schema_registry.client import latest_known, schema_of
from k2run.errors import Refused, Unknown
from k2run.language.problems import did_you_mean
from k2run.language.quantities import Misread, Notation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from k2run.adapters.kafka.client import Link
    from k2run.adapters.schema_registry.client import Schema


_NEWEST = 5
ENTRY_POINTS = "k2run.messages"
_seen: WeakKeyDictionary[Link, dict[str, list[bytes]]] = WeakKeyDictionary()
"""What was in topics when a step first asked: a link is one step's."""
Made = tuple[bytes | None, bytes]
POOL = 1000
"""Messages that take turns."""
POOL_BYTES = 16 * 2**20
"""What their values may need at most."""


class Form(StrEnum):
    """How a value is written, as far as its bytes show."""

    FRAMED = "Avro (or Protobuf) in the schema registry's framing"
    JSON = "JSON"
    OTHER = "neither JSON nor framed by a schema registry"


_WAYS_OUT = {
    Form.FRAMED: "write it with `format: avro` (`subject:` names the schema)",
    Form.JSON: "write it with `format: json`",
    Form.OTHER: "write it in the form that the topic's readers expect",
}


def form_of(value: bytes) -> Form:
    """The form of one value."""
    if framed_id(value) is not None:
        return Form.FRAMED
    with suppress(ValueError, RecursionError):
        json.loads(value)
        return Form.JSON
    return Form.OTHER


def newest_values(link: Link, topic: str) -> list[bytes]:
    """What is in the newest messages of a topic, which has to be there; tombstones are left out."""
    known = _seen.setdefault(link, {})
    if topic not in known:
        newest = transfer.newest(link, topic, offsets.spans(link, topic), _NEWEST)
        known[topic] = [found for raw in newest if isinstance(found := raw.value(), bytes) and found]
    return known[topic]


def refuse_other_form(link: Link, topic: str, value: bytes) -> None:
    """Refuse to write what the topic's readers could not read: its newest messages show what they read.

    The topic must be there; one without messages takes anything. Nothing has been written when this raises.

    Raises:
        Refused: None of the newest messages has the form of this one.
    """
    values = newest_values(link, topic)
    forms = [form_of(found) for found in values]
    own = form_of(value)
    if not forms or own in forms:
        return
    ids = sorted({number for found in values if (number := framed_id(found)) is not None})
    schema = f" (schema id {', '.join(map(str, ids))})" if ids else ""
    raise Refused(
        f"nothing was written: the newest messages of {topic!r} are {forms[0]}{schema}, and this would be {own}, "
        "which the topic's readers cannot read",
        hint=f"{_WAYS_OUT[forms[0]]}, or use another topic",
    )


class MessageTemplate(NamedTuple):
    """How messages of one kind are made up.

    Attributes:
        symbols: The keys of the messages, unless a step names others.
        messages: Makes endless messages, as (key, value), from a prefix of their ids, a seed and the keys; in JSON.
        framed: The same in the schema registry's framing, from the id of the schema besides; None if it cannot.
        fits: Whether a schema is the one by which `framed` writes.
    """

    symbols: Sequence[str]
    messages: Callable[[str, int, Sequence[str]], Iterator[tuple[bytes, bytes]]]
    framed: Callable[[str, int, Sequence[str], int], Iterator[tuple[bytes, bytes]]] | None = None
    fits: Callable[[Any], bool] = lambda _: False


class Template(str, Notation):
    """The name of a template."""

    example: ClassVar[str] = "order"
    says: ClassVar[str] = "the name of a template of messages"
    pattern: ClassVar[str] = r"^\w+$"

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Read a name.

        Raises:
            Misread: There is no such template.
        """
        known = _entry_points()
        if value not in known:
            hint = did_you_mean(str(value), known) or f"one of {', '.join(known)}"
            raise Misread(f"there is no template {value!r}", hint=hint)
        return cls(value)


def template_of(name: str) -> MessageTemplate:
    """The template of that name."""
    found: MessageTemplate = load_point(_entry_points()[name])
    return found


@cache
def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def schema_for(link: Link, topic: str, subject: str = "") -> Schema | None:
    """The schema by which messages of a topic are written; None where its readers read JSON.

    The newest messages show which; where there are none, that the registry has the subject: without one given, the
    topic's name and `-value`.
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


def fitting(link: Link, topic: str, maker: MessageTemplate, newest: Schema) -> Schema:
    """The schema by which a template writes to a topic: the newest version, or an older one that is still written by.

    A producer that went wrong may have registered the newest version; after it was rolled back others write by theirs.
    """
    registry = link.kafka.registry
    if registry is None or writes(maker, newest):
        return newest
    for number in dict.fromkeys(filter(None, map(framed_id, newest_values(link, topic)))):
        used = schema_of(registry, link.deadline, number)
        if writes(maker, used):
            return replace(used, id=number)
    return newest


def frame_for(link: Link, topic: str, template: str) -> int:
    """The id of the schema by which a template's messages are written to a topic; 0 where they are JSON.

    Raises:
        Refused: The template does not make up messages by the topic's schema.
    """
    schema = schema_for(link, topic)
    if schema is None:
        return 0
    schema = fitting(link, topic, template_of(template), schema)
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


class Payloads(Struct, frozen=True, kw_only=True):
    """Endless messages.

    Attributes:
        template: Of synthetic messages; empty for `values` or `size`.
        frame: Id of the Avro schema of synthetic messages; 0 for JSON.
        prefix: Of the ids of synthetic messages.
        symbols: The keys of synthetic messages.
        values: They take turns.
        size: Bytes of values made up from the seed, which cannot be compressed; 0 for `values`.
        keys: Of `values`, or of values of a size; they take turns.
    """

    template: str = ""
    frame: int = 0
    prefix: str = ""
    symbols: list[str] = []
    values: list[bytes] = []
    size: int = 0
    keys: list[str] = []
    seed: int = 1

    def messages(self) -> Iterator[dict[str, Any]]:
        """The messages, as librdkafka's client takes them; none comes again before many others have."""
        if self.template:
            made = made_up(self.template, self.prefix, self.seed, self.symbols, self.frame)
            return ({"key": key, "value": value} for key, value in made)
        length = POOL - POOL % (len(self.keys) or 1) or len(self.keys)  # so that keys go on evenly
        pool = [{"key": key, "value": value} for key, value in islice(given(self._values(), self.keys), length)]
        return cycle(pool)

    def _values(self) -> list[bytes]:
        if self.values:
            return self.values
        made_up = random.Random(self.seed)  # noqa: S311 - a load, not a secret
        return [made_up.randbytes(self.size) for _ in range(max(1, min(POOL, POOL_BYTES // self.size)))]

"""The roles of a stack: what plays each part here, by the names that runbooks use for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct

from k2run.errors import Inapplicable
from k2run.language.problems import Problem, did_you_mean
from k2run.language.quantities import Duration, decode_quantity, quantified

if TYPE_CHECKING:
    from collections.abc import Container

    from k2run.language.document import Document, Trail

PREFIX = "roles."
"""Before the name of a role where services are named too: `requires: [broker, roles.level]`."""

_METHODS = frozenset({"get", "items", "keys", "values"})


class Form(StrEnum):
    """How the value of a message is written."""

    JSON = "json"
    AVRO = "avro"
    RAW = "raw"


class Metric(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure among the metrics of a service.

    Attributes:
        service: The service that has it at its `metrics` URL.
        metric: Its name.
        labels: The labels of the series that counts.
    """

    service: str
    metric: str
    labels: dict[str, str] = {}


class Endpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A path of a service.

    Attributes:
        service: The service, by its `url`.
        path: The path below it.
    """

    service: str
    path: str


class Probe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a probe message is made: a recovery writes one to prove that data flows from end to end.

    Attributes:
        template: The template that makes it up.
        key: Its key, by which it is found again.
    """

    template: str
    key: str


class Role(NamedTuple):
    """A role that built-in runbooks ask for.

    Attributes:
        kind: The type of its value.
        help: What plays it.
    """

    kind: Any
    help: str


ROLES: dict[str, Role] = {
    "topic": Role(str, "Topic with the live messages."),
    "group": Role(str, "Consumer group whose lag counts."),
    "table": Role(str, "Table that the consumer fills."),
    "format": Role(Form, "How the values of the topic's messages are written."),
    "subject": Role(str, "Subject of their schema in the schema registry."),
    "fresh": Role(Duration, "Age of the newest row up to which all is well."),
    "health": Role(Endpoint, "Where a JSON body tells by `status: healthy` or `unhealthy` how the platform is."),
    "probe": Role(Probe, "How a probe message is made; declaring it allows recoveries to write one."),
    "level": Role(Metric, "Level of degradation; 0 is normal."),
    "level_seconds": Role(Metric, "Seconds spent at each level, by the label `level`."),
    "produced": Role(Metric, "Messages that the producer has written so far."),
    "shed": Role(Metric, "Messages shed so far."),
    "rows_written": Role(Metric, "Rows written to the table so far."),
    "committed_at": Role(Metric, "Unix time of the last commit to the table."),
    "awaits_schema": Role(Metric, "1 while the consumer waits for a schema that no registry gives it, else 0."),
    "dead_letters": Role(Metric, "Messages set aside because they could not be read."),
}
"""The roles of built-in runbooks. A stack may declare more, for runbooks of its own."""


class Roles(Mapping[str, Any]):
    """The roles that a stack declares, filled in when they are asked for.

    Args:
        stack: Name of the stack.
        declared: What its file says.
        read: Fills in the role of a name.
    """

    __slots__ = ("_declared", "_read", "_stack")

    def __init__(self, stack: str, declared: Mapping[str, Any], read: Callable[[str], Any]) -> None:
        self._stack = stack
        self._declared = declared
        self._read = read

    def __getitem__(self, name: str) -> Any:
        if name in self._declared:
            return self._read(name)
        if name in _METHODS:
            raise KeyError(name)
        raise Inapplicable(self.missing(name))

    def get(self, name: str, default: Any = None) -> Any:
        """The role of that name, or something else where none is declared."""
        return self._read(name) if name in self._declared else default

    def __contains__(self, name: object) -> bool:
        return name in self._declared

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)

    def __repr__(self) -> str:
        return f"Roles({', '.join(self._declared)})"

    def missing(self, name: str) -> str:
        """Why a runbook cannot ask for a role here; empty when it can."""
        if name in self._declared:
            return ""
        near = "" if name in ROLES else did_you_mean(name, self._declared)
        return f"cannot say: the stack {self._stack!r} declares no role {name!r}{near and f'; {near}'}"


def role_of(name: str, value: Any) -> Any:
    """A declared role as a value of its type.

    Raises:
        msgspec.ValidationError: It does not fit.
    """
    if name not in ROLES:
        return quantified(value)
    return msgspec.convert(value, ROLES[name].kind, dec_hook=decode_quantity, strict=False)


def role_problems(document: Document, declared: Any, services: Container[str]) -> Iterator[Problem]:
    """What is wrong with `roles:`, before anything in it is filled in.

    Args:
        document: The stack file.
        declared: What stands under `roles:`.
        services: Names of the stack's services.
    """
    if not isinstance(declared, dict):
        yield document.problem("K203", "`roles` is a mapping of names to what plays them", ("roles",))
        return
    for name, value in declared.items():
        trail: Trail = ("roles", name)
        if not str(name).isidentifier() or name in _METHODS:
            yield document.problem("K203", f"`{name}` cannot be a name in `{{{{ }}}}`", trail, key=True)
        elif value is None or value in ({}, []):
            hint = "leave the role out where nothing plays it: what asks for it is then not applicable"
            yield document.problem("K202", f"nothing plays the role `{name}`", trail, key=True, hint=hint)
        elif isinstance(value, dict):
            yield from _service(document, trail, value, services)


def _service(document: Document, trail: Trail, value: dict[str, Any], services: Any) -> Iterator[Problem]:
    named = value.get("service")
    if isinstance(named, str) and "{{" not in named and named not in services:
        hint = did_you_mean(named, services)
        yield document.problem("K501", f"there is no service {named!r}", (*trail, "service"), hint=hint)

"""Connections: what a stack file says about reaching one system, as a type that actions ask for.

An adapter (also a third party's) defines its connection by deriving from `Connection`:

    class Kafka(Connection, key="kafka"):
        bootstrap: str
        config: dict[str, str] = {}

and a stack file fills it under `connections: {kafka: {bootstrap: 127.0.0.1:9092}}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import msgspec

from k2run.errors import NotApplicable, StackInvalid
from k2run.language.problems import did_you_mean
from k2run.language.quantities import decode_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping


class Site(Protocol):
    """What a connection may ask of the stack it belongs to."""

    @property
    def name(self) -> str:
        """The stack's name."""
        ...

    def settings(self, key: str) -> Mapping[str, Any] | None:
        """The resolved settings under `connections: {key: …}`, or None when the stack has none."""
        ...


class ConnectionMeta(msgspec.StructMeta):
    """Lets a connection say its `key` where its class is declared."""

    def __new__(  # noqa: D102 - as `type` does
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], *, key: str = "", **options: Any
    ) -> Any:
        if key:
            namespace["key"] = key
        return super().__new__(mcls, name, bases, namespace, **options)


class Connection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, metaclass=ConnectionMeta):
    """Base of all connections; a frozen value, cheap to make, that opens nothing by itself."""

    key: ClassVar[str] = ""

    @classmethod
    def of(cls, site: Site) -> Self:
        """This connection as the stack describes it.

        Raises:
            NotApplicable: The stack has no such connection.
            StackInvalid: The stack's settings do not fit, or their name is mistyped.
        """
        settings = site.settings(cls.key)
        if settings is None:
            near = did_you_mean(cls.key, getattr(site, "connections", ()))
            if near:  # a name that is mistyped is a mistake, and not something that the stack has not
                raise StackInvalid(
                    f"the stack {site.name!r} has no connection {cls.key}, but one that is called nearly so; {near}",
                    hint="correct its name under `connections:`; `k2run validate` shows its place",
                )
            raise NotApplicable(
                f"the stack {site.name!r} has no {cls.key} connection",
                hint=f"add `connections: {{{cls.key}: …}}` to its stack file",
            )
        try:
            return msgspec.convert(dict(settings), cls, dec_hook=decode_quantity, strict=False)
        except msgspec.ValidationError as error:
            raise StackInvalid(
                f"connections.{cls.key} of the stack {site.name!r}: {error}", hint="see `k2run doc` for its settings"
            ) from error

    def at(self, step: str) -> Self:  # noqa: ARG002 - most systems are the same for all steps
        """This connection for one step.

        Args:
            step: The step's path; "" where a call belongs to none.
        """
        return self

"""The services of a stack, as actions ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self, cast

from k2run.actions.connection import Connection, Site
from k2run.errors import NotApplicable
from k2run.language.problems import did_you_mean
from k2run.stack.model import RunBy, Service
from k2run.stack.stack import Stack  # noqa: TC001 - msgspec reads the types of fields

if TYPE_CHECKING:
    from k2run.stack.backend import Backend


class Services(Connection, frozen=True, kw_only=True, key="services"):
    """All services of the stack that a run works on."""

    needs_argument: ClassVar[str] = "service"

    stack: Stack

    @classmethod
    def of(cls, site: Site) -> Self:
        """The services of a stack; they are its own, not a setting."""
        return cls(stack=cast("Stack", site))

    def find(self, name: str) -> Service:
        """The service of that name.

        Raises:
            NotApplicable: This stack has none; the hint has the nearest name.
        """
        services = self.stack.services
        if name in services:
            return services[name]
        hint = did_you_mean(name, services) or (f"it has {', '.join(services)}" if services else "it has no services")
        raise NotApplicable(f"the stack {self.stack.name!r} has no service {name!r}", hint=hint)

    def all(self) -> list[Service]:
        """Every service, in the order of the stack file."""
        return list(self.stack.services.values())

    def backend(self, name: str) -> Backend:
        """What runs the service of that name.

        Raises:
            NotApplicable: This stack has none.
        """
        return backend_of(self.stack, self.find(name))


def backend_of(stack: Stack, service: Service) -> Backend:
    """What runs a service."""
    match service.run:
        case RunBy.PROCESS:
            from k2run.stack.processes import ProcessBackend

            return ProcessBackend(service, stack.state)
        case RunBy.DOCKER:
            from k2run.stack.containers import ContainerBackend, Docker

            return ContainerBackend(service, Docker(**(stack.settings("docker") or {})))
        case RunBy.EXTERNAL:
            from k2run.stack.externals import ExternalBackend

            return ExternalBackend(service)

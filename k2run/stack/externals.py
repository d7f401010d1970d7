"""Services that k2run does not run: they can be looked at over the network, and that is all."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from k2run.errors import NotApplicable
from k2run.stack.backend import LogLine, ServiceStatus, State, Usage
from k2run.stack.probes import probe, readiness

if TYPE_CHECKING:
    from datetime import datetime

    from k2run.actions.deadline import Deadline
    from k2run.stack.model import Service

LOOK_S = 2.0


class ExternalBackend:
    """Looks at one service from outside.

    Args:
        service: The service.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def status(self) -> ServiceStatus:
        """Whether it answers; by the stack's `ready` probe.

        Raises:
            NotApplicable: The stack does not say how to see that.
        """
        ready = readiness(self._service)
        if ready is None:
            self._refuse("looked at", "give it a `ready` probe in the stack file")
        seen = probe(ready, LOOK_S, self._service.headers)
        state = State.RUNNING if seen.ready else State.UNHEALTHY if seen.answered else State.STOPPED
        return ServiceStatus(service=self._service.name, state=state, detail=seen.detail)

    def start(self, deadline: Deadline) -> bool:  # noqa: ARG002
        """Cannot be done."""
        self._refuse("started")

    def stop(self, deadline: Deadline) -> bool:  # noqa: ARG002
        """Cannot be done."""
        self._refuse("stopped")

    def kill(self, deadline: Deadline) -> None:  # noqa: ARG002
        """Cannot be done."""
        self._refuse("killed")

    def pause(self, deadline: Deadline) -> None:  # noqa: ARG002
        """Cannot be done."""
        self._refuse("paused")

    def resume(self, deadline: Deadline) -> bool:  # noqa: ARG002
        """Cannot be done."""
        self._refuse("resumed")

    def log(self, *, lines: int, since: datetime | None, deadline: Deadline) -> list[LogLine]:  # noqa: ARG002
        """Cannot be done."""
        self._refuse("read the log of")

    def last_words(self, lines: int = 12) -> str:  # noqa: ARG002
        """Nothing is known of its log."""
        return ""

    def usage(self, over_s: float, deadline: Deadline) -> Usage:  # noqa: ARG002
        """Cannot be done."""
        self._refuse("measured")

    def _refuse(self, done: str, hint: str = "") -> NoReturn:
        raise NotApplicable(
            f"{self._service.name} cannot be {done}: k2run does not run it, it only reaches it over the network",
            hint=hint or "give it `run: process` or `run: docker` in the stack file",
        )

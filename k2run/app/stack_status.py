"""The health of a stack's services, as `k2run status` shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.stack import lifecycle
from k2run.stack.causes import causes_of

if TYPE_CHECKING:
    from k2run.stack.lifecycle import Look
    from k2run.stack.stack import Stack


class ServiceRow(Struct, frozen=True, kw_only=True):
    """One service.

    Attributes:
        run: How it is run: `process`, `container`, …
        state: What it is doing; `not applicable` where this machine cannot have it.
        works: Whether it runs and is ready; null where it is not applicable.
        pid: Of its process; null without one.
        uptime_s: Seconds since it started.
        detail: What it says of itself, or why it is not ready.
        why: Causes found in logs, at ports and on disks, each with its source.
    """

    service: str
    run: str
    state: str
    works: bool | None
    pid: int | None
    uptime_s: float | None
    restarts: int | None
    detail: str
    why: list[str]


class StackStatus(Struct, frozen=True, kw_only=True):
    """The services of one stack."""

    stack: str
    services: list[ServiceRow]

    @property
    def healthy(self) -> bool:
        """Whether every service that this machine can have runs and is ready."""
        return all(row.works is not False for row in self.services)


def status_of(stack: Stack) -> StackStatus:
    """Check every service of a stack."""
    return StackStatus(stack=stack.name, services=[_row(stack, look) for look in lifecycle.status(stack)])


def _row(stack: Stack, look: Look) -> ServiceRow:
    status, absent = look.status, stack.absent(look.service.name)
    works = status.state == "running" and (look.probe is None or look.probe.ready)
    return ServiceRow(
        service=look.service.name,
        run=str(look.service.run),
        state="not applicable" if absent else str(status.state),
        works=None if absent else works,
        pid=status.pid,
        uptime_s=status.uptime_s,
        restarts=status.restarts,
        detail=absent or (look.probe.detail if look.probe and not look.probe.ready else status.detail),
        why=[] if absent or works else [f"{why.says} ({why.source})" for why in causes_of(stack, look)],
    )

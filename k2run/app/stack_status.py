"""The health of a stack's services, as `k2run status` shows it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.recovery.symptoms import Presence, look_along
from k2run.stack import lifecycle
from k2run.stack.causes import causes_of

if TYPE_CHECKING:
    from k2run.actions.catalogue import Catalogue
    from k2run.recovery.symptoms import Sighting
    from k2run.stack.lifecycle import Look
    from k2run.stack.stack import Stack


class ServiceRow(Struct, frozen=True, kw_only=True):
    """One service.

    Attributes:
        run: How it is run: `process`, `container`, …
        state: What it is doing; `not applicable` where this machine cannot have it.
        works: Whether it runs and is ready; null where it is not applicable or cannot be known.
        pid: Of its process; null without one.
        uptime_s: Seconds since it started.
        detail: What it reports about itself, or why it is not ready.
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


class PathRow(Struct, frozen=True, kw_only=True):
    """One step of the data path.

    Attributes:
        works: Whether what is expected was seen; null where it could not be seen.
        detail: What was measured, or why nothing could be.
        expected: What should be seen, as written.
    """

    name: str
    works: bool | None
    detail: str
    expected: str


class StackStatus(Struct, frozen=True, kw_only=True):
    """The services of one stack.

    Attributes:
        data_path: What the stack declares as its data path, checked step by step.
    """

    stack: str
    services: list[ServiceRow]
    data_path: list[PathRow] = []

    @property
    def healthy(self) -> bool:
        """Whether everything that can be seen works: services and the data path."""
        works = [row.works for row in self.services]
        return False not in works and True in works and all(row.works for row in self.data_path)


def status_of(stack: Stack, catalogue: Catalogue) -> StackStatus:
    """Check every service of a stack, and its data path.

    Args:
        stack: Which.
        catalogue: The actions that check the data path.

    Raises:
        RunbookInvalid: The runbook of the data path has problems.
    """
    rows = [_row(stack, look) for look in lifecycle.status(stack)]
    path = look_along(stack, catalogue, threading.Event())
    return StackStatus(stack=stack.name, services=rows, data_path=[_path_row(one) for one in path])


def _path_row(seen: Sighting) -> PathRow:
    works = True if seen.presence is Presence.PRESENT else False if seen.broken else None
    return PathRow(name=seen.symptom, works=works, detail=seen.evidence, expected=seen.expected)


def _row(stack: Stack, look: Look) -> ServiceRow:
    status, absent = look.status, stack.absent(look.service.name)
    works = status.state == "running" and (look.probe is None or look.probe.ready)
    known = not absent and look.is_known
    return ServiceRow(
        service=look.service.name,
        run=str(look.service.run),
        state="not applicable" if absent else str(status.state) if known else "unknown",
        works=works if known else None,
        pid=status.pid,
        uptime_s=status.uptime_s,
        restarts=status.restarts,
        detail=absent or (look.probe.detail if look.probe and not look.probe.ready else status.detail),
        why=[] if works or not known else [f"{why.says} ({why.source})" for why in causes_of(stack, look)],
    )

"""What can be seen of a service and done to it, whoever runs it."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads the types of fields
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from k2run.actions.deadline import Deadline


class State(StrEnum):
    """What a service is doing."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABSENT = "absent"  # cannot be started here: no such program, no such container
    UNHEALTHY = "unhealthy"  # running, but not ready


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """A look at one service.

    Attributes:
        pid: The process (for a container: its first process on the host), when it runs.
        started_at: When it was started last.
        uptime_s: Seconds since then, when it runs.
        restarts: How often it was started again since the stack came up; None where it is not counted.
        detail: Why it is in this state, for people; may be empty.
        last_pid: The process that it was, when it does not run any more.
        ended_at: When it ended, as far as that is known.
        ended_by_us: When k2run ended it, and on whose command; empty when it did not.
    """

    service: str
    state: State
    pid: int | None = None
    started_at: datetime | None = None
    uptime_s: float | None = None
    restarts: int | None = None
    detail: str = ""
    last_pid: int | None = None
    ended_at: datetime | None = None
    ended_by_us: str = ""


class LogLine(Struct, frozen=True):
    """One line of a service's log; `at` is None when the line itself does not say."""

    text: str
    at: datetime | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """What a service uses of its machine.

    Attributes:
        cpu_percent: Of one core: 100 is one core busy, 200 two.
        rss_bytes: Memory in use, caches of files left out.
        processes: How many processes or threads of control it has.
        waiting_percent: How long its threads were ready to run and had no core, in the same unit; None where the system
            does not say.
    """

    cpu_percent: float
    rss_bytes: int
    processes: int
    waiting_percent: float | None = None


class Backend(Protocol):
    """Runs one service. Every method raises `Unreachable`, `Refused` or `NotApplicable` when it fails."""

    def status(self) -> ServiceStatus:
        """What the service is doing now."""
        ...

    def start(self, deadline: Deadline) -> bool:
        """Make it run; False when it ran already. Does not wait for it to be ready."""
        ...

    def stop(self, deadline: Deadline) -> bool:
        """Ask it to end, and end it at the deadline; False when it did not run."""
        ...

    def kill(self, deadline: Deadline) -> None:
        """End it at once, with everything it started; returns when it is gone."""
        ...

    def pause(self, deadline: Deadline) -> None:
        """Hold it where it stands; returns when it stands."""
        ...

    def resume(self, deadline: Deadline) -> bool:
        """Let a paused one go on; False when it was not paused."""
        ...

    def log(self, *, lines: int, since: datetime | None, deadline: Deadline) -> list[LogLine]:
        """The newest lines of its log, oldest first; with `since`, only those that say they are newer."""
        ...

    def last_words(self, lines: int = 12) -> str:
        """The end of what it logged since it was started last; for the message that says that it failed."""
        ...

    def usage(self, over_s: float, deadline: Deadline) -> Usage:
        """What it uses, measured over so many seconds."""
        ...

"""What the actions on services return."""

from __future__ import annotations

from typing import ClassVar

from k2run.actions.action import Result
from k2run.language.quantities import Duration, Size


class Status(Result, frozen=True, kw_only=True):
    """What a service is doing.

    Attributes:
        state: running, paused, stopped, absent (cannot be run here) or unhealthy.
        running: Whether it runs, healthy or not.
        pid: Its process, when it runs.
        uptime_s: Seconds since it was started, when it runs.
        started_at: When it was started last, UTC, ISO 8601; empty when unknown.
        restarts: How often it was started again since the stack came up; None where it is not counted.
        detail: Why it is in this state.
    """

    unknowable: ClassVar[frozenset[str]] = frozenset({"restarts"})

    service: str
    state: str
    running: bool
    pid: int | None = None
    uptime_s: float | None = None
    started_at: str = ""
    restarts: int | None = None
    detail: str = ""

    def headline(self) -> str:
        """Such as `consumer running for 12s` or `consumer stopped: ended by SIGKILL`."""
        if self.uptime_s is not None and self.running:
            return f"{self.service} {self.state} for {Duration(self.uptime_s)}"
        return f"{self.service} {self.state}" + (f": {self.detail}" if self.detail else "")


class Readiness(Result, frozen=True, kw_only=True):
    """A service that is ready.

    Attributes:
        ready: Always true: one that is not ready is a failure.
        elapsed_ms: How long its answer took.
        waited_s: Seconds until it was ready, from the start of the step.
    """

    service: str
    ready: bool
    elapsed_ms: float
    waited_s: float

    def headline(self) -> str:
        """Such as `api ready in 2.1s`."""
        return f"{self.service} ready in {Duration(self.waited_s)}"


class Seen(Result, frozen=True, kw_only=True):
    """What the probe of a service saw.

    Attributes:
        ready: It is ready.
        answered: Something answered, rightly or not.
        detail: What was wrong; empty when it is ready.
        elapsed_ms: How long the look took.
    """

    service: str
    ready: bool
    answered: bool
    detail: str = ""
    elapsed_ms: float = 0.0

    def headline(self) -> str:
        """Such as `api ready` or `api not ready: Connection refused`."""
        return f"{self.service} ready" if self.ready else f"{self.service} not ready: {self.detail}"


class Struck(Result, frozen=True, kw_only=True):
    """A fault that was injected.

    Attributes:
        state: What the service is doing now.
        pid: The process that the fault hit.
        seconds: How long the injection took.
    """

    service: str
    state: str
    pid: int | None
    seconds: float

    def headline(self) -> str:
        """Such as `consumer stopped (was pid 4711)`."""
        return f"{self.service} {self.state}" + (f" (was pid {self.pid})" if self.pid else "")


class Revived(Result, frozen=True, kw_only=True):
    """A service that runs again.

    Attributes:
        changed: False when it ran already.
        pid: Its process now.
        ready: Whether its `ready` probe was seen to succeed; None when the stack has none for it.
        seconds: How long that took.
    """

    service: str
    changed: bool
    pid: int | None
    ready: bool | None
    seconds: float

    def headline(self) -> str:
        """Such as `consumer ready in 3.2s`."""
        if not self.changed:
            return f"{self.service} ran already"
        return f"{self.service} {'ready' if self.ready else 'runs'} in {Duration(self.seconds)}"


class Lines(Result, frozen=True, kw_only=True):
    """What a service logged.

    Attributes:
        matches: How many lines fit.
        searched: How many lines were searched.
        lines: The newest of those that fit, at most 20, each cut after 1,000 characters.
    """

    service: str
    matches: int
    searched: int
    lines: list[str] = []

    def headline(self) -> str:
        """Such as `3 of 1,204 lines`."""
        return f"{self.matches:,} of {self.searched:,} lines"


class Resources(Result, frozen=True, kw_only=True):
    """What a service uses.

    Attributes:
        cpu_percent: Of one core: 100 is one core busy.
        rss: Memory in use, bytes.
        rss_mib: The same in MiB.
        processes: How many processes it has (for a container: tasks).
        waiting_percent: How long its threads were ready to run and had no core, of one core's time; None where the
            system does not say (containers, macOS).
    """

    service: str
    cpu_percent: float
    rss: int
    rss_mib: float
    processes: int
    waiting_percent: float | None = None

    def headline(self) -> str:
        """Such as `cpu 12.5 %, 180MiB`."""
        return f"cpu {self.cpu_percent:g} %, {Size(self.rss)}"

"""What the actions on containers return."""

from __future__ import annotations

from msgspec import Struct

from k2run.actions.action import Result, beginning
from k2run.adapters._command import Printed
from k2run.language.quantities import Duration, Size


class Listed(Struct, frozen=True, kw_only=True):
    """One container in a list.

    Attributes:
        state: running, paused, exited, created, restarting or dead.
        health: healthy, unhealthy, starting, or "" without a health check.
    """

    name: str
    image: str
    state: str
    health: str = ""


class Containers(Result, frozen=True, kw_only=True):
    """The containers of an engine.

    Attributes:
        count: How many there are.
        running: How many of them run.
        unhealthy: Names of those whose health check fails.
        not_running: Names of those that do not run.
        names: All names, sorted.
    """

    count: int
    running: int
    names: list[str]
    unhealthy: list[str]
    not_running: list[str]
    containers: list[Listed]

    def headline(self) -> str:
        """Such as `9 of 10 containers run, unhealthy: k2-api`."""
        shown = f"{self.running} of {self.count} containers run"
        return f"{shown}, unhealthy: {', '.join(self.unhealthy)}" if self.unhealthy else shown


class Inspected(Result, frozen=True, kw_only=True):
    """One container in detail.

    Attributes:
        uptime_s: Seconds since it was started, when it runs.
        restarts: How often the engine restarted it by its restart policy.
        exit_code: With what it ended; None while it runs or when it never ran.
        oom_killed: Whether it was ended for want of memory.
        memory_limit: Bytes; 0 is no limit.
        cpu_limit: Cores; 0 is no limit.
        networks: Names of the networks that it is connected to.
    """

    container: str
    image: str
    state: str
    health: str = ""
    pid: int | None = None
    uptime_s: float | None = None
    started_at: str = ""
    restarts: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    memory_limit: int = 0
    cpu_limit: float = 0.0
    networks: list[str] = []

    def headline(self) -> str:
        """Such as `k2-kafka running, healthy, up 2h`."""
        words = [f"{self.container} {self.state}", self.health, "out of memory" if self.oom_killed else ""]
        words.append(f"up {Duration(self.uptime_s)}" if self.uptime_s is not None else "")
        return ", ".join(word for word in words if word)


class Executed(Printed, frozen=True, kw_only=True):
    """A command that ran inside a container.

    Attributes:
        stdout: What it printed; of more than 8 MiB the beginning and the end.
        stderr: Its complaints, likewise.
        truncated: Only the beginning and the end of one of them are here; what an expression would find is unknown.
    """

    container: str
    exit_code: int
    stdout: str
    stderr: str
    elapsed_ms: float
    truncated: bool = False

    def headline(self) -> str:
        """Such as `exit code 0`, with the first line that it printed."""
        first = beginning((self.stdout.strip() or self.stderr.strip()).partition("\n")[0], 60)
        return f"exit code {self.exit_code}" + (f": {first}" if first else "")


class Limited(Result, frozen=True, kw_only=True):
    """The limits of a container.

    Attributes:
        memory: Bytes; 0 is no limit.
        cpus: Cores; 0 is no limit.
    """

    container: str
    memory: int
    cpus: float

    def headline(self) -> str:
        """Such as `k2-api may use 256MiB and 0.5 cores`."""
        memory = str(Size(self.memory)) if self.memory else "any memory"
        return f"{self.container} may use {memory} and {f'{self.cpus:g}' if self.cpus else 'all'} cores"


class Linked(Result, frozen=True, kw_only=True):
    """The networks of a container after a change.

    Attributes:
        changed: False when it was so already.
        networks: Names of the networks that it is connected to now.
    """

    container: str
    network: str
    changed: bool
    networks: list[str]

    def headline(self) -> str:
        """Such as `k2-api is on k2-network`."""
        return f"{self.container} is on {', '.join(self.networks) or 'no network'}"


class Copied(Result, frozen=True, kw_only=True):
    """A file that was copied into or out of a container.

    Attributes:
        inside: Its path in the container.
        outside: Its path on this machine.
        bytes: Its size.
        sha256: The hash of what it holds.
    """

    container: str
    inside: str
    outside: str
    bytes: int
    sha256: str

    def headline(self) -> str:
        """Such as `/data/reference.csv of k2-api, 12KiB`."""
        return f"{self.inside} of {self.container}, {Size(self.bytes)}"

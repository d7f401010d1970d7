"""What the services under load use of their machine, measured while the load is on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from k2run.actions.deadline import Deadline
from k2run.errors import K2runError

if TYPE_CHECKING:
    from types import TracebackType

    from k2run.stack.services import Services

SLICE = 0.5
"""Seconds of one measurement; the memory is the highest of them, the processor time their mean."""


class Used(Struct, frozen=True, kw_only=True):
    """What one service used.

    Attributes:
        cores: Processor time over time: 1.5 is one core and a half.
        memory_bytes: The most memory in use, caches of files left out.
        unknown: Why it could not be seen; empty when it could.
    """

    cores: float | None = None
    memory_bytes: int | None = None
    unknown: str = ""


class Watch:
    """Looks at services for as long as its block lasts; one thread each."""

    def __init__(self, services: Services, names: list[str]) -> None:
        self._services = services
        self._seen: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
        self._unknown: dict[str, str] = {}
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, args=(name,), name=f"watch {name}", daemon=True) for name in names
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * SLICE)

    def used(self) -> dict[str, Used]:
        """By service; afterwards."""
        return {name: self._sum_up(name) for name in self._seen}

    def _look(self, name: str) -> None:
        try:
            backend = self._services.backend(name)
            while not self._over.is_set():
                usage = backend.usage(SLICE, Deadline(10 * SLICE, self._over))
                self._seen[name].append((usage.cpu_percent / 100, usage.rss_bytes))
        except K2runError as error:
            if not self._over.is_set():
                self._unknown[name] = error.message

    def _sum_up(self, name: str) -> Used:
        seen = self._seen[name]
        if not seen:
            return Used(unknown=self._unknown.get(name, f"the load was over in less than {SLICE:g}s"))
        cores = sum(cores for cores, _ in seen) / len(seen)
        return Used(
            cores=round(cores, 2), memory_bytes=max(memory for _, memory in seen), unknown=self._unknown.get(name, "")
        )

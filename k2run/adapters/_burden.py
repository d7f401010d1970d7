"""A process that is a burden to the machine or to a service, until it is ended or its time is over.

`python -m k2run.adapters._burden KIND SECONDS ARGUMENT…`; says `ready` once it weighs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

PAGE = 4096
_REST_S = 0.2


def cpu(workers: str) -> Iterator[None]:
    """Keep so many cores busy."""
    others = range(int(workers) - 1)
    if all(os.fork() for _ in others):  # each child goes on below, and ends with the group
        yield
    while True:
        for _ in range(1_000_000):
            pass
        yield


def memory(size: str) -> Iterator[None]:
    """Hold so many bytes, every page of them in use."""
    held = bytearray(int(size))
    for at in range(0, len(held), PAGE):
        held[at] = 1
    while True:
        yield
        time.sleep(_REST_S)


def lock(path: str) -> Iterator[None]:
    """Hold the lock that keeps everybody else from writing to an SQLite database."""
    import sqlite3

    with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=10, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        while True:
            yield
            time.sleep(_REST_S)


def crash(stack: str, home: str, service: str, every: str) -> Iterator[None]:
    """Kill a service and start it again, over and over."""
    from k2run.actions.deadline import Deadline
    from k2run.errors import K2runError
    from k2run.stack.loading import load_stack
    from k2run.stack.services import backend_of

    loaded = load_stack(stack, near=None, home=Path(home), overrides={})
    backend = backend_of(loaded, loaded.services[service])
    yield
    while True:
        try:
            backend.start(Deadline(float(every)))
            time.sleep(float(every))
            backend.kill(Deadline(float(every)))
        except K2runError:  # it ended by itself meanwhile: all the better
            time.sleep(_REST_S)
        yield


KINDS: dict[str, Callable[..., Iterator[None]]] = {"cpu": cpu, "memory": memory, "lock": lock, "crash": crash}


def main() -> None:
    """Weigh until the time is over."""
    kind, seconds, *arguments = sys.argv[1:]
    ends = time.monotonic() + float(seconds)
    weighing = KINDS[kind](*arguments)
    next(weighing)
    print("ready", flush=True)
    for _ in weighing:
        if time.monotonic() > ends:
            break
    os.killpg(0, signal.SIGKILL)  # it leads its own group: whatever it started ends with it


if __name__ == "__main__":
    main()

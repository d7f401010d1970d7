"""A node of the schema registry: Confluent's HTTP API for Avro schemas, over a state that all nodes share.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import argparse
import fcntl
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.k2.platform.program import LOOPBACK, give_up, log, require_free_port, web_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.k2.platform.registry_store import Store


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.registry", description=__doc__)
    parser.add_argument("--port", type=int, default=18081, help="port to answer on (default: 18081)")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on (default: this host alone)")
    parser.add_argument("--state", type=Path, required=True, help="file of the schemas, the same for every node")
    parser.add_argument("--compatibility", default="BACKWARD", help="level of a new registry (default: BACKWARD)")
    return parser


def open_state(path: Path) -> Store:
    """Open the state. One that cannot be read is moved aside, which is told, and the registry begins empty.

    Whoever writes registers its schemas when it starts; a consumer waits until the subject of its topic is there.
    """
    from k2run.k2.platform.registry_store import StateError, Store

    try:
        with _alone(path):
            try:
                store = Store(path)
            except StateError as problem:
                aside = _moved_aside(path)
                log("registry_state_moved_aside", "error", problem=problem, moved_to=aside)
                store = Store(path)
    except (OSError, StateError) as problem:
        give_up(f"the registry's state cannot be opened: {problem}")
    if store.created:
        log("registry_state_created", "warning", file=path, subjects=0)
    return store


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other node opens the state meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _moved_aside(path: Path) -> Path:
    """Where the state is now, its log beside it."""
    aside = path.with_name(f"{path.name}.unreadable-{time.time_ns()}")
    path.rename(aside)
    for more in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + more).rename(aside.with_name(aside.name + more))
    return aside


def main() -> None:
    """Serve until told to stop."""
    options = arguments().parse_args()
    require_free_port(options.port, options.host)
    started = time.monotonic()

    from k2run.k2.platform.registry_api import application
    from k2run.k2.platform.registry_rules import LEVELS

    level = options.compatibility.upper()
    if level not in LEVELS:
        give_up(f"--compatibility {options.compatibility}: expected one of {', '.join(LEVELS)}")
    server = web_server(application(open_state(options.state), level), options.port, options.host)
    log(
        "registry_listening",
        url=f"http://{options.host}:{options.port}",
        state=options.state,
        seconds=time.monotonic() - started,
    )
    server.run()
    log("registry_stopped")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

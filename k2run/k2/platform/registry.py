"""A node of the schema registry: Confluent's HTTP API for Avro schemas, over a state that all nodes share.

https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.k2.platform.program import LOOPBACK, give_up, log, require_free_port

if TYPE_CHECKING:
    from k2run.k2.platform.registry_store import Store

_STOP_WITHIN_S = 1


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.registry", description=__doc__)
    parser.add_argument("--port", type=int, default=18081, help="port to answer on (default: 18081)")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on (default: this host alone)")
    parser.add_argument("--state", type=Path, required=True, help="file of the schemas, the same for every node")
    parser.add_argument("--compatibility", default="BACKWARD", help="level of a new registry (default: BACKWARD)")
    return parser


def open_state(path: Path) -> Store:
    """Open the state, or end with one line that says what is wrong with it and what can be done."""
    from k2run.k2.platform.registry_store import StateError, Store

    try:
        store = Store(path)
    except StateError as problem:
        give_up(
            f"{problem}. Move the file aside and start the registry again: it begins empty, and whoever writes "
            "registers its schemas when it starts"
        )
    if store.created:
        log("registry_state_created", "warning", file=path, subjects=0)
    return store


def main() -> None:
    """Serve until told to stop."""
    options = arguments().parse_args()
    require_free_port(options.port, options.host)
    started = time.monotonic()

    import uvicorn

    from k2run.k2.platform.registry_api import application
    from k2run.k2.platform.registry_rules import LEVELS

    level = options.compatibility.upper()
    if level not in LEVELS:
        give_up(f"--compatibility {options.compatibility}: expected one of {', '.join(LEVELS)}")
    config = uvicorn.Config(
        application(open_state(options.state), level),
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_STOP_WITHIN_S,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
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

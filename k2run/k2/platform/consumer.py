"""The consumer: broker to Iceberg, each message exactly once, shedding load by K2's degradation cascade.

Offsets are committed in the same table commit as the rows, so a kill at any moment loses nothing and doubles nothing.
Messages that are shed are put aside in files and go into the table when the level is back to NORMAL. A message id that
was already written is left out if it is among the last 200,000 (at least) of its table.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from k2run.k2.platform import store_files
from k2run.k2.platform.cascade import COOLDOWN_S
from k2run.k2.platform.program import (
    LOOPBACK,
    add_broker,
    give_up,
    log,
    require_free_port,
    serve_metrics,
    stop_signal,
    wait_until,
)

if TYPE_CHECKING:
    import threading

    from k2run.k2.platform.pipeline import Pipeline

_LOCK_WAIT_S = 5.0
_SWITCH_S = 0.001  # a commit waits for the thread that decodes; with Python's own 5 ms, a hundred times each


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.consumer", description=__doc__)
    add_broker(parser)
    store_files.add_catalog(parser)
    store_files.add_store(parser)
    parser.add_argument(
        "--state", type=Path, required=True, help="directory of what was set aside: shed messages, dead letters"
    )
    parser.add_argument(
        "--patience", type=float, default=30.0, help="seconds a commit is tried before the program ends (default: 30)"
    )
    parser.add_argument("--metrics-port", type=int, default=19095, help="port of /metrics (default: 19095)")
    parser.add_argument("--host", default=LOOPBACK, help="address that /metrics listens on (default: this host alone)")
    parser.add_argument("--group", default="k2-iceberg-writer-crypto-v2", help="consumer group of the offsets")
    parser.add_argument(
        "--memory-budget-mib", type=float, default=1024.0, help="memory at which the budget is used up (default: 1024)"
    )
    parser.add_argument(
        "--cooldown", type=float, default=COOLDOWN_S, help="seconds a level holds before it may fall (default: 30)"
    )
    parser.add_argument(
        "--lag-scale", type=float, default=1.0, help="factor on the lag thresholds: 0.01 makes SOFT begin at 1,000"
    )
    parser.add_argument("--batch", type=int, default=50_000, help="most messages in one commit (default: 50000)")
    parser.add_argument("--interval", type=float, default=1.0, help="most seconds between commits (default: 1)")
    return parser


def claim(state: Path) -> TextIO:
    """Become the only consumer with this directory until the process ends, however it ends."""
    state.mkdir(parents=True, exist_ok=True)
    held = (state / "consumer.lock").open("w", encoding="utf-8")
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                give_up(f"another consumer has its files in {state}")
            time.sleep(0.1)
        else:
            return held


def consume(options: argparse.Namespace, stopping: threading.Event) -> None:
    """Run the consumer until told to stop."""
    from k2run.k2.platform import topics
    from k2run.k2.platform.counters import ConsumerMetrics

    metrics = ConsumerMetrics(options.group)
    serve_metrics(options.metrics_port, options.host)

    from k2run.k2.platform.pipeline import open_pipeline  # takes over a second, while the others start
    from k2run.k2.platform.table import open_catalog
    from k2run.k2.platform.table_writer import UNWRITTEN, first_line

    client = topics.admin(options.bootstrap)
    # A batch is fifty thousand objects without a cycle among them; looking for one cost a fifth of the throughput.
    sys.setswitchinterval(_SWITCH_S)
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    made: list[Pipeline] = []
    said: list[str] = []

    def opened() -> bool:
        try:
            made.append(
                open_pipeline(options, open_catalog(options.catalog, options.s3_endpoint), client, metrics, stopping)
            )
        except UNWRITTEN as problem:
            why = first_line(problem)
            if store_files.refuses_credentials(why):
                give_up(f"the object store refuses the credentials, of this program or of the catalog: {why}")
            if why not in said:
                said.append(why)
                log("tables_not_open_yet", "warning", error=why)
            return False
        return True

    what = f"the catalog at {options.catalog} or its object store"
    if not wait_until(opened, stopping, what, every_s=0.2, why=lambda: said[-1] if said else ""):
        return
    (drain,) = made
    if not wait_until(drain.ready, stopping, f"the broker at {options.bootstrap}"):
        return
    try:
        drain.run(stopping)
    except OSError as problem:
        if not stopping.is_set():
            give_up(f"the tables of {options.catalog} cannot be written: {problem}")
        log("last_batch_not_committed", "warning", error=problem)  # it is read again, from where the table ends


def main() -> None:
    """Run the consumer until a signal ends it."""
    options = arguments().parse_args()
    if options.batch < 1 or options.memory_budget_mib <= 0:
        give_up("--batch and --memory-budget-mib must be positive")
    stopping = stop_signal()
    require_free_port(options.metrics_port, options.host)
    code = 0
    with claim(options.state):
        try:
            consume(options, stopping)
            log("consumer_stopped")
        except SystemExit as given_up:  # a recovery that looks must see that it has ended
            code = int(given_up.code or 0)
    sys.stdout.flush()
    # Threads of the client libraries may be waiting for a broker that is gone; everything that matters is committed.
    os._exit(code)


if __name__ == "__main__":
    main()

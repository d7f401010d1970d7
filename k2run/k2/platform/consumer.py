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

from k2run.k2.platform.cascade import COOLDOWN_S
from k2run.k2.platform.program import LOOPBACK, give_up, log, require_free_port, serve_metrics, stop_signal, wait_until

if TYPE_CHECKING:
    import threading

_LOCK_WAIT_S = 5.0


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.consumer", description=__doc__)
    parser.add_argument("--bootstrap", default="127.0.0.1:19092", help="the broker (default: 127.0.0.1:19092)")
    parser.add_argument(
        "--registry",
        default="",
        metavar="URLS",
        help="comma-separated schema registry nodes; without any, JSON is read",
    )
    parser.add_argument("--warehouse", type=Path, required=True, help="directory of the tables")
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


def claim(warehouse: Path) -> TextIO:
    """Become the warehouse's only writer until the process ends, however it ends."""
    warehouse.mkdir(parents=True, exist_ok=True)
    held = (warehouse / "consumer.lock").open("w", encoding="utf-8")
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                give_up(f"another consumer is writing to {warehouse}")
            time.sleep(0.1)
        else:
            return held


def consume(options: argparse.Namespace, stopping: threading.Event) -> None:
    """Run the consumer until told to stop."""
    from k2run.k2.platform import topics
    from k2run.k2.platform.consumer_metrics import ConsumerMetrics

    metrics = ConsumerMetrics(options.group)
    serve_metrics(options.metrics_port, options.host)

    from pyiceberg.exceptions import CommitFailedException  # takes over a second, while the broker starts

    from k2run.k2.platform.pipeline import open_pipeline

    client = topics.admin(options.bootstrap)
    # A batch is fifty thousand objects without a cycle among them; looking for one cost a fifth of the throughput.
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    drain = open_pipeline(options, client, metrics, stopping)
    if not wait_until(drain.ready, stopping, f"the broker at {options.bootstrap}"):
        return
    try:
        drain.run(stopping)
    except (OSError, CommitFailedException) as problem:
        give_up(f"the tables under {options.warehouse} cannot be written: {problem}")


def main() -> None:
    """Run the consumer until a signal ends it."""
    options = arguments().parse_args()
    if options.batch < 1 or options.memory_budget_mib <= 0:
        give_up("--batch and --memory-budget-mib must be positive")
    stopping = stop_signal()
    require_free_port(options.metrics_port, options.host)
    with claim(options.warehouse):
        consume(options, stopping)
    log("consumer_stopped")
    sys.stdout.flush()
    # Threads of the client libraries may be waiting for a broker that is gone; everything that matters is committed.
    os._exit(0)


if __name__ == "__main__":
    main()

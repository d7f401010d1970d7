"""`kafka.lag` over a topic of many partitions, each with messages, on the sandbox's broker.

    python benchmarks/kafka_lag.py [--partitions 1000] [--messages 20000] [--rounds 20]

The bar is 2 s for each question, the slowest one included. An answer that is not exact ends the benchmark.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from sandbox_programs import free_port, programs, until_up

from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import actions
from k2run.adapters.kafka.client import Kafka

BAR_S = 2.0
TOPIC = "bench-lag"
GROUP = "bench-lag-group"


def fill(kafka: Kafka, partitions: int, messages: int) -> None:
    """Make the topic, write to it under keys of all kinds, and put a group at its beginning."""
    actions.create_topic(kafka, Deadline(60), TOPIC, partitions=partitions)
    keys = [str(number) for number in range(5 * partitions)]
    actions.produce(kafka, Deadline(60), TOPIC, count=messages, values=["x"], keys=keys)
    actions.reset_offsets(kafka, Deadline(60), TOPIC, GROUP, to="earliest")


def seconds(kafka: Kafka, messages: int) -> float:
    began = time.monotonic()
    lag = actions.lag(kafka, Deadline(60), TOPIC, GROUP)
    taken = time.monotonic() - began
    if lag.total != messages:
        sys.exit(f"the lag is {messages:,}, and {lag.total:,} was answered")
    return taken


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--partitions", type=int, default=1000)
    options.add_argument("--messages", type=int, default=20_000, help="in all of them together")
    options.add_argument("--rounds", type=int, default=20, help="questions")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="k2-lag-") as name, programs(Path(name)) as run:
        kafka = Kafka(bootstrap=f"127.0.0.1:{free_port()}")
        run.start("broker", "--port", kafka.bootstrap.rpartition(":")[2])
        until_up(lambda: actions.cluster(kafka, Deadline(5)))
        fill(kafka, given.partitions, given.messages)
        taken = [seconds(kafka, given.messages) for _ in range(given.rounds)]
    print(
        f"lag over {given.partitions:,} partitions: median {statistics.median(taken):.2f} s, "
        f"worst {max(taken):.2f} s of {len(taken)}  bar {BAR_S:.2f} s  {'holds' if max(taken) <= BAR_S else 'MISSED'}"
    )
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    sys.exit(max(taken) > BAR_S)


if __name__ == "__main__":
    main()

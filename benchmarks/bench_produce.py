"""`bench.produce` against a bare confluent-kafka loop with the same settings, in turn, on the sandbox's broker.

    python benchmarks/bench_produce.py [--messages 100000] [--size 500] [--rounds 5]

The bare loop writes one message after the other, counts acknowledgements and measures nothing else. The bar is 0.8 x.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import Producer
from no_services import no_services
from sandbox_programs import free_port, programs, until_up

from k2run.actions.deadline import Deadline
from k2run.adapters._kafka.link import Kafka
from k2run.bench.actions import produce
from k2run.bench.producing import SETTINGS
from k2run.language.quantities import Duration, Size

if TYPE_CHECKING:
    from k2run.stack.services import Services

BAR = 0.8
WAITING = 20_000
WARM_UP = Duration(1)
TOPIC = "bench-produce"


def bare(bootstrap: str, messages: int, size: int) -> float:
    """Acknowledged messages a second."""
    producer = Producer({**SETTINGS, "bootstrap.servers": bootstrap, "queue.buffering.max.messages": WAITING})
    values = [os.urandom(size) for _ in range(1000)]
    failed = acknowledged = 0

    def told(error: object, _message: object) -> None:
        nonlocal failed, acknowledged
        failed += error is not None
        acknowledged += error is None

    for value in values:  # an idempotent producer spends its first half second on its identity
        producer.produce(TOPIC, value)
    producer.flush()
    began = time.monotonic()
    for number in range(messages):
        while True:
            try:
                producer.produce(TOPIC, values[number % 1000], on_delivery=told)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    producer.flush()
    seconds = time.monotonic() - began
    if failed or acknowledged != messages:
        sys.exit(f"the bare loop: {acknowledged} of {messages} acknowledged, {failed} failed")
    return messages / seconds


def ours(bootstrap: str, services: Services, messages: int, size: int) -> float:
    kafka = Kafka(bootstrap=bootstrap)
    met = produce(
        kafka,
        services,
        Deadline(120),
        topic=TOPIC,
        partitions=4,
        size=Size(size),
        iterations=messages,
        warm_up=WARM_UP,
        waiting=WAITING,
    )
    return met.rate


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--messages", type=int, default=100_000, help="of each turn")
    options.add_argument("--size", type=int, default=500, help="bytes of each")
    options.add_argument("--rounds", type=int, default=5, help="turns of each of the two")
    given = options.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="k2-produce-") as name,
        programs(Path(name)) as run,
        no_services() as services,
    ):
        bootstrap = f"127.0.0.1:{free_port()}"
        run.start("broker", "--port", bootstrap.rpartition(":")[2])
        until_up(lambda: ours(bootstrap, services, 1000, 100))
        rates = [
            (ours(bootstrap, services, given.messages, given.size), bare(bootstrap, given.messages, given.size))
            for _ in range(given.rounds)
        ]
    ratio = statistics.median(mine / peer for mine, peer in rates)
    mine, peer = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"{given.messages:,} messages of {given.size} bytes: {mine:,.0f}/s, a bare loop {peer:,.0f}/s: {ratio:.2f} x  "
        f"bar {BAR:.2f} x  {'holds' if ratio >= BAR else 'MISSED'}"
    )
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    sys.exit(ratio < BAR)


if __name__ == "__main__":
    main()

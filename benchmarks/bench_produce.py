"""`bench.produce` against a bare confluent-kafka loop with the same settings, in turn, on the sandbox's broker.

    python benchmarks/bench_produce.py [--messages 100000] [--size 500] [--rounds 5] [--kinds]

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
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import Producer
from no_services import no_services
from sandbox_programs import free_port, programs, until_up

from k2run.actions.deadline import Deadline
from k2run.adapters.kafka.client import Kafka, Setting
from k2run.bench.actions import produce
from k2run.bench.producing import SETTINGS
from k2run.language.quantities import Duration, Size

if TYPE_CHECKING:
    from k2run.stack.services import Services

BAR = 0.8
WAITING = 20_000
WARM_UP = Duration(1)
TOPIC = "bench-produce"


class Kind(NamedTuple):
    """What is written: so many messages a turn, so large, with these keys and settings of librdkafka."""

    name: str
    messages: int
    size: int
    keys: tuple[str, ...] = ()
    settings: tuple[tuple[str, Setting], ...] = ()


KINDS = (
    Kind("100 B", 100_000, 100),
    Kind("1 kB", 50_000, 1000),
    Kind("100 kB", 1000, 100_000),
    Kind("1 kB, 1,000 keys", 50_000, 1000, tuple(f"key-{number}" for number in range(1000))),
    Kind("1 kB, acks 1", 50_000, 1000, (), (("acks", "1"), ("enable.idempotence", False))),
    Kind("1 kB, not compressed", 50_000, 1000, (), (("compression.type", "none"),)),
    Kind("1 kB, zstd", 50_000, 1000, (), (("compression.type", "zstd"),)),
)
MOST_BYTES = 20_000_000
"""Of the values that the bare loop holds ready."""


def bare(bootstrap: str, kind: Kind) -> float:
    """Acknowledged messages a second."""
    settings = {**SETTINGS, **dict(kind.settings)}
    producer = Producer({**settings, "bootstrap.servers": bootstrap, "queue.buffering.max.messages": WAITING})
    values = [os.urandom(kind.size) for _ in range(min(1000, MOST_BYTES // kind.size))]
    keys = kind.keys or (None,)
    failed = acknowledged = 0

    def told(error: object, _message: object) -> None:
        nonlocal failed, acknowledged
        failed += error is not None
        acknowledged += error is None

    for value in values:  # an idempotent producer spends its first half second on its identity
        producer.produce(TOPIC, value)
    producer.flush()
    began = time.monotonic()
    for number in range(kind.messages):
        while True:
            try:
                key = keys[number % len(keys)]
                producer.produce(TOPIC, values[number % len(values)], key=key, on_delivery=told)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    producer.flush()
    seconds = time.monotonic() - began
    if failed or acknowledged != kind.messages:
        sys.exit(f"the bare loop: {acknowledged} of {kind.messages} acknowledged, {failed} failed")
    return kind.messages / seconds


def ours(bootstrap: str, services: Services, kind: Kind) -> float:
    kafka = Kafka(bootstrap=bootstrap)
    met = produce(
        kafka,
        services,
        Deadline(120),
        topic=TOPIC,
        partitions=4,
        size=Size(kind.size),
        keys=[*kind.keys],
        settings=dict(kind.settings),
        iterations=kind.messages,
        warm_up=WARM_UP,
        waiting=WAITING,
    )
    if met.rate is None:
        sys.exit(f"k2run: {met.headline()}")
    return met.rate


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--messages", type=int, default=100_000, help="of each turn")
    options.add_argument("--size", type=int, default=500, help="bytes of each")
    options.add_argument("--kinds", action="store_true", help="sizes, keys, acks and compressions, each by itself")
    options.add_argument("--rounds", type=int, default=5, help="turns of each of the two")
    given = options.parse_args()
    kinds = KINDS if given.kinds else (Kind(f"{given.size} B", given.messages, given.size),)
    fine = True
    for kind in kinds:  # a broker of its own for each: the sandbox's keeps all in memory
        fine &= turns(kind, given.rounds)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    sys.exit(not fine)


def turns(kind: Kind, rounds: int) -> bool:
    """Write in turn, print both rates and the median of their ratios; whether the bar holds."""
    with (
        tempfile.TemporaryDirectory(prefix="k2-produce-") as name,
        programs(Path(name)) as run,
        no_services() as services,
    ):
        bootstrap = f"127.0.0.1:{free_port()}"
        run.start("broker", "--port", bootstrap.rpartition(":")[2])
        until_up(lambda: ours(bootstrap, services, Kind("first", 1000, 100)))
        rates = [(ours(bootstrap, services, kind), bare(bootstrap, kind)) for _ in range(rounds)]
    ratios = sorted(mine / peer for mine, peer in rates)
    ratio = statistics.median(ratios)
    mine, peer = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"{kind.name}: {mine:,.0f}/s, a bare loop {peer:,.0f}/s: {ratio:.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})  "
        f"bar {BAR:.2f} x  {'holds' if ratio >= BAR else 'MISSED'}",
        flush=True,
    )
    return ratio >= BAR


if __name__ == "__main__":
    main()

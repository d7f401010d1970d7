"""How fast the sandbox moves a backlog from the broker into committed Iceberg rows, and whether each row is there once.

    python benchmarks/sandbox_ingest.py [--backlog 600000] [--kill PART …]

`--kill` ends parts with SIGKILL in the middle of the drain, each when the one before is back and rows are committed
again, and starts each again after 5 s.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
from sandbox_programs import Programs, Storage, programs, start_registries, start_storage

from k2run.k2.platform import table
from k2run.k2.platform.program import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

COMMITTED = re.compile(
    r"^(\S+) .*Iceberg transaction committed table=market_data\.trades_v2 .*total_records=(\d+)", re.MULTILINE
)
OPENED = re.compile(r"^(\S+) .*topics_opened", re.MULTILINE)
PARTS = ("consumer", "object_store", "postgres", "iceberg_rest", "network", "registry")
AWAY_S = 5.0


class Drain(NamedTuple):
    """What a drain came to.

    Attributes:
        seconds: From the consumer's first fetch to its last commit.
        from_start: From the start of its process.
        processor: Of a processor's time that the consumer's last process took.
        memory: The most that it had resident, in bytes.
    """

    seconds: float
    from_start: float
    processor: float
    memory: int


def wait_for(holds: Callable[[], bool], seconds: float = 900.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            sys.exit("the benchmark did not get there")
        time.sleep(0.02)


def commits(log: Path) -> list[tuple[datetime, int]]:
    """When the table was committed to, and how many rows it had then."""
    found = COMMITTED.findall(log.read_text()) if log.exists() else []
    return [(datetime.fromisoformat(at), int(rows)) for at, rows in found]


def committed(log: Path) -> int:
    """How many rows the table has."""
    return commits(log)[-1][1] if commits(log) else 0


def message_ids(storage: Storage) -> pa.ChunkedArray:
    found = table.open_catalog(storage.catalog, storage.s3_endpoint).load_table(table.TRADES)
    return found.scan(selected_fields=("message_id",)).to_arrow()["message_id"]


def produce(run: Programs, bootstrap: str, registry: tuple[str, ...], backlog: int) -> None:
    """Fill the topic, and end the stream."""
    run.start("broker", "--port", bootstrap.split(":")[1])
    where = ("--bootstrap", bootstrap, *registry, "--metrics-port", free_ports(1)[0])
    run.start("stream", *where, "--rate", "0", "--backfill", backlog)
    log = run.log("stream")
    wait_for(lambda: log.exists() and "backfill_finished" in log.read_text())
    produced = re.search(r"duration_seconds=([\d.]+)", log.read_text())
    assert produced
    print(f"produced            {backlog:,} in {float(produced[1]):.2f} s = {backlog / float(produced[1]):,.0f}/s")
    run.process("stream").terminate()
    run.process("stream").wait(60)


def running(run: Programs) -> bool:
    """Start the consumer again, as its recovery does, when it has given up on a store that was away too long."""
    if run.process("consumer").poll() is not None:
        said = [line for line in run.log("consumer").read_text().splitlines() if line.startswith("error: ")]
        print(f"the consumer ended  and was started again: {said[-1] if said else 'it did not say why'}")
        run.restart("consumer")
    return True


def kill(run: Programs, part: str, backlog: int) -> None:
    """End a part in the middle of the drain, and start it again."""
    log = run.log("consumer")
    began = len(commits(log))
    wait_for(lambda: running(run) and (len(commits(log)) > began or committed(log) >= backlog))
    run.kill(part)
    before, rows = len(commits(log)), committed(log)
    if rows >= backlog:
        sys.exit(f"the kill of {part} came too late to prove anything: take a larger --backlog")
    print(f"killed (SIGKILL)    {part} at {rows:,} rows")
    time.sleep(AWAY_S)
    run.restart(part)
    back = time.time()
    wait_for(lambda: running(run) and (commits(log)[-1][0].timestamp() > back or committed(log) >= backlog))
    meanwhile = [rows for at, rows in commits(log)[before:] if at.timestamp() < back]
    print(f"committed meanwhile {meanwhile[-1] - rows if meanwhile else 0:,} rows in the {AWAY_S:g} s without it")
    after = [at.timestamp() - back for at, _ in commits(log) if at.timestamp() > back]
    print(f"next commit         {f'{after[0]:.2f} s after it was started again' if after else 'was not needed'}")


def drain(run: Programs, consumer: tuple[object, ...], parts: Sequence[str], backlog: int) -> Drain:
    """Run the consumer until it has committed the backlog."""
    log, began, memory, processor = run.log("consumer"), time.time(), 0, 0.0
    run.start("consumer", *consumer)
    for part in parts:
        kill(run, part, backlog)
    while running(run) and committed(log) < backlog:
        process = psutil.Process(run.process("consumer").pid)
        memory, spent = max(memory, process.memory_info().rss), process.cpu_times()
        processor = spent.user + spent.system
        time.sleep(0.05)
    done = commits(log)[-1][0]
    opened = datetime.fromisoformat(OPENED.findall(log.read_text())[0])
    return Drain((done - opened).total_seconds(), done.timestamp() - began, processor, memory)


def measure(run: Programs, backlog: int, parts: Sequence[str]) -> bool:
    """Drain a backlog; whether each trade is there once."""
    storage, (broker, link, control, metrics) = start_storage(run), free_ports(4)
    bootstrap, registry = f"127.0.0.1:{broker}", start_registries(run)
    produce(run, bootstrap, registry, backlog)
    if (
        parts
    ):  # as in the sandbox the consumer reaches the broker through a link; the throughput is measured without one
        run.start("network", "--port", control, "--kafka", f"--link=consumer={link},{bootstrap}")
        bootstrap = f"127.0.0.1:{link}"
    where = ("--bootstrap", bootstrap, *registry, *storage.options)
    done = drain(run, (*where, "--state", run.directory / "state", "--metrics-port", metrics), parts, backlog)
    if not parts:
        print(f"drained             {backlog:,} in {done.seconds:.2f} s = {backlog / done.seconds:,.0f} rows/s")
    print(f"from process start  {done.from_start:.2f} s")
    if "consumer" not in parts:
        print(
            f"of a processor      {done.processor:.2f} s of the consumer's, its start included = "
            f"{backlog / done.processor:,.0f} rows/s"
        )
    print(f"most memory         {done.memory / 2**20:,.0f} MiB resident")
    levels = re.findall(r"System \w+ old_level=\w+ new_level=\w+ lag=\d+", run.log("consumer").read_text())
    print(f"levels              {'; '.join(levels)}")
    return verify(run, storage, backlog)


def verify(run: Programs, storage: Storage, backlog: int) -> bool:
    """Whether each trade of the backlog is in the table once, and none among the dead letters."""
    ids, dead = message_ids(storage), list((run.directory / "state").glob("dlq/*"))
    once = len(ids) == len(ids.unique()) == backlog and not dead
    verdict = "exactly once" if once else "WRONG"
    print(f"rows, distinct ids  {len(ids):,}, {len(ids.unique()):,} ({verdict}); {len(dead)} files of dead letters")
    return once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backlog", type=int, default=600_000)
    parser.add_argument("--kill", nargs="+", choices=PARTS, default=(), metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, programs(Path(directory)) as run:
        right = measure(run, options.backlog, options.kill)
    if not right:
        sys.exit("a trade is missing, or there twice")


if __name__ == "__main__":
    main()

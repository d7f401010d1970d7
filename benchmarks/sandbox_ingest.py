"""How fast the sandbox moves a backlog from the broker into committed Iceberg rows, and whether each row is there once.

    python benchmarks/sandbox_ingest.py [--backlog 600000] [--kill]

`--kill` ends the consumer with SIGKILL in the middle of the drain and starts it again.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from sandbox_programs import Programs, Storage, programs, start_registries, start_storage

from k2run.k2.platform import table

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

COMMITTED = re.compile(
    r"^(\S+) .*Iceberg transaction committed table=market_data\.trades_v2 .*total_records=(\d+)", re.MULTILINE
)
OPENED = re.compile(r"^(\S+) .*topics_opened", re.MULTILINE)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(name: str, log: Path, *options: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", f"k2run.k2.platform.{name}", *options], stdout=file, stderr=file)


def wait_for(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            sys.exit("the benchmark did not get there")
        time.sleep(0.02)


def commits(log: Path) -> list[tuple[datetime, int]]:
    """When the table was committed to, and how many rows it had then."""
    found = COMMITTED.findall(log.read_text()) if log.exists() else []
    return [(datetime.fromisoformat(at), int(rows)) for at, rows in found]


def message_ids(storage: Storage) -> pa.ChunkedArray:
    found = table.open_catalog(storage.catalog, storage.s3_endpoint).load_table(table.TRADES)
    return found.scan(selected_fields=("message_id",)).to_arrow()["message_id"]


def measure(run: Programs, backlog: int, kill: bool, running: list[subprocess.Popen[bytes]]) -> None:
    directory, storage = run.directory, start_storage(run)
    bootstrap, registry = f"127.0.0.1:{free_port()}", start_registries(run)
    stream_log, log = directory / "stream.log", directory / "consumer.log"
    broker = start("broker", directory / "broker.log", "--port", bootstrap.split(":")[1])
    stream = start(
        "stream", stream_log, "--bootstrap", bootstrap, *registry, "--metrics-port", free_port(),
        "--rate", "0", "--backfill", str(backlog),
    )  # fmt: skip
    running += [broker, stream]
    wait_for(lambda: stream_log.exists() and "backfill_finished" in stream_log.read_text())
    produced = re.search(r"duration_seconds=([\d.]+)", stream_log.read_text())
    assert produced
    print(f"produced            {backlog:,} in {float(produced[1]):.2f} s = {backlog / float(produced[1]):,.0f}/s")

    where = (
        "--bootstrap",
        bootstrap,
        *registry,
        *storage.options,
        "--state",
        str(directory / "state"),
        "--metrics-port",
        free_port(),
    )
    began = time.time()
    running.append(start("consumer", log, *where))
    if kill:
        wait_for(lambda: len(commits(log)) > 1)
        running[-1].kill()
        running[-1].wait()
        print(f"killed (SIGKILL)    at {commits(log)[-1][1]:,} rows")
        running.append(start("consumer", log, *where))
    most_memory, taken_s = 0, 0.0
    while not commits(log) or commits(log)[-1][1] < backlog:
        wait_for(lambda: True)
        consumer = psutil.Process(running[-1].pid)
        most_memory, spent = max(most_memory, consumer.memory_info().rss), consumer.cpu_times()
        taken_s = spent.user + spent.system
        time.sleep(0.05)
    done, rows = commits(log)[-1]
    opened = datetime.fromisoformat(OPENED.findall(log.read_text())[0])
    seconds = (done - opened).total_seconds()
    if not kill:  # from the first fetch to the last commit
        print(f"drained             {rows:,} in {seconds:.2f} s = {rows / seconds:,.0f} rows/s")
    print(f"from process start  {done.timestamp() - began:.2f} s")
    print(
        f"of a processor      {taken_s:.2f} s of the consumer's, its start included = {backlog / taken_s:,.0f} rows/s"
    )
    print(f"most memory         {most_memory / 2**20:,.0f} MiB resident")
    print(
        "levels              "
        + "; ".join(re.findall(r"System \w+ old_level=\w+ new_level=\w+ lag=\d+", log.read_text()))
    )
    ids = message_ids(storage)
    verdict = "exactly once" if len(ids) == len(ids.unique()) == backlog else "WRONG"
    print(f"rows, distinct ids  {len(ids):,}, {len(ids.unique()):,} ({verdict})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backlog", type=int, default=600_000)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as directory, programs(Path(directory)) as run:
        try:
            measure(run, options.backlog, options.kill, running)
        finally:
            for process in running:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()

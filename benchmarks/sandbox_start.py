"""How long the sandbox takes from nothing to the first row that the API answers, all programs started side by side.

    python benchmarks/sandbox_start.py [--runs 5]

The bar is 10 s on two cores. Every run starts in an empty directory; Prometheus is started too when it is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import httpx
from sandbox_programs import KEY, free_port, programs, rows_answered, start_registries, start_storage

BAR_S = 10.0


def start_once(directory: Path) -> float:
    """Seconds from the first process to the first row."""
    broker, stream, consumer, api = (free_port() for _ in range(4))
    bootstrap = f"127.0.0.1:{broker}"
    with programs(directory) as run, httpx.Client(base_url=f"http://127.0.0.1:{api}", headers=KEY, timeout=5) as client:
        started = time.monotonic()
        storage = start_storage(run, wait=False)
        run.start("broker", "--port", broker)
        where = ("--bootstrap", bootstrap, *start_registries(run, wait=False))
        run.start("stream", *where, "--metrics-port", stream)
        run.start("consumer", *storage.options, *where, "--metrics-port", consumer, "--state", directory / "consumer")
        run.start("api", *storage.options, *where, "--port", api, "--cache", directory / "cache")
        if shutil.which("prometheus"):
            run.start(
                "prometheus", "--port", free_port(), "--storage", directory, "--target", f"k2-api=127.0.0.1:{api}"
            )
        while not rows_answered(client, limit=1):
            if time.monotonic() - started > 60:
                raise SystemExit(f"no row within 60 s; the logs are in {directory}")
            time.sleep(0.02)
        return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    took = []
    for number in range(parser.parse_args().runs):
        with tempfile.TemporaryDirectory(prefix="k2-start-") as directory:
            took.append(start_once(Path(directory)))
        print(f"run {number + 1}: {took[-1]:.2f} s to the first row (load average {os.getloadavg()[0]:.1f})")
    print(f"median {statistics.median(took):.2f} s, worst {max(took):.2f} s of {len(took)} runs; bar {BAR_S:.0f} s")


if __name__ == "__main__":
    main()

"""Runs the benchmarks one after the other: `uv run invoke bench [--only NAME]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = (
    "engine",
    "validate",
    "sandbox_start",
    "sandbox_ingest",
    "sandbox_api",
    "avro_decode",
    "detection",
    "alert_chain",
    "demo_day",
    "web_latency",
    "history",
    "bench_http",
    "bench_produce",
    "kafka_lag",
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("only", nargs="?", choices=NAMES, help="one of them")
    only = options.parse_args().only
    failed = []
    for name in NAMES:
        if only in {None, name}:
            print(f"\n== {name}", flush=True)
            if subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=False).returncode:
                failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""How long a trend over 10,000 runs takes, as a whole command, with and without what the history keeps.

    python benchmarks/history.py [--runs 10000]

Makes that many journals (60 lines each, 50 KB) in a temporary folder out of one real run, then asks for a trend.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JOURNAL = ROOT / "tests" / "evidence" / "journals" / "measured.jsonl"
BAR = 1.0


def make_runs(home: Path, many: int) -> None:
    """Journals of runs, half an hour apart, whose figures vary by a tenth."""
    events = [json.loads(line) for line in JOURNAL.read_text().splitlines()]
    kept = [event for event in events if event["event"] != "step_tried"]
    chance, first = random.Random(1), datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(many):
        begun = first + timedelta(minutes=30 * number)
        name = f"{begun:%Y%m%d-%H%M%S}-demo-day-{number % 65536:04x}"
        folder = home / "runs" / name
        folder.mkdir(parents=True)
        with (folder / "journal.jsonl").open("w") as file:
            for event in kept:
                changed = {**event, "at": begun.isoformat(timespec="milliseconds")}
                if event["event"] == "run_started":
                    changed["run"] = name
                if event.get("figures"):
                    changed["figures"] = {key: value * chance.gauss(1, 0.1) for key, value in event["figures"].items()}
                file.write(json.dumps(changed, separators=(",", ":")) + "\n")


def trend(home: Path) -> tuple[float, float]:
    """Seconds that `k2run trend p99_ms` takes, start of Python included: by the clock, and of processor time."""
    began, before = time.perf_counter(), processor()
    subprocess.run(
        [sys.executable, "-m", "k2run", "trend", "p99_ms"],
        cwd=ROOT,
        env={**os.environ, "K2RUN_HOME": str(home)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began, processor() - before


def processor() -> float:
    """Seconds of processor time of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=10_000, help="how many past runs")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_runs(home, given.runs)
        first = trend(home)
        later = sorted(trend(home) for _ in range(5))[2]
    holds = "holds" if later[0] <= BAR else "MISSED"
    what = f"a trend over {given.runs:,} runs"
    print(f"{what}, the first time {first[0]:8.2f} s ({first[1]:.2f} s of processor time)  for information")
    print(f"{what}, later          {later[0]:8.2f} s ({later[1]:.2f} s of processor time)  bar {BAR:.2f}  {holds}")


if __name__ == "__main__":
    main()

"""How often two loads on an unchanged server are called different, and how often a slower server is found.

    python benchmarks/differences.py [--runs 12] [--slower 10] [--seconds 5] [--home FOLDER] [--told-only]

Puts three loads (50/s, 200/s, 800/s) on a server that answers after 5 to 8 ms, in whole runs of k2run in a home of
their own; then the same on one that is slower by 5, 10 and 20 %. Each pair of the unchanged runs is compared as
`k2run compare` does it: at most 7 % of them may be called different. Each slower run is compared with each of the
unchanged ones: 10 % and 20 % must be found in nine of ten. With `--home` the runs stay there; `--told-only` counts
again what lies there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench_http import serving
from sandbox_programs import free_port

from k2run.bench.baseline import Baselines
from k2run.engine.journal import read_journal
from k2run.evidence.compare import compare
from k2run.evidence.view import view_of

if TYPE_CHECKING:
    from collections.abc import Iterable

DELAY_MS, JITTER_MS = 5.0, 3.0
RATES = (50, 200, 800)
SLOWER = (1.05, 1.1, 1.2)
MOST_DIFFERENT, LEAST_FOUND = 0.07, 0.9
RUNBOOK = """\
runbook: 1
kind: benchmark
title: The same loads again
stack: {stack}
sections:
  - name: Loads
    steps:
"""
STEP = """\
      - name: At {rate} a second
        bench.http: {{url: "{url}", rate: {rate}/s, during: {seconds}s, warm_up: 500ms}}
        timeout: 2m
"""


def put_on(home: Path, port: int, factor: float, seconds: float) -> None:
    """One run of the three loads, on a server that is so much slower."""
    delay, jitter = str(DELAY_MS * factor), str(JITTER_MS * factor)
    with serving("--delay", delay, "--jitter", jitter, "--port", str(port)) as server:
        file = home / "loads.yaml"
        steps = "".join(STEP.format(rate=rate, url=server.url, seconds=seconds) for rate in RATES)
        file.write_text(RUNBOOK.format(stack=home / "tested.yaml") + steps)
        command = [sys.executable, "-m", "k2run", "run", str(file), "--plain"]
        environment = {**os.environ, "K2RUN_HOME": str(home / ".k2run")}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def put_on_all(home: Path, runs: int, slower: int, seconds: float) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "tested.yaml").write_text("stack: 1\nname: tested\n")
    port = free_port()
    for factor, times in ((1.0, runs), *((factor, slower) for factor in SLOWER)):
        for _ in range(times):
            put_on(home, port, factor, seconds)
            with (home / "factors").open("a") as file:
                file.write(f"{factor} {os.getloadavg()[0]}\n")


class Told(NamedTuple):
    """How many comparisons of a kind said what."""

    different: int
    weak: int
    all: int

    def share(self) -> float:
        return self.different / self.all if self.all else 0.0


def told(home: Path, pairs: Iterable[tuple[Path, Path]]) -> dict[str, dict[str, Told]]:
    """By load, and by figure (or any of them), how often two runs were called different."""
    runs = Baselines(home=str(home / ".k2run"), stack="tested")
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        one, other = (view_of(read_journal(folder)) for folder in pair)
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for row in compare(one, other, runs):
            if row.kind in {"latency", "rate"}:
                load, _, figure = row.name.rpartition(": ")
                found[load][figure] = row.says
        for load, said in found.items():
            verdicts = {figure: "weak" if "not enough runs" in words else words[:2] for figure, words in said.items()}
            verdicts["any"] = "no" if all(verdict in {"no", "weak"} for verdict in verdicts.values()) else "+"
            for figure, verdict in verdicts.items():
                counted[f"{load}: {figure}"].update([verdict if verdict in {"no", "weak"} else "different", "all"])
    table: dict[str, dict[str, Told]] = defaultdict(dict)
    for name, counts in counted.items():
        load, _, figure = name.rpartition(": ")
        table[load][figure] = Told(counts["different"], counts["weak"], counts["all"])
    return table


def tell(home: Path) -> bool:
    """Count, print, and say whether the bars hold."""
    factors = [float(line.split()[0]) for line in (home / "factors").read_text().splitlines()]
    runs = sorted((home / ".k2run" / "runs").iterdir())
    by_factor: dict[float, list[Path]] = defaultdict(list)
    for factor, run in zip(factors, runs, strict=True):
        by_factor[factor].append(run)
    same = by_factor.pop(1.0)
    fine = True
    for factor, pairs in (
        (1.0, list(combinations(same, 2))),
        *((factor, list(product(same, slower))) for factor, slower in by_factor.items()),
    ):
        for load, figures in told(home, pairs).items():
            shown = ", ".join(f"{name} {each.different} (weak {each.weak})" for name, each in figures.items())
            found, any_ = figures["p50"].share(), figures["any"].share()
            if factor == 1.0:
                what, holds = "unchanged", any_ <= MOST_DIFFERENT
                bar = f"any of them in {any_:.1%}, bar {MOST_DIFFERENT:.0%}"
            else:
                what, holds = f"slower by {factor - 1:.0%}", found >= LEAST_FOUND or factor == SLOWER[0]
                bar = f"p50 in {found:.1%}, bar {LEAST_FOUND:.0%}" + (" (told only)" if factor == SLOWER[0] else "")
            fine &= holds
            print(f"{what}, {load}: of {len(pairs)} pairs different: {shown}; {bar}  {'holds' if holds else 'MISSED'}")
    return fine


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=12, help="of the unchanged server")
    options.add_argument("--slower", type=int, default=10, help="of each slower one")
    options.add_argument("--seconds", type=float, default=5.0, help="of each load")
    options.add_argument("--home", default="", help="folder that keeps the runs")
    options.add_argument("--told-only", action="store_true", help="put nothing on")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(given.home or folder)
        if not given.told_only:
            put_on_all(home, given.runs, given.slower, given.seconds)
        fine = tell(home)
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    sys.exit(not fine)


if __name__ == "__main__":
    main()

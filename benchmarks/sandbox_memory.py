"""What the embedded platform takes in memory and on disk: at rest, and after it has run for a time.

    python benchmarks/sandbox_memory.py [--minutes 60] [--every 60]

The bar is 1.5 GB at rest, and at most a tenth more after an hour at the stack's 200 trades a second. A process counts
with its own pages and its share of those that others have too (PSS). At rest is two minutes after the start.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from k2run.k2.platform.program import free_ports

ROOT = Path(__file__).resolve().parent.parent
K2RUN = Path(sys.executable).parent / "k2run"
REST_S = 120.0
MOST_MB, MOST_GROWTH = 1500.0, 0.10


def moved() -> dict[str, str]:
    """Every port of the stack, moved to one that is free."""
    text = (ROOT / "runbooks" / "stacks" / "sandbox.yaml").read_text()
    names = re.findall(r"env\('(K2RUN_\w+_PORT)'", text)
    return dict(zip(names, map(str, free_ports(len(names))), strict=True))


def pss(pid: int) -> int:
    """Bytes of a process and of those below it."""
    found = 0
    with suppress(psutil.Error):
        above = psutil.Process(pid)
        for process in (above, *above.children(recursive=True)):
            with suppress(psutil.Error):
                found += process.memory_full_info().pss
    return found


def memory(state: Path) -> dict[str, float]:
    """MB by service, as the notes of the services name their processes."""
    notes = {note.stem: json.loads(note.read_text()) for note in sorted((state / "services").glob("*.json"))}
    return {name: pss(note["pid"]) / 1e6 for name, note in notes.items()}


def on_disk(state: Path) -> dict[str, float]:
    """MB by folder of the stack's state; blocks, since files may have holes."""
    found: dict[str, float] = {}
    for folder in state.iterdir():
        blocks = 0
        for path in folder.rglob("*"):
            with suppress(OSError):
                blocks += path.lstat().st_blocks
        found[folder.name] = blocks * 512 / 1e6
    return {name: size for name, size in found.items() if size >= 0.1}


def told(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {size:.0f}" for name, size in sorted(parts.items(), key=lambda part: -part[1]))


def watch(state: Path, minutes: float, every: float) -> None:
    started, rest = time.monotonic(), 0.0
    while True:
        time.sleep(every if rest else min(every, REST_S))
        now = memory(state)
        whole, gone = sum(now.values()), time.monotonic() - started
        if not rest and gone >= REST_S:
            rest = whole
        print(f"{gone / 60:5.1f} min: {whole:6.0f} MB: {told(now)} | disk: {told(on_disk(state))}", flush=True)
        if gone >= minutes * 60:
            break
    growth = f"after {gone / 60:.0f} min {whole / rest - 1:+.1%}, bar {MOST_GROWTH:+.0%}" if rest else "not at rest yet"
    print(f"at rest {rest:.0f} MB, bar {MOST_MB:.0f} MB; {growth}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two looks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="k2-memory-") as home:
        environment = {**os.environ, **moved(), "K2RUN_HOME": home}
        try:
            subprocess.run([K2RUN, "up"], env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            watch(Path(home) / "stacks" / "sandbox", options.minutes, options.every)
        finally:
            subprocess.run([K2RUN, "down"], env=environment, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

"""How long it takes from the end of a step to its change on the page, with many browsers on one run.

    python benchmarks/web_latency.py [--clients 50] [--steps 150]

A real server, a real run of its own process, and clients that read server-sent events as a browser does. The end of a
step is the time in its line of the journal; the change is there when the client has read the whole event.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import httpx

STEP = "      - {name: Step %d, wait: {for: 60ms}}\n"
RUNBOOK = "runbook: 1\nkind: readiness\nname: steps\ntitle: Steps\nstack: none\nsections:\n"
MEDIAN_MS, P99_MS = 100, 250


def lay_out(folder: Path, steps: int) -> None:
    """A runbook whose steps end one after the other, in sections of 25."""
    (folder / "runbooks" / "stacks").mkdir(parents=True)
    (folder / "runbooks" / "stacks" / "none.yaml").write_text("stack: 1\nname: none\n")
    text = RUNBOOK
    for number in range(steps):
        text += f"  - name: Section {number // 25}\n    steps:\n" if number % 25 == 0 else ""
        text += STEP % number
    (folder / "runbooks" / "steps.yaml").write_text(text)


def start_server(folder: Path) -> tuple[subprocess.Popen[str], str, str]:
    """The server, its address and a token."""
    server = subprocess.Popen(
        [sys.executable, "-m", "k2run", "serve", "--port", "0"],
        cwd=folder,
        env={**os.environ, "K2RUN_HOME": str(folder / "home")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    server.stdout.readline()
    address, _, token = server.stdout.readline().split()[-1].partition("/enter#")
    return server, address, token


async def follow(address: str, run: str, seen: list[tuple[int, float]]) -> None:
    """Read the events of a run until it ends: which line of the journal has arrived when."""
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**22)
    writer.write(f"GET /runs/{run}/events?layout=run HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    number = 0
    while line := await reader.readline():
        if line.startswith(b"id: "):
            number = int(line[4:])
        elif line.startswith(b"data: "):
            seen.append((number, time.time()))
            if b'"state":"ended"' in line[:100]:
                break
    writer.close()


def start_run(address: str, token: str) -> str:
    """The id of a run, started through the page."""
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=30) as http:
        answer = http.post("/runbooks/steps/start", content="stack=none")
    return answer.headers["location"].rpartition("/")[2]


async def measure(address: str, run: str, clients: int, folder: Path) -> list[float]:
    """Milliseconds from each step's end to each client."""
    seen: list[list[tuple[int, float]]] = [[] for _ in range(clients)]
    await asyncio.gather(*(follow(address, run, each) for each in seen))
    lines = (folder / "home" / "runs" / run / "journal.jsonl").read_text().splitlines()
    ends = {
        event["seq"]: datetime.fromisoformat(event["at"]).timestamp()
        for event in map(json.loads, lines)
        if event["event"] == "step_finished"
    }
    taken: list[float] = []
    for each in seen:
        first = each[0][0]  # the whole page at first: what had ended before is not counted
        for seq, at in ends.items():
            if seq > first:
                taken.append((next(when for number, when in each if number >= seq) - at) * 1000)
    return taken


def main() -> None:
    """Measure and compare with the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder, options.steps)
        server, address, token = start_server(folder)
        try:
            taken = asyncio.run(measure(address, start_run(address, token), options.clients, folder))
        finally:
            server.terminate()
            server.wait(10)
    cuts = statistics.quantiles(taken, n=100)
    print(f"{options.clients} clients, {len(taken):,} changes of {options.steps} steps")
    print(f"median {cuts[49]:6.1f} ms   bar {MEDIAN_MS} ms   {'holds' if cuts[49] <= MEDIAN_MS else 'MISSED'}")
    print(f"p99    {cuts[98]:6.1f} ms   bar {P99_MS} ms   {'holds' if cuts[98] <= P99_MS else 'MISSED'}")
    print(f"worst  {max(taken):6.1f} ms")


if __name__ == "__main__":
    main()

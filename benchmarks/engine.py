"""What the engine costs, as whole commands, against its bars and against Chaos Toolkit in the same run.

    python benchmarks/engine.py [--runs 5] [--only NAME]

Prints a line per figure: the median, the bar, and whether it holds. Commands are run in turn (A B, B A, …), so that a
machine whose speed drifts treats all alike.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from itertools import cycle, permutations
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NO_OP = """\
runbook: 1
kind: readiness
name: no-op
title: One step that does nothing
sections:
  - name: Only
    steps:
      - assert: {that: true}
"""
"""With one check, for a run in which nothing is checked has not passed."""
SLOPES = 20
"""Turns of a slope for each run of a whole command."""
STACK = "stack: 1\nname: none\n"


def seconds(command: Sequence[str], cwd: Path) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment(cwd))
    taken = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return taken


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "K2RUN_HOME": str(home / ".k2run"), "PYTHONDONTWRITEBYTECODE": ""}


def in_turn(commands: Mapping[str, Sequence[str]], cwd: Path, runs: int) -> dict[str, float]:
    """The median time of each command, after one warm-up, run in turn."""
    return {name: statistics.median(taken) for name, taken in all_in_turn(commands, cwd, runs).items()}


def all_in_turn(commands: Mapping[str, Sequence[str]], cwd: Path, runs: int) -> dict[str, list[float]]:
    """The times of each command, after one warm-up, run in turn; each turn in another order.

    A command is up to a tenth slower or faster after some of the others. Over all orders each comes after each of the
    others equally often.
    """
    times: dict[str, list[float]] = {name: [] for name in commands}
    orders = cycle(permutations(commands))
    for turn in range(runs + 1):
        for name in next(orders):
            taken = seconds(commands[name], cwd if name != "list" else ROOT)
            if turn:
                times[name].append(taken)
    return times


def tell(what: str, value: float, unit: str, bar: float, note: str = "") -> None:
    holds = "holds" if value <= bar else "MISSED"
    print(f"{what:<52} {value:8.3f} {unit:<6} bar {bar:7.3f}  {holds}  {note}", flush=True)


def runbook(folder: Path, name: str, steps: str, section: str = "") -> str:
    (folder / "none.yaml").write_text(STACK)
    path = folder / f"{name}.yaml"
    path.write_text(NO_OP.replace("    steps:\n", f"{section}    steps:\n") + steps)
    return str(path)


def command(path: str, folder: Path) -> list[str]:
    return [str(BIN / "invoke"), "-r", str(ROOT), "run", path, "--stack", str(folder / "none.yaml"), "--plain"]


def chaos(folder: Path, name: str, method: list[dict[str, object]]) -> list[str]:
    experiment = {"version": "1.0.0", "title": name, "description": name, "method": method, "rollbacks": []}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(experiment))
    return [str(BIN / "chaos"), "--no-version-check", "run", "--journal-path", str(folder / "chaos.json"), str(path)]


def start_up(folder: Path, runs: int) -> None:
    """A one-step no-op against `invoke --list` and against a one-action Chaos Toolkit experiment."""
    path = runbook(folder, "no-op", "      - set: {done: true}\n")
    idle: dict[str, object] = {
        "type": "action",
        "name": "none",
        "provider": {"type": "python", "module": "os.path", "func": "basename", "arguments": {"p": "a"}},
    }
    commands = {
        "list": [str(BIN / "invoke"), "--list"],
        "k2run": command(path, folder),
        "chaos": chaos(folder, "one", [idle]),
    }
    took = in_turn(commands, folder, runs)
    tell(
        "no-op run / invoke --list",
        took["k2run"] / took["list"],
        "x",
        1.7,
        f"{took['k2run']:.3f} / {took['list']:.3f} s",
    )
    tell("no-op run / chaos run", took["k2run"] / took["chaos"], "x", 1.0, f"chaos {took['chaos']:.3f} s")


def steps(folder: Path, runs: int) -> None:
    """The slope of no-op steps: 1,001 against one."""
    one = runbook(folder, "one", "      - set: {done: true}\n")
    many = runbook(folder, "many", "      - {loop: %s, set: {done: true}}\n" % json.dumps(list(range(1001))))  # noqa: UP031
    took = in_turn({"one": command(one, folder), "many": command(many, folder)}, folder, runs)
    tell("no-op step, in a loop, with its journal lines", took["many"] - took["one"], "ms", 0.2)
    written = runbook(folder, "written", "      - set: {done: true}\n" * 1001)
    took = in_turn({"one": command(one, folder), "many": command(written, folder)}, folder, runs)
    tell(
        "no-op step, written out, reading it included", took["many"] - took["one"], "ms", 1.0, "no bar; for information"
    )


def shell(folder: Path, runs: int) -> None:
    """The slope of 200 shell steps against a bare loop: a small difference of large times, so there are more turns."""
    few = runbook(folder, "few", '      - shell.run: {command: "true"}\n')
    many = runbook(folder, "many", '      - {loop: %s, shell.run: {command: "true"}}\n' % json.dumps(list(range(201))))  # noqa: UP031
    loop = "import subprocess,sys\nfor _ in range(int(sys.argv[1])): subprocess.run('true', shell=True, check=True)"
    commands = {
        "few": command(few, folder),
        "many": command(many, folder),
        "bare few": [sys.executable, "-c", loop, "1"],
        "bare many": [sys.executable, "-c", loop, "201"],
    }
    took = all_in_turn(commands, folder, SLOPES * runs)
    ours = [many - few for many, few in zip(took["many"], took["few"], strict=True)]
    bare = [many - few for many, few in zip(took["bare many"], took["bare few"], strict=True)]
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
    note = f"{statistics.median(ours) * 5:.2f} / {statistics.median(bare) * 5:.2f} ms a step, {len(ours)} pairs"
    tell("200 shell steps / a subprocess.run loop", ratio, "x", 1.2, note)


def checks(folder: Path, runs: int) -> None:
    """A hundred HTTP checks of 50 ms in a parallel section against Chaos Toolkit's background probes."""
    with slow_server(0.05) as url:
        path = runbook(
            folder,
            "checks",
            f"      - http.get: {{url: {url}}}\n        expect: result.status == 200\n" * 100,
            "    parallel: true\n",
        )
        probe = {
            "type": "probe",
            "name": "check",
            "background": True,
            "tolerance": 200,
            "provider": {"type": "http", "url": url, "timeout": 5},
        }
        method = [{**probe, "name": f"check-{number}"} for number in range(100)]
        took = in_turn({"k2run": command(path, folder), "chaos": chaos(folder, "hundred", method)}, folder, runs)
    tell(
        "100 HTTP checks / chaos background probes",
        took["k2run"] / took["chaos"],
        "x",
        1.0,
        f"{took['k2run']:.3f} / {took['chaos']:.3f} s",
    )


@contextmanager
def slow_server(delay: float) -> Iterator[str]:
    """A server that answers after a while, each request in a thread of its own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


MEASURES: dict[str, Callable[[Path, int], None]] = {
    "start_up": start_up,
    "steps": steps,
    "shell": shell,
    "http": checks,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=5, help="counted runs of each command")
    options.add_argument("--only", choices=sorted(MEASURES), help="one measure")
    given = options.parse_args()
    for name, measure in MEASURES.items():
        if given.only in {None, name}:
            with tempfile.TemporaryDirectory() as folder:
                measure(Path(folder), given.runs)


if __name__ == "__main__":
    main()

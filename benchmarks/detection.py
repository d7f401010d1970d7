"""How long after a fault the journal says so: the first probe that fails, on the embedded stack.

    python benchmarks/detection.py [--period 0.25] [--rounds 3] [--only NAME]

A probe looks every period, beside the fault, and does not know when it comes. The time is that between the journal's
records of the fault and of the probe that saw it; the bar is the period and 0.2 s. A link that is cut in silence is
seen when a probe has waited for its time, which is a period too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "components"))
from moved_ports import moved_ports, variables

MARGIN_S = 0.2
K2RUN = [sys.executable, "-m", "k2run"]

FAULTS = {
    "the API is killed": ("service.kill: {service: api}", "service.probe: {service: api}", "not result.answered"),
    "the consumer is killed": (
        "service.kill: {service: consumer}",
        "service.probe: {service: consumer}",
        "not result.answered",
    ),
    "the stream is stopped": (
        "service.stop: {service: stream}",
        "service.probe: {service: stream}",
        "not result.answered",
    ),
    "the consumer is held": (
        "service.pause: {service: consumer}",
        "service.status: {service: consumer}",
        "result.state == 'paused'",
    ),
    "the API's link is refused": (
        "network.cut: {link: api, how: refused}",
        "service.probe: {service: api}",
        "not result.answered",
    ),
    "the API answers with errors": (
        "network.fail: {link: api}",
        "service.probe: {service: api}",
        "not result.ready",
    ),
    "the broker is killed": ("service.kill: {service: broker}", "service.probe: {service: broker}", "not result.ready"),
}
RUNBOOK = """\
runbook: 1
kind: scenario
name: detection
title: {name}
stack: sandbox
sections:
  - name: It works
    steps:
      - name: The probe sees nothing wrong
        {probe}
        until: not ({seen})
        every: 200ms
        timeout: 2s
        within: 60s
  - name: Look and break
    parallel: true
    steps:
      - name: Look
        {probe}
        until: {seen}
        every: {period}ms
        timeout: 1s
        within: 30s
      - name: Break
        block:
          - name: After a while
            wait: {{for: {delay}ms}}
          - name: Strike
            {fault}
"""


@dataclass(frozen=True)
class Sandbox:
    """An embedded stack of this benchmark alone.

    Attributes:
        folder: Where everything of it lies.
        env: The environment that moves it there.
    """

    folder: Path
    env: dict[str, str]

    @classmethod
    def in_folder(cls, folder: Path) -> Sandbox:
        return cls(folder, {**os.environ, **variables(moved_ports()), "K2RUN_HOME": str(folder / "home")})

    def k2run(self, *words: str) -> None:
        done = subprocess.run(
            [*K2RUN, *words], cwd=self.folder, env=self.env, capture_output=True, text=True, check=False, timeout=180
        )
        if done.returncode:
            raise SystemExit(f"k2run {' '.join(words)} failed:\n{done.stdout}{done.stderr}")

    def journal(self) -> list[dict[str, object]]:
        """The events of the newest run."""
        newest = max(self.folder.glob("home/runs/*/journal.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(line) for line in newest.read_text().splitlines()]


def detect(sandbox: Sandbox, name: str, period_s: float, delay_ms: int) -> float:
    """Seconds from a fault to the record of the probe that saw it."""
    fault, probe, seen = FAULTS[name]
    path = sandbox.folder / "detection.yaml"
    period = int(period_s * 1000)
    path.write_text(RUNBOOK.format(name=name, fault=fault, probe=probe, seen=seen, period=period, delay=delay_ms))
    sandbox.k2run("run", str(path), "--stack", "sandbox", "--plain")
    events = sandbox.journal()
    struck = next(float(str(one["t"])) for one in events if one["event"] == "fault_struck")
    saw = next(float(str(one["t"])) for one in events if one["event"] == "step_finished" and one["name"] == "Look")
    return saw - struck


def measure(period_s: float, rounds: int, names: list[str]) -> dict[str, list[float]]:
    """Seconds to detect each fault, round by round; the fault comes at another point of the period each time."""
    with tempfile.TemporaryDirectory(prefix="k2run-detection-") as folder:
        sandbox = Sandbox.in_folder(Path(folder))
        sandbox.k2run("up", "--stack", "sandbox")
        try:
            return {
                name: [detect(sandbox, name, period_s, 1000 + 97 * turn + 31 * at) for turn in range(rounds)]
                for at, name in enumerate(names)
            }
        finally:
            sandbox.k2run("down", "--stack", "sandbox")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--period", type=float, default=0.25, help="seconds between two looks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=FAULTS)
    options = parser.parse_args()
    names = [options.only] if options.only else list(FAULTS)
    bar = options.period + MARGIN_S
    late = 0
    for name, took in measure(options.period, options.rounds, names).items():
        late += sum(one > bar for one in took)
        print(f"{name:32} median {statistics.median(took):.3f} s, worst {max(took):.3f} s of {len(took)}")
    print(f"bar {bar:.2f} s: {late} missed (load average {os.getloadavg()[0]:.1f})")
    if late:
        sys.exit(1)


if __name__ == "__main__":
    main()

"""What it costs to validate a runbook of 100 steps, as a whole command, against `invoke --list`.

python benchmarks/validate.py [--runs 9]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from engine import BIN, ROOT, in_turn, tell

ACTIONS = (
    "http.get: {service: api, path: /health}\n        expect: result.body.status == 'healthy'",
    "kafka.lag: {topic: trades, group: writers}\n        expect: result.total < 1000",
    "iceberg.rows: {table: market_data.trades_v2}\n        until: result.rows > 1000\n        within: 20s",
    "service.ready: {service: consumer}",
    "metrics.read: {service: consumer, metric: k2_degradation_level}\n        expect: result.value == 0",
)
HEAD = "runbook: 1\nkind: readiness\nname: hundred\nsections:\n  - name: All\n    steps:\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=9, help="counted runs of each command")
    runs = options.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = "".join(f"      - name: Step {n}\n        {ACTIONS[n % len(ACTIONS)]}\n" for n in range(100))
        (folder / "hundred.yaml").write_text(HEAD + steps)
        invoke = str(BIN / "invoke")
        commands = {
            "list": [invoke, "--list"],
            "validate": [invoke, "-r", str(ROOT), "validate", str(folder / "hundred.yaml")],
        }
        took = in_turn(commands, folder, runs)
    note = f"{took['validate']:.3f} / {took['list']:.3f} s"
    tell("validate 100 steps / invoke --list", took["validate"] / took["list"], "x", 1.8, note)


if __name__ == "__main__":
    main()

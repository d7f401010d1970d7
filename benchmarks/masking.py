"""What keeping secrets out of the records costs a step: the same runs with three secrets and with none.

    python benchmarks/masking.py [--runs 5]

Prints, for steps that mention no secret, one and three, the milliseconds that a step costs more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
from pathlib import Path

from engine import command, runbook, seconds, tell

TURNS = 1000
KINDS = ("masked", "plain")
CHECK = "      - assert: {that: 1 == 1}\n"
SECRETS = {
    "MASKED_ONE": "correct-horse-battery",
    "MASKED_TWO": 'p@ss/w0rd "quoted" é',
    "MASKED_THREE": "hunter2hunter2",
}
STEPS = {
    "a step that mentions none": ("set: {done: true}", "set: {done: true}"),
    "a step that holds one": ('set: {done: "a {{ one }} b"}', 'set: {done: "a {{ plain }} b"}'),
    "a step that holds three": (
        'set: {done: "a {{ one }} b", more: "{{ two }}", last: ["{{ three }}"]}',
        'set: {done: "a {{ plain }} b", more: "{{ plain }}", last: ["{{ plain }}"]}',
    ),
}


def with_inputs(path: str, *, secret: bool) -> None:
    """Declare the inputs of a runbook."""
    names = dict(zip(("one", "two", "three"), SECRETS, strict=True))
    declared = {name: {"type": "secret", "default": f"env:{source}"} for name, source in names.items()}
    text = Path(path).read_text()
    inputs = declared if secret else {"plain": {"type": "string", "default": "correct-horse-battery"}}
    Path(path).write_text(text.replace("sections:", f"inputs: {json.dumps(inputs)}\nsections:"))


def processor_time(words: list[str], folder: Path) -> float:
    """Seconds of processor that a command takes: unlike its time, they hardly depend on what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds(words, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(folder: Path, runs: int) -> None:
    """The slope of each kind of step, with and without secrets, in turn."""
    for what, (secret, other) in STEPS.items():
        commands = {}
        for kind, step in zip(KINDS, (secret, other), strict=True):
            for turns in (1, TURNS + 1):
                path = runbook(folder, f"{kind}-{turns}", f"      - {{loop: {list(range(turns))}, {step}}}\n{CHECK}")
                with_inputs(path, secret=kind == "masked")
                commands[f"{kind}-{turns}"] = command(path, folder)
        took: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(runs + 1):
            for name, words in commands.items():
                spent = processor_time(words, folder)
                took[name] += [spent] if turn else []  # the first run of each warms up
        slopes = {
            kind: statistics.median(took[f"{kind}-{TURNS + 1}"]) - statistics.median(took[f"{kind}-1"])
            for kind in KINDS
        }
        more, plain = slopes["masked"] - slopes["plain"], slopes["plain"]
        tell(what, more * 1000 / TURNS, "ms", 0.05, f"{plain * 1000 / TURNS:.3f} without")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=5, help="counted runs of each command")
    os.environ.update(SECRETS)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.parse_args().runs)


if __name__ == "__main__":
    main()

"""Runs that later loads are held against: which have a name, and giving them one."""

from __future__ import annotations

import msgspec

from k2run.bench.baseline import Pins
from k2run.bench.thresholds import LAST_GREEN, Threshold
from k2run.engine.store import Store
from k2run.errors import UsageError
from k2run.faces.numbers.columns import columns
from k2run.language.notation import Misread

_USAGE = "baseline set NAME RUN, baseline drop NAME, or baseline alone to list them"


def keep_baselines(words: list[str], *, json: bool) -> None:
    """List the baselines, pin a run as one, or forget one.

    Raises:
        UsageError: Words that mean nothing here, no such run or no such baseline.
    """
    store = Store()
    pins = Pins(store.home)
    match words:
        case [] | ["list"]:
            _show(pins, json=json)
        case ["set", name, run]:
            _check(name)
            folder = store.find_run(run)
            print(f"{name} on the stack {pins.pin(name, folder)} is {folder.name}")
        case ["drop", name]:
            pins.drop(name)
            print(f"{name} is forgotten")
        case _:
            raise UsageError(f"`baseline {' '.join(words)}` means nothing", hint=_USAGE)


def _show(pins: Pins, *, json: bool) -> None:
    known = pins.all()
    if json:
        print(msgspec.json.encode(known).decode())
    elif not known:
        print("no baselines yet; `k2run baseline set NAME RUN` makes one")
    else:
        rows = [(name, stack, run) for name, runs in sorted(known.items()) for stack, run in sorted(runs.items())]
        print("\n".join(columns(("baseline", "stack", "run"), rows)))


def _check(name: str) -> None:
    """A name must be one that a threshold can use."""
    try:
        usable = Threshold.parse(f"regression < 10% vs {name}").baseline == name != LAST_GREEN
    except Misread:
        usable = False
    if not usable:
        raise UsageError(f"{name!r} is no name for a baseline", hint="letters, digits, `_`, `.` and `-`")

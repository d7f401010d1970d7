"""Diagnoses of platforms that work: how many are false, because they name a failure or an unhealthy service.

    python benchmarks/false_diagnoses.py [--looks 20] [sandbox as-is shop]

Each platform is brought up on free ports in a folder of its own and looked at as it is, then as often with two of its
services hidden from the stack file, other ones each time. Ends with 1 when a diagnosis named a failure, or said
UNHEALTHY.
"""

from __future__ import annotations

import argparse
import itertools
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.language.loader import load_runbook
from k2run.recovery.looks import watch
from k2run.stack import lifecycle
from k2run.stack.stack import Stack, load_stack

if TYPE_CHECKING:
    from k2run.recovery.diagnosis import Diagnosis

ROOT = Path(__file__).parents[1]
STACKS = {
    "sandbox": ROOT / "runbooks" / "stacks" / "sandbox.yaml",
    "as-is": ROOT / "runbooks" / "stacks" / "as-is.yaml",
    "shop": ROOT / "docs" / "example" / "runbooks" / "stacks" / "shop.yaml",
}
UP_S = 240


def free_ports(data: dict[str, Any]) -> dict[str, str]:
    """A free port for every variable of a stack file that is one."""
    names = [name for name in data.get("vars") or {} if name.endswith("port")]
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: str(each.getsockname()[1]) for name, each in zip(names, sockets, strict=True)}
    for each in sockets:
        each.close()
    return ports


def without(data: dict[str, Any], hidden: tuple[str, ...]) -> dict[str, Any]:
    """A stack file as one would write it who does not know of some services."""
    services = {
        name: {**form, "needs": [each for each in form.get("needs") or [] if each not in hidden]}
        for name, form in data["services"].items()
        if name not in hidden
    }
    roles = {
        name: role
        for name, role in (data.get("roles") or {}).items()
        if not (isinstance(role, dict) and role.get("service") in hidden)
    }
    connections = {name: each for name, each in (data.get("connections") or {}).items() if name not in hidden}
    charts = [each for each in data.get("charts") or [] if each.get("service") not in hidden]
    return {**data, "services": services, "roles": roles, "connections": connections, "charts": charts}


class Platform:
    """One platform, up.

    Args:
        file: Its stack file.
        folder: Where it keeps its state.
    """

    def __init__(self, file: Path, folder: Path) -> None:
        self._data: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        self._here, self._folder = file.parent, folder
        self._ports = free_ports(self._data)
        self._catalogue = Catalogue()
        recoveries = sorted({*self._beside(), *(ROOT / "runbooks" / "recovery").glob("*.yaml")})
        self._recoveries = [load_runbook(each, self._catalogue) for each in recoveries]
        self.services = list(self._data["services"])
        self.stack = load_stack(str(file), near=None, home=folder / "home", overrides=self._ports)

    def _beside(self) -> list[Path]:
        return list((self._here.parent / "recovery").glob("*.yaml"))

    def hiding(self, hidden: tuple[str, ...]) -> Stack:
        """The same platform by a stack file that does not know of some services."""
        data = without(self._data, hidden)
        if "data_path" in data:
            data["data_path"] = str((self._here / data["data_path"]).resolve())
        text = yaml.safe_dump(data, sort_keys=False).replace("{{ here }}", str(self._here))
        path = self._folder / "hidden.yaml"
        path.write_text(text, encoding="utf-8")
        return load_stack(str(path), near=None, home=self._folder / "home", overrides=self._ports)

    def look(self, stack: Stack) -> Diagnosis:
        """Diagnose it once, as `k2run diagnose` does."""
        return watch(self._recoveries, stack, self._catalogue, threading.Event(), 0.0)


def measure(name: str, looks: int, folder: Path) -> int:
    """How many diagnoses of a platform were false."""
    platform = Platform(STACKS[name], folder)
    began = time.monotonic()
    try:
        lifecycle.start(platform.stack, None, Deadline(UP_S))
        settle(platform)
        print(f"{name}: up in {time.monotonic() - began:.0f} s", flush=True)
        pairs = list(itertools.combinations(platform.services, 2))
        random.Random(7).shuffle(pairs)
        whole = told(name, (platform.look(platform.stack) for _ in range(looks)))
        hidden = (platform.look(platform.hiding(pair)) for pair in itertools.islice(itertools.cycle(pairs), looks))
        return whole + told(f"{name}, two services hidden", hidden)
    finally:
        lifecycle.stop(platform.stack)


def settle(platform: Platform) -> None:
    """Wait until the first rows are through."""
    ends = time.monotonic() + UP_S
    while platform.look(platform.stack).broken_path and time.monotonic() < ends:
        time.sleep(1)


def told(what: str, found: Any) -> int:
    """Print what the diagnoses of one kind said; how many of them were false."""
    words: Counter[str] = Counter()
    false: Counter[str] = Counter()
    seconds: list[float] = []
    wrong = 0
    for each in found:
        words[each.word] += 1
        seconds.append(each.seconds)
        named = [*(suspect.runbook for suspect in each.matches), *(one.service for one in each.ailing)]
        named += [one.symptom for one in each.data_path if one.broken]
        false.update(named)
        wrong += bool(named)
    which = f" ({', '.join(f'{name} {times}' for name, times in false.items())})" if false else ""
    said = ", ".join(f"{word} {times}" for word, times in words.most_common())
    print(f"{what}: {len(seconds)} looks, {wrong} false{which}; {said}; slowest {max(seconds):.1f} s", flush=True)
    return wrong


def main() -> int:
    """Measure the platforms that are named, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", type=int, default=20)
    parser.add_argument("platforms", nargs="*", default=list(STACKS))
    options = parser.parse_args()
    wrong = 0
    for name in options.platforms:
        with tempfile.TemporaryDirectory() as folder:
            wrong += measure(name, options.looks, Path(folder))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

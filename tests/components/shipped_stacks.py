"""A platform that ships, up on free ports in a folder of its own, for tests that run what ships against it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from wheel_programs import free_ports

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.recovery.looks import diagnose
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.stack.stack import Stack

RUNBOOKS = Path(__file__).parents[2] / "runbooks"
STACKS = RUNBOOKS / "stacks"
UP_S = 300.0
PATH_S = 120.0


@contextmanager
def running(name: str, folder: Path) -> Iterator[Stack]:
    """The platform of that name, with rows coming through; stopped at the end.

    Args:
        name: Of a stack file that ships.
        folder: Where its home is.
    """
    data = yaml.safe_load((STACKS / f"{name}.yaml").read_text(encoding="utf-8"))
    names = [name for name in data["vars"] if name.endswith("port")]
    ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
    stack = load_stack(str(STACKS / f"{name}.yaml"), near=None, home=folder / "home", overrides=ports)
    try:
        lifecycle.start(stack, None, Deadline(UP_S))
        settle(stack)
        yield stack
    finally:
        lifecycle.stop(stack)


def settle(stack: Stack) -> None:
    """Start what has stopped, and wait until rows come through from end to end."""
    lifecycle.start(stack, None, Deadline(UP_S))
    ends = time.monotonic() + PATH_S
    while diagnose([], stack, Catalogue()).broken_path:
        assert time.monotonic() < ends, "no rows come through"
        time.sleep(1)

"""Every port of the embedded stack, moved to one that is free: the stack file says which there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from wheel_programs import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable

STACK = Path(__file__).parents[2] / "runbooks" / "stacks" / "sandbox.yaml"


def moved_ports(find: Callable[[int], list[int]] = free_ports) -> dict[str, int]:
    """A free port for each of the stack's, by its name: `KAFKA`, `API`, …; `find` finds so many."""
    names = re.findall(r"env\('K2RUN_(\w+)_PORT'", STACK.read_text())
    return dict(zip(names, find(len(names)), strict=True))


def variables(ports: dict[str, int]) -> dict[str, str]:
    """The environment that moves the stack there."""
    return {f"K2RUN_{name}_PORT": str(port) for name, port in ports.items()}

"""A stack's services on the terminal: up, down, status, logs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from k2run.actions.deadline import Deadline
from k2run.engine.lock import hold, holder
from k2run.engine.signals import StopRequest
from k2run.engine.store import Store
from k2run.faces.launch import open_stack
from k2run.faces.settle import warn_of_broken
from k2run.language.quantities import Duration
from k2run.stack import lifecycle

if TYPE_CHECKING:
    from k2run.stack.lifecycle import Look
    from k2run.stack.stack import Stack

STOP_TIMEOUT = 15.0


def bring_up(reference: str, timeout: float) -> None:
    """Start a stack and say what was started and where it answers."""
    store = Store()
    warn_of_broken(store)
    stack = open_stack(reference, store=store)
    began = time.monotonic()
    with StopRequest() as signals, hold(store.stack_folder(stack.name), stack.name, "k2run up"):
        started = lifecycle.start(stack, None, Deadline(timeout, signals.run), print)
    taken = Duration(time.monotonic() - began)
    print(f"started {', '.join(started)} in {taken}" if started else f"everything of {stack.name} was up already")
    for service in stack.services.values():
        if service.url:
            print(f"  {service.name:<12} {service.url}")


def take_down(reference: str) -> None:
    """Stop a stack and say what was stopped."""
    store = Store()
    warn_of_broken(store)
    stack = open_stack(reference, store=store)
    with hold(store.stack_folder(stack.name), stack.name, "k2run down"):
        stopped = lifecycle.stop(stack, None, Deadline(STOP_TIMEOUT, threading.Event()))
    print(f"stopped {', '.join(stopped)}" if stopped else f"nothing of {stack.name} was up")


def show_status(reference: str, *, json: bool) -> bool:
    """Show each service of a stack.

    Returns:
        Whether all that can be there are there and do their work.
    """
    store = Store()
    warn_of_broken(store)
    stack = open_stack(reference, store=store)
    looks = [(look, stack.absent(look.service.name)) for look in lifecycle.status(stack)]
    if json:
        import msgspec

        rows = [_row(look, absent) for look, absent in looks]
        print(msgspec.json.encode({"stack": stack.name, "services": rows}).decode())
    else:
        _table(stack, store, looks)
    return all(absent or _works(look) for look, absent in looks)


def show_logs(service: str, reference: str, lines: int) -> None:
    """Show the newest lines of a service's log."""
    for line in lifecycle.logs(open_stack(reference), service, lines):
        print(line.text)


def _works(look: Look) -> bool:
    return look.status.state == "running" and (look.probe is None or look.probe.ready)


def _row(look: Look, absent: str) -> dict[str, object]:
    status = look.status
    return {
        "service": look.service.name,
        "run": str(look.service.run),
        "state": "not applicable" if absent else str(status.state),
        "works": None if absent else _works(look),
        "pid": status.pid,
        "uptime_s": status.uptime_s,
        "restarts": status.restarts,
        "detail": absent or (look.probe.detail if look.probe and not look.probe.ready else status.detail),
    }


def _table(stack: Stack, store: Store, looks: list[tuple[Look, str]]) -> None:
    held = holder(store.stack_folder(stack.name))
    print(f"{stack.title} ({stack.path})" + (f", held by {held}" if held else ""))
    print(f"{'service':<14} {'state':<15} {'works':<6} {'pid':>8} {'up':>8} {'restarts':>8}  detail")
    for look, absent in looks:
        row = _row(look, absent)
        up = str(Duration(row["uptime_s"])) if isinstance(row["uptime_s"], float) else "-"
        works = {None: "-", True: "yes", False: "no"}[row["works"]]  # type: ignore[index]
        pid, restarts = (("-" if row[key] is None else row[key]) for key in ("pid", "restarts"))
        print(f"{row['service']:<14} {row['state']:<15} {works:<6} {pid!s:>8} {up:>8} {restarts!s:>8}  {row['detail']}")

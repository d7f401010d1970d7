"""The queue of a network interface, by the kernel's traffic control: packets late, lost, twice, out of order, or few.

Needs Linux, iproute2 and the right to set it (CAP_NET_ADMIN); a network namespace keeps it away from the rest of the
machine, as that of a container does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from k2run.actions.action import Blast, Effect, Result, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters._command import run
from k2run.errors import NotApplicable, Refused, TimedOut, Unknown
from k2run.language.quantities import Duration, Rate

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_TIME = Duration(0)
NO_LIMIT = Rate(0)
_BUCKET_S = 0.02
"""How much of a second's bytes may go at once under a limit."""
_SMALLEST_BUCKET = 66 * 1024  # the largest packet, which is that of `lo`; a larger one would never leave
_QUEUE = "400ms"
_NOTHING: dict[str, Any] = {"kind": "noqueue", "options": {}}
_OURS = {"netem", "tbf"}
_IMPOSSIBLE = ("qdisc kind is unknown", "Operation not permitted", "not supported")


class Queue(Result, frozen=True, kw_only=True):
    """What stands before a network interface.

    Attributes:
        namespace: Its network namespace; empty for that of this machine.
        kind: Of the queue: `netem` and `tbf` are those of a fault.
        shaped: Whether a fault has set it.
        options: As the kernel tells them.
    """

    interface: str
    namespace: str
    kind: str
    shaped: bool
    options: dict[str, Any] = {}

    def headline(self) -> str:
        """Such as `eth0: netem` or `eth0: noqueue`."""
        return f"{self.interface}: {self.kind}"


@action("tc.queue")
def queue(deadline: Deadline, interface: str, namespace: str = "") -> Queue:
    """What stands before a network interface now.

    Args:
        interface: Its name, such as `eth0`.
        namespace: Name of its network namespace; that of this machine when empty.

    Raises:
        Unknown: There is no such interface.
        NotApplicable: There is no `tc` here.
    """
    found: list[dict[str, Any]] = json.loads(
        _tc(deadline, namespace, ["-j", "qdisc", "show", "dev", interface, "root"]) or "[]"
    )
    root = next((one for one in found if one.get("root") or one.get("parent") is None), _NOTHING)
    return Queue(
        interface=interface,
        namespace=namespace,
        kind=root["kind"],
        shaped=root["kind"] in _OURS,
        options={name: value for name, value in root.get("options", {}).items() if value},
        source=namespace or "this machine",
    )


@fault("tc.shape", blast=Blast.HOST, undone_by="tc.clear")
def shape(
    deadline: Deadline,
    interface: str,
    namespace: str = "",
    latency: Duration = NO_TIME,
    jitter: Duration = NO_TIME,
    loss: float = 0,
    duplicate: float = 0,
    reorder: float = 0,
    rate: Rate = NO_LIMIT,
) -> Striking[Queue]:
    """Let packets that leave by an interface be late, lost, doubled, out of order, or few. Undone by tc.clear.

    Blast radius: all that leaves by the interface, which is all of this machine when no namespace is named.

    Args:
        interface: Its name, such as `eth0`.
        namespace: Name of its network namespace; that of this machine when empty.
        latency: How much later packets leave.
        jitter: How far a single delay may lie from that.
        loss: How many of a hundred packets are lost.
        duplicate: How many of a hundred are sent twice.
        reorder: How many of a hundred are sent at once, before those that wait; needs a latency.
        rate: Bytes a second that leave at most; any number when 0.

    Raises:
        Refused: It is shaped already, or there is nothing to inject.
        Unknown: There is no such interface.
        NotApplicable: The kernel cannot do it, or k2run may not.
    """
    if queue(deadline, interface, namespace).shaped:
        raise Refused(f"{interface} is already shaped", hint=f"tc.clear: {{interface: {interface}}}")
    if reorder and not latency:
        raise Refused("reordering needs a delay", hint="give it a latency")
    wanted = _netem(latency, jitter, loss, duplicate, reorder)
    if rate:
        wanted = [*wanted, "rate", _bits(rate)] if wanted else _bucket(rate)
    if not wanted:
        raise Refused("there is nothing to inject", hint="latency, loss, duplicate or rate")
    args = {"interface": interface, "namespace": namespace}
    yield Undo(action="tc.clear", args=args, says=f"clear the queue of {interface}")
    _tc(deadline, namespace, ["qdisc", "add", "dev", interface, "root", *wanted])
    return queue(deadline, interface, namespace)


@action("tc.clear", effect=Effect.CHANGES)
def clear(deadline: Deadline, interface: str, namespace: str = "") -> Queue:
    """Give an interface its own queue again; nothing happens when it has it.

    Args:
        interface: Its name, such as `eth0`.
        namespace: Name of its network namespace; that of this machine when empty.
    """
    if queue(deadline, interface, namespace).shaped:
        _tc(deadline, namespace, ["qdisc", "del", "dev", interface, "root"])
    return queue(deadline, interface, namespace)


def _netem(latency: Duration, jitter: Duration, loss: float, duplicate: float, reorder: float) -> list[str]:
    wanted: list[str] = []
    if latency:
        wanted += ["delay", _us(latency), *([_us(jitter)] if jitter else [])]
    for word, percent in (("loss", loss), ("duplicate", duplicate), ("reorder", reorder)):
        if percent:
            wanted += [word, f"{percent:g}%"]
    return ["netem", *wanted] if wanted else []


def _bucket(rate: Rate) -> list[str]:
    """A limit alone needs no netem."""
    return ["tbf", "rate", _bits(rate), "burst", f"{max(_SMALLEST_BUCKET, int(rate * _BUCKET_S))}b", "latency", _QUEUE]


def _us(span: Duration) -> str:
    return f"{span * 1e6:.0f}us"


def _bits(rate: Rate) -> str:
    return f"{rate * 8:.0f}bit"


def _tc(deadline: Deadline, namespace: str, words: Sequence[str]) -> str:
    """What `tc` answers."""
    command = ["tc", *(["-n", namespace] if namespace else []), *words]
    try:
        done = run(command, deadline)
    except FileNotFoundError:
        raise NotApplicable("there is no `tc` on this machine", hint="it comes with iproute2, on Linux") from None
    except TimedOut:
        raise TimedOut(f"tc has not answered within {deadline.seconds:g}s") from None
    if not done.exit_code:
        return done.stdout
    said = done.stderr.strip().splitlines()
    why = said[-1] if said else f"it ended with exit code {done.exit_code}"
    if any(sign in done.stderr for sign in _IMPOSSIBLE):
        raise NotApplicable(f"cannot shape packets here: {why}", hint="needs CAP_NET_ADMIN, and sch_netem or sch_tbf")
    if "Cannot find device" in done.stderr or "Cannot open network namespace" in done.stderr:
        raise Unknown(f"there is no such interface: {why}")
    raise Refused(f"tc: {why}")

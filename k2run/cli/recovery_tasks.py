"""The commands for when something is broken: diagnose, recover, drill, abort, undo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.cli.command import RUN, STACK, command

if TYPE_CHECKING:
    from invoke import Context


@command(
    help={
        "stack": STACK,
        "json": "as JSON",
        "for_": "repeat the checks for this long, such as 20s: symptoms that come and go are reported as flapping",
    },
)
def diagnose(c: Context, stack: str = "", json: bool = False, for_: str = "") -> int:
    """Name what is wrong with a stack, with the evidence and the runbook that recovers it."""
    from k2run.app.diagnose import show_diagnosis

    return 0 if show_diagnosis(stack, json=json, lasting=for_) else 1


@command(
    iterable=["e"],
    help={
        "runbook": "path or name of the recovery runbook (the one that matches the symptoms by default)",
        "stack": STACK,
        "auto": "never prompt: manual steps take their defaults, nothing is destroyed",
        "e": "name=value of an input; may be given several times",
    },
)
def recover(c: Context, runbook: str = "", stack: str = "", auto: bool = False, e: list[str] | None = None) -> int:
    """Recover a stack, guided step by step against the clock."""
    from k2run.app.launch import parse_extra
    from k2run.app.recover import Recovery
    from k2run.daemon.notify.messenger import heralds

    recovery = Recovery(stack, auto=auto, extra=parse_extra(e or []), heralds=heralds)
    return recovery.by(runbook) if runbook else recovery.from_diagnosis()


@command(
    help={
        "runbook": "path or name of the runbook whose steps are the faults",
        "stack": "path or name of the stack (the runbook's own by default)",
        "seed": "seed for choosing the faults; the same seed chooses the same ones",
        "rounds": "number of rounds; with --every, rounds per fault",
        "every": "inject every fault of the runbook",
        "keep": "leave the stack up when the drill had to start it",
    },
)
def drill(
    c: Context,
    runbook: str = "drill",
    stack: str = "",
    seed: int = 1,
    rounds: int = 1,
    every: bool = False,
    keep: bool = False,
) -> int:
    """Inject an undisclosed fault, diagnose it, recover from it, and show how long that took and what was lost."""
    from k2run.app.drill import hold_drill
    from k2run.daemon.notify.messenger import heralds
    from k2run.recovery.drill import Choice

    choice = Choice(seed=seed, rounds=rounds, every=every)
    return hold_drill(runbook, choice, stack=stack, keep=keep, heralds=heralds)


@command(help={"run-id": f"{RUN} (by default the one in progress)"})
def abort(c: Context, run_id: str = "") -> int:
    """Abort a run in progress, and watch it undo its faults."""
    from k2run.app.abort import abort_and_watch
    from k2run.engine.store import Store
    from k2run.files import account_name

    return 0 if abort_and_watch(Store(), run_id, account_name()) else 1


@command(
    iterable=["e"],
    help={
        "stack": "only this stack",
        "e": "name=value of a secret input that an undo needs; may be given several times",
    },
)
def undo(c: Context, stack: str = "", e: list[str] | None = None) -> int:
    """Undo the faults that interrupted runs left."""
    from k2run.app.launch import parse_extra
    from k2run.app.leftover_faults import undo_all

    return 1 if undo_all(stack, parse_extra(e or [])) else 0


TASKS = (diagnose, recover, drill, abort, undo)

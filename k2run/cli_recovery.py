"""Tasks for when something is broken: abort, diagnose, recover, drill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke import Exit, task

from k2run.friendly import friendly

if TYPE_CHECKING:
    from invoke import Context


@task(auto_shortflags=False, help={"stack": "path or name of the stack", "json": "as JSON"})
def diagnose(c: Context, stack: str = "sandbox", json: bool = False) -> None:
    """Name what is wrong with a stack, with the evidence and the runbook that recovers it."""
    with friendly():
        from k2run.faces.diagnose import show_diagnosis

        healthy = show_diagnosis(stack, json=json)
    _exit(0 if healthy else 1)


@task(
    positional=[],
    iterable=["e"],
    auto_shortflags=False,
    help={
        "runbook": "path or name of the recovery runbook (the one that fits the symptoms by default)",
        "stack": "path or name of the stack",
        "auto": "ask nobody: manual steps take their defaults, nothing is destroyed",
        "e": "name=value of an input; may be given several times",
    },
)
def recover(
    c: Context, runbook: str = "", stack: str = "sandbox", auto: bool = False, e: list[str] | None = None
) -> None:
    """Recover a stack, led step by step against the clock."""
    with friendly():
        from k2run.faces.launch import parse_extra
        from k2run.faces.recover import Recovery

        recovery = Recovery(stack, auto=auto, extra=parse_extra(e or []))
        code = recovery.by(runbook) if runbook else recovery.from_diagnosis()
    _exit(code)


@task(
    positional=[],
    auto_shortflags=False,
    help={
        "runbook": "path or name of the runbook whose steps are the faults",
        "stack": "path or name of the stack (the runbook's own by default)",
        "seed": "chooses the faults; the same seed makes the same choice",
        "rounds": "how many rounds; with --every: how often each fault",
        "every": "every fault of the runbook",
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
) -> None:
    """Break something without telling what; find it, repair it, and show how long that took and what it cost."""
    with friendly():
        from k2run.faces.drill import hold_drill
        from k2run.recovery.drill import Choice

        code = hold_drill(runbook, Choice(seed=seed, rounds=rounds, every=every), stack=stack, keep=keep)
    _exit(code)


@task(
    positional=[],
    auto_shortflags=False,
    help={"run-id": "the run's id, a unique part of it, or `last` (the one that is under way by default)"},
)
def abort(c: Context, run_id: str = "") -> None:
    """End a run of another process, and watch it undo its faults."""
    with friendly():
        import getpass

        from k2run.engine.store import Store
        from k2run.faces.abort import abort_and_watch

        clean = abort_and_watch(Store(), run_id, getpass.getuser())
    _exit(0 if clean else 1)


def _exit(code: int) -> None:
    if code:
        raise Exit(code=code)


RECOVERY = (abort, diagnose, recover, drill)

"""Tasks for when something is broken: diagnose, recover, drill."""

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


def _exit(code: int) -> None:
    if code:
        raise Exit(code=code)


RECOVERY = (diagnose, recover)

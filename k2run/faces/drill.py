"""Drills a stack: lets faults go without telling which, and shows how well they were found and repaired."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from k2run.actions.catalogue import Catalogue
from k2run.engine.execution import Options
from k2run.engine.inputs import resolve_inputs
from k2run.engine.request import Request, check_allowed
from k2run.engine.run import run
from k2run.engine.store import Store
from k2run.evidence.reports import write_reports
from k2run.faces.diagnose import recovery_runbooks
from k2run.faces.launch import find_runbook, open_stack
from k2run.faces.notify.messenger import heralds
from k2run.faces.settle import warn_of_broken
from k2run.language.loader import load_runbook
from k2run.recovery.drill import Choice, Drill, Plan, Round, choose, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.engine.events import RunFinished
    from k2run.engine.execution import Execution
    from k2run.engine.signals import StopRequest
    from k2run.language.model import Runbook
    from k2run.stack.loading import Stack

ROUNDS = "drill.json"


def hold_drill(reference: str, choice: Choice, *, stack: str, keep: bool) -> int:
    """Hold a drill and show how it went.

    Args:
        reference: The runbook whose steps are the faults.
        choice: Which of them.
        stack: Name or file of the stack; "" takes the runbook's own.
        keep: Leave the stack up.

    Returns:
        The exit code: 0 when each fault was recognised, and recovered from within its objective.
    """
    store, catalogue = Store(), Catalogue()
    warn_of_broken(store)
    path = find_runbook(reference)
    pool = load_runbook(path, catalogue)
    chosen = open_stack(stack or pool.stack, near=path.parent, store=store)
    applying = _without_absent(pool, chosen)
    plan = Plan(
        faults=choose(applying, choice),
        recoveries=recovery_runbooks(catalogue),
        trades=_trades(pool),
        say=lambda text: print(text, flush=True),
    )
    check_allowed(Request(runbook=pool, stack=chosen, store=store, catalogue=catalogue))
    request = Request(
        runbook=replace(pool, sections=()),
        stack=chosen,
        store=store,
        catalogue=catalogue,
        options=Options(keep=keep, by=getpass.getuser()),
        observers=heralds(store),
    )
    played: list[Round] = []
    print(f"drill on {chosen.name}: {len(plan.faults)} rounds, seed {choice.seed}", flush=True)
    finished = _run(plan, request, played)
    folder = store.find_run(_latest(store, pool.name))
    (folder / ROUNDS).write_bytes(msgspec.json.format(msgspec.json.encode(played)))
    write_reports(folder)
    print("\n".join(["", *_aligned(table(played)), *_remarks(played)]))
    _close(finished)
    print(f"report   {folder / 'report.html'}")
    return finished.exit_code


def _run(plan: Plan, request: Request, played: list[Round]) -> RunFinished:
    def inside(execution: Execution, signals: StopRequest) -> None:
        Drill(plan, request, execution, signals).play(played)

    return run(replace(request, inside=inside))


def _without_absent(pool: Runbook, stack: Stack) -> Runbook:
    """The runbook without the faults of services that the stack has not."""
    sections = [
        replace(section, steps=tuple(step for step in section.steps if not any(map(stack.absent, step.requires))))
        for section in pool.sections
    ]
    return replace(pool, sections=tuple(sections))


def _trades(pool: Runbook) -> tuple[str, str] | None:
    """Where probe trades are sent to and have to arrive, when the runbook says so."""
    inputs = resolve_inputs(pool, {})
    return (str(inputs["topic"]), str(inputs["table"])) if {"topic", "table"} <= inputs.keys() else None


def _latest(store: Store, name: str) -> str:
    return [run.name for run in store.runs() if f"-{name}-" in run.name][-1]


def _aligned(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Rows with each column as wide as its widest cell."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _remarks(rounds: Iterable[Round]) -> Iterator[str]:
    for one in rounds:
        if not one.right:
            yield f"round {one.number}: {one.expected} was expected"
        if one.message:
            yield f"round {one.number}: {one.message}"


def _close(finished: RunFinished) -> None:
    print(f"\n{finished.outcome.value.upper()}  {finished.verdict}")
    for pending in finished.pending_undos:
        print(f"still broken: {pending}; `k2run undo` puts it back", file=sys.stderr)

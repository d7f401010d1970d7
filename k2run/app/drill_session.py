"""Drill a stack: inject undisclosed faults, and show how well they were diagnosed and recovered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from k2run.actions.catalogue import Catalogue
from k2run.app.diagnose import recovery_runbooks
from k2run.app.launch import find_runbook, open_stack
from k2run.app.leftover_faults import warn_of_broken
from k2run.engine.execution import Options
from k2run.engine.request import Request, check_allowed, forbidden
from k2run.engine.run import run
from k2run.engine.safeguards import aside
from k2run.engine.store import Store
from k2run.errors import UsageError
from k2run.evidence.reports import write_reports
from k2run.evidence.wording import count
from k2run.files import account_name
from k2run.language.loader import load_runbook
from k2run.recovery.drill import Choice, Drill, Plan, Round, choose
from k2run.terminal.safe_stream import complain, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from k2run.app.launch import Heralds
    from k2run.engine.dispatch import Caller
    from k2run.engine.events import RunFinished
    from k2run.engine.execution import Execution
    from k2run.engine.safeguards import StopRequest
    from k2run.language.model import Runbook, Step
    from k2run.recovery.drill import Ledger
    from k2run.stack.stack import Stack

ROUNDS = "drill.json"
LEDGERS = "k2run.ledgers"


def hold_drill(reference: str, choice: Choice, *, stack: str, keep: bool, heralds: Heralds) -> int:
    """Hold a drill and show how it went.

    Args:
        reference: The runbook whose steps are the faults.
        choice: Which of them.
        stack: Name or file of the stack; "" takes the runbook's own.
        keep: Leave the stack up.
        heralds: Makes the observers that notify others of it.

    Returns:
        The exit code: 0 when each fault was recognised, and recovered from within its objective.

    Raises:
        UsageError: There are no rounds.
    """
    if choice.rounds < 1:
        raise UsageError(f"a drill needs at least one round, not {choice.rounds}", hint="set --rounds to 1 or more")
    store, catalogue = Store(), Catalogue()
    warn_of_broken(store)
    path = find_runbook(reference)
    pool = load_runbook(path, catalogue)
    chosen = open_stack(stack or pool.stack, near=path.parent, store=store)
    recoveries = recovery_runbooks(catalogue)
    drilled = _applying(pool, chosen, recoveries)
    faults = choose(drilled, choice)
    plan = Plan(faults=faults, recoveries=recoveries, ledger=_ledger(chosen), say=say)
    options = Options(keep=keep, by=account_name())
    request = Request(runbook=drilled, stack=chosen, store=store, catalogue=catalogue, options=options)
    check_allowed(request)
    request = replace(request, runbook=replace(pool, sections=()), observers=heralds(store, ""))
    played: list[Round] = []
    say(f"drill on {chosen.name}: {count(len(plan.faults), 'round')}, seed {choice.seed}")
    finished = _run(plan, request, played)
    folder = store.find_run(_latest(store, pool.name))
    say("", *_aligned(_table(played)), *_remarks(played))
    _close(finished)
    if aside("the report", lambda: _write(folder, played), otherwise=False):
        say(f"report   {folder / 'report.html'}")
    return finished.exit_code


def _write(folder: Path, played: list[Round]) -> bool:
    """The rounds and the reports, beside the journal."""
    (folder / ROUNDS).write_bytes(msgspec.json.format(msgspec.json.encode(played)))
    write_reports(folder)
    return True


def _run(plan: Plan, request: Request, played: list[Round]) -> RunFinished:
    def inside(execution: Execution, signals: StopRequest) -> None:
        Drill(plan, request, execution, signals).play(played)

    return run(replace(request, inside=inside))


def _absent(step: Step, stack: Stack, recoveries: Iterable[Runbook]) -> str:
    """Why a fault cannot be drilled on a stack: something that it, or its recovery runbook, needs is missing."""
    needed = [
        *step.requires,
        *(each for one in recoveries if one.name == Path(step.recovery).stem for each in one.requires),
    ]
    return next(filter(None, map(stack.absent, needed)), "") or forbidden(step, stack)


def _applying(pool: Runbook, stack: Stack, recoveries: Sequence[Runbook]) -> Runbook:
    """The runbook without the faults that do not apply to the stack; they are listed, each with what it needs.

    Raises:
        UsageError: None is left.
    """
    sections, left = [], 0
    for section in pool.sections:
        nowhere = next(filter(None, map(stack.absent, section.requires)), "")
        why = {step.path: nowhere or _absent(step, stack, recoveries) for step in section.steps}
        for step in section.steps:
            if why[step.path]:
                say(f"left out: {step.name}: {why[step.path]}")
        sections.append(replace(section, steps=tuple(step for step in section.steps if not why[step.path])))
        left += sum(map(bool, why.values()))
    kept = replace(pool, sections=tuple(sections))
    if left and not any(step.recovery for section in kept.sections for step in section.steps):
        raise UsageError(
            f"no fault of {pool.name} applies to the stack {stack.name!r}",
            hint="the lines above say why each was left out",
        )
    return kept


def _ledger(stack: Stack) -> Callable[[Caller, str], Ledger] | None:
    """What counts the cost of a round: the first entry point of the group `k2run.ledgers` that can by these roles."""
    from importlib.metadata import entry_points

    makers = (point.load()(stack.roles) for point in entry_points(group=LEDGERS))
    return next((maker for maker in makers if maker is not None), None)


def _latest(store: Store, name: str) -> str:
    return [run.name for run in store.runs() if f"-{name}-" in run.name][-1]


def _table(rounds: Sequence[Round]) -> Iterator[tuple[str, ...]]:
    """The drill as rows: a heading, then a row for each round."""
    yield (
        "round",
        "fault",
        "in force",
        "detected",
        "diagnosis",
        "diagnosed as",
        "right",
        "recovered",
        "RTO",
        "within",
        "lost",
        "doubled",
        "of",
    )
    for one in rounds:
        cost: tuple[Any, ...] = (one.cost.lost, one.cost.doubled, one.cost.acked) if one.cost else ("?", "?", "?")
        yield (
            str(one.number),
            one.fault,
            f"{one.in_force:.1f}s",
            "no" if one.detected is None else f"{one.detected:.1f}s ± {one.looking:.1f}s",
            "-" if one.diagnosis is None else f"{one.diagnosis:.1f}s",
            ", ".join(one.diagnosed) or "-",
            "n/a" if not one.applies else "yes" if one.right else "NO",
            "n/a" if not one.applies else "yes" if one.recovered else "NO",
            "-" if one.rto is None else f"{one.rto:.1f}s",
            "-" if one.within is None else f"{one.within:g}s" + ("" if one.in_time else " MISSED"),
            *map(str, cost),
        )


def _aligned(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Rows with each column as wide as its widest cell."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _remarks(rounds: Iterable[Round]) -> Iterator[str]:
    for one in rounds:
        if one.applies and not one.right:
            yield f"round {one.number}: {one.expected} was expected"
        if one.message:
            yield f"round {one.number}: {one.message}"


def _close(finished: RunFinished) -> None:
    say("", f"{finished.outcome.value.replace('_', ' ').upper()}  {finished.verdict}")
    for pending in finished.pending_undos:
        complain(f"still broken: {pending}; `k2run undo` puts it back")

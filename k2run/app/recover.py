"""Recover a stack: diagnose it, run the matching runbook, guided or unattended, and diagnose again; drill it.

A drill injects undisclosed faults, and shows how well they were diagnosed and recovered.
Long because a drill is a recovery whose fault is known.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from k2run.actions.action import Effect
from k2run.actions.catalogue import Catalogue, load_point
from k2run.actions.deadline import Deadline
from k2run.app.diagnose import causes_told, evidence_of, lines_of, recovery_runbooks, unconfirmed
from k2run.app.guided import GuidedFace, TerminalGuide
from k2run.app.launch import find_runbook, is_attended, open_stack
from k2run.app.leftover_faults import warn_of_broken
from k2run.engine.events import Outcome, RunFinished, RunResumed, RunStarted, StepFinished
from k2run.engine.execution import Options
from k2run.engine.journal import ends_of, read_lines
from k2run.engine.judge import NOT_APPLICABLE_CODE
from k2run.engine.outline import ALWAYS, all_steps
from k2run.engine.prompts import Nobody
from k2run.engine.request import Request, check_allowed, forbidden
from k2run.engine.run import run
from k2run.engine.safeguards import StopRequest, aside
from k2run.engine.store import Store, holder
from k2run.errors import Interrupted, Protected, UsageError
from k2run.evidence.reports import write_reports
from k2run.evidence.wording import clean, count, moment
from k2run.files import account_name
from k2run.language.loader import load_runbook
from k2run.language.model import Kind
from k2run.recovery.account import write_timeline
from k2run.recovery.diagnosis import Diagnosis, Verdict
from k2run.recovery.drill import Choice, Drill, Plan, Round, choose
from k2run.recovery.looks import diagnose_settled, suspicion
from k2run.recovery.repairs import Clocks, Repair, Repairs
from k2run.terminal.face import TerminalPerson
from k2run.terminal.mode import open_face
from k2run.terminal.safe_stream import complain, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from k2run.app.launch import Heralds
    from k2run.engine.dispatch import Caller
    from k2run.engine.execution import Execution
    from k2run.language.model import Runbook, Step
    from k2run.recovery.account import Tries
    from k2run.recovery.diagnosis import Suspect, Why
    from k2run.recovery.drill import Ledger
    from k2run.stack.stack import Stack


def unfinished_attempt(store: Store, stack: str) -> list[str]:
    """Lines about the newest run of a stack if that is an unfinished recovery; none otherwise."""
    for folder in reversed(store.runs()):
        begun, over = ends_of(folder)
        if begun is None or begun.stack != stack:
            continue
        broken_off = over is None or over.outcome is Outcome.INTERRUPTED
        if begun.kind != Kind.RECOVERY or not broken_off or folder.name in holder(store.stack_folder(stack)):
            return []
        return _lines(folder, begun, over)
    return []


def _lines(folder: Path, begun: RunStarted, over: RunFinished | None) -> list[str]:
    events, _ = read_lines(folder)
    led = begun.attended and not begun.inbox
    steps = [event for event in events if isinstance(event, StepFinished) and event.section != ALWAYS]
    done = [step for step in steps if step.outcome is Outcome.PASSED]
    last = f"; last step done: {clean(done[-1].name)}" if done else "; no step was done"
    ended = "died" if over is None else f"was interrupted at {moment(over.at)}"
    again = " again" if any(isinstance(event, RunResumed) for event in events) else ""
    return [
        f"the recovery {begun.name} that began at {moment(begun.at)} {ended}{again}{last}",
        f"  `k2run resume {begun.run}{' --step' if led else ''}` resumes it, `k2run recover` starts a new recovery",
    ]


AT_MOST = 4
"""Consecutive recoveries before an operator has to decide."""


class Recovery:
    """Recovers one stack; `auto` without prompts: manual steps take their defaults, and nothing is destroyed."""

    def __init__(self, stack: str, *, auto: bool, extra: Mapping[str, str], heralds: Heralds) -> None:
        self._store = Store()
        self._catalogue = Catalogue()
        self._stack: Stack = open_stack(stack, store=self._store)
        self._auto = auto
        self._extra = dict(extra)
        self._heralds = heralds
        warn_of_broken(self._store)
        say(*unfinished_attempt(self._store, self._stack.name))

    def _require_terminal(self) -> None:
        """Refuse to guide where there is no operator.

        Raises:
            UsageError: There is no interactive terminal.
        """
        if not self._auto and not is_attended():
            raise UsageError("guided recovery needs an interactive terminal", hint="`--auto` recovers unattended")

    def by(self, reference: str) -> int:
        """Recover with one runbook, named by the person; returns the exit code."""
        runbook = load_runbook(find_runbook(reference, among="recovery"), self._catalogue)
        self._require_terminal()
        if runbook.kind is not Kind.RECOVERY:
            raise UsageError(f"{runbook.name} is a {runbook.kind} runbook", hint=f"`k2run run {runbook.name}` runs it")
        repair = Repair(runbook=runbook, known=time.monotonic())
        if not self._is_confirmed(repair):
            return NOT_APPLICABLE_CODE
        return self._run(repair, Clocks()).exit_code

    def from_diagnosis(self) -> int:
        """Recover from whatever is wrong, one failure after the other; returns the exit code."""
        self._require_terminal()
        runbooks = recovery_runbooks(self._catalogue)
        repairs = Repairs(runbooks, self._stack, self._catalogue, AT_MOST)
        while True:
            found = self._diagnosis(runbooks, partial(diagnose_settled, tell=say))
            say(*lines_of(found))
            repair = repairs.next(found)
            if repair is None:
                return self._over(found, repairs.tries)
            if repair.ahead_of:
                say(f"running {repair.runbook.name} first: {repair.ahead_of} depends on it")
            if repair.says:
                say(repair.says)
            if repair.pause:
                self._wait(repair.pause)
            if not (repair.only_proof or self._is_confirmed(repair)):
                repairs.tries.leave(time.monotonic())
                continue
            clocks = Clocks()
            finished = self._run(repair, clocks)
            repairs.done(repair, clocks)
            if finished.exit_code == Interrupted.exit_code or (repair.only_proof and not clocks.proven):
                return finished.exit_code

    def _is_confirmed(self, repair: Repair) -> bool:
        """Check the symptoms again: without an operator, nothing is started for a failure that has gone."""
        name = repair.runbook.name
        if not self._auto or not repair.runbook.symptoms:  # without any it was named, and that has to do
            return True
        with StopRequest() as signals:
            suspect = suspicion(repair.runbook, self._stack, self._catalogue, signals.run, repair.suspect)
        if suspect.verdict is Verdict.MATCHES:
            return True
        say(f"not running {name}: its symptoms are not confirmed", *unconfirmed(suspect))
        return False

    def _over(self, found: Diagnosis, tries: Tries) -> int:
        """Nothing is left to do: the stack is healthy, or no runbook is left to try."""
        if tries.names:
            say("what each recovery did:", *tries.lines())
        if found.healthy:
            return 0
        complain("no recovery runbook is left to try")
        if tries.names:
            complain(
                f"  hint: `k2run recover {tries.names[-1]}` guides you through it on a terminal; the timeline of each "
                "try is named above",
            )
        elif found.unreached:
            complain("  hint: make what runs the services above answer, then `k2run diagnose` says more")
        elif found.having(Verdict.UNSEEN):
            complain("  hint: some checks gave no answer; try `k2run diagnose` again in a moment")
        return 1

    def _wait(self, seconds: float) -> None:
        """Wait before another try.

        Raises:
            Interrupted: The recovery was asked to end.
        """
        with StopRequest() as signals:
            Deadline(seconds + 1, signals.run).sleep(seconds)

    def _diagnosis(self, runbooks: list[Runbook], look: Callable[..., Diagnosis]) -> Diagnosis:
        with StopRequest() as signals:
            return look(runbooks, self._stack, self._catalogue, signals.run)

    def _run(self, repair: Repair, clocks: Clocks) -> RunFinished:
        """Run a recovery runbook, and write its reports and its timeline."""
        runbook, suspect = repair.runbook, repair.suspect
        if self._auto:
            refuse_to_destroy(runbook)
        known = {entry.name for entry in runbook.inputs} | set(runbook.vars)
        why = [*(evidence_of(suspect) if suspect is not None else ()), *causes_told(repair.causes)]
        face = open_face("plain", sys.stdout) if self._auto else GuidedFace(sys.stdout, why, repair.waiting)
        with face:
            options = Options(
                extra={name: value for name, value in self._extra.items() if name in known},
                attended=not self._auto,
                by=account_name(),
            )
            request = Request(
                runbook=runbook,
                stack=self._stack,
                store=self._store,
                catalogue=self._catalogue,
                options=options,
                observers=(face, clocks, *self._heralds(self._store, "")),
                guide=TerminalGuide(face) if isinstance(face, GuidedFace) else None,
                person=TerminalPerson(face) if isinstance(face, GuidedFace) else Nobody(),
            )
            finished = run(repair.request(request))
        account = aside(
            "the timeline", lambda: write_account(self._store.find_run(face.run), suspect, repair.causes), None
        )
        if account is not None:
            say(f"report   {account}")
        return finished


def refuse_to_destroy(runbook: Runbook) -> None:
    """Refuse destructive steps without an operator.

    Raises:
        Protected: The runbook destroys something.
    """
    for step in all_steps(runbook):
        if step.effect is Effect.DESTROYS:
            raise Protected(
                f"{step.place}: {step.action} is destructive, and there is no operator to approve it",
                hint=f"`k2run recover {runbook.name}` on a terminal asks before each step",
            )


def write_account(folder: Path, suspect: Suspect | None, causes: Sequence[Why] = ()) -> Path:
    """Write the timeline of a recovery, and its reports; returns the timeline's file."""
    path = write_timeline(folder, suspect, causes)
    aside("the report", lambda: write_reports(folder), None)
    return path


ROUNDS = "drill.json"
LEDGERS = "k2run.ledgers"


def hold_drill(reference: str, choice: Choice, *, stack: str, keep: bool, heralds: Heralds) -> int:
    """Hold a drill and show how it went; the steps of a runbook are the faults, of which `choice` picks some.

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

    makers = (load_point(point)(stack.roles) for point in entry_points(group=LEDGERS))
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

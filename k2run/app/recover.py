"""Recover a stack: diagnose it, run the matching runbook, guided or unattended, and diagnose again."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from k2run.actions.action import Effect
from k2run.actions.catalogue import Catalogue
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
from k2run.engine.request import Request
from k2run.engine.run import run
from k2run.engine.safeguards import StopRequest, aside
from k2run.engine.store import Store, holder
from k2run.errors import Interrupted, Protected, UsageError
from k2run.evidence.reports import write_reports
from k2run.evidence.wording import clean, moment
from k2run.files import account_name
from k2run.language.loader import load_runbook
from k2run.language.model import Kind
from k2run.recovery.account import write_timeline
from k2run.recovery.diagnosis import Diagnosis, Verdict
from k2run.recovery.looks import diagnose_settled, suspicion
from k2run.recovery.repairs import Clocks, Repair, Repairs
from k2run.terminal.face import TerminalPerson
from k2run.terminal.mode import open_face
from k2run.terminal.safe_stream import complain, say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from k2run.app.launch import Heralds
    from k2run.engine.events import RunFinished
    from k2run.language.model import Runbook
    from k2run.recovery.account import Tries
    from k2run.recovery.diagnosis import Suspect, Why
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
    """Recovers one stack.

    Args:
        stack: Name or file of the stack.
        auto: No prompts: manual steps take their defaults, and nothing is destroyed.
        extra: Inputs of the runbooks.
        heralds: Makes the observers that notify others of the runs.
    """

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
            found = self._diagnosis(runbooks, diagnose_settled)
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

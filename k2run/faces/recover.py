"""Recovers a stack: diagnoses it, leads through the runbook that fits (or does it alone), and looks again."""

from __future__ import annotations

import getpass
import sys
import time
from typing import TYPE_CHECKING

from k2run.actions.action import Effect
from k2run.actions.catalogue import Catalogue
from k2run.engine.execution import Options
from k2run.engine.journal import read_journal
from k2run.engine.outline import all_steps
from k2run.engine.people import Nobody
from k2run.engine.request import Request
from k2run.engine.run import run
from k2run.engine.signals import StopRequest
from k2run.engine.store import Store
from k2run.errors import Interrupted, Protected, UsageError
from k2run.evidence.reports import write_reports
from k2run.faces.diagnose import evidence_of, lines_of, recovery_runbooks
from k2run.faces.guided import GuidedFace, TerminalGuide
from k2run.faces.launch import find_runbook, is_attended, open_stack
from k2run.faces.notify.messenger import heralds
from k2run.faces.settle import warn_of_broken
from k2run.faces.terminal import open_face
from k2run.faces.terminal.person import TerminalPerson
from k2run.language.loader import load_runbook
from k2run.language.model import Kind
from k2run.recovery.diagnosis import Diagnosis, Verdict, diagnose, diagnose_settled
from k2run.recovery.repairs import Clocks, Repair, Repairs
from k2run.recovery.timeline import TIMELINE, timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from k2run.engine.events import RunFinished
    from k2run.language.model import Runbook
    from k2run.recovery.diagnosis import Suspect
    from k2run.stack.loading import Stack

AT_MOST = 4
"""Recoveries after another before somebody has to think about it."""


class Recovery:
    """Recovers one stack.

    Args:
        stack: Name or file of the stack.
        auto: Nobody is asked: manual steps take their defaults, and nothing is destroyed.
        extra: Inputs of the runbooks.
    """

    def __init__(self, stack: str, *, auto: bool, extra: Mapping[str, str]) -> None:
        if not auto and not is_attended():
            raise UsageError("there is nobody at this terminal to be led", hint="`--auto` recovers unattended")
        self._store = Store()
        self._catalogue = Catalogue()
        self._stack: Stack = open_stack(stack, store=self._store)
        self._auto = auto
        self._extra = dict(extra)
        warn_of_broken(self._store)

    def by(self, reference: str) -> int:
        """Recover with one runbook, named by the person; returns the exit code."""
        runbook = load_runbook(find_runbook(reference), self._catalogue)
        if runbook.kind is not Kind.RECOVERY:
            raise UsageError(f"{runbook.name} is a {runbook.kind} runbook", hint=f"`k2run run {runbook.name}` runs it")
        return self._run(Repair(runbook=runbook, known=time.monotonic()), Clocks()).exit_code

    def from_diagnosis(self) -> int:
        """Recover from whatever is wrong, one failure after the other; returns the exit code."""
        runbooks = recovery_runbooks(self._catalogue)
        repairs = Repairs(runbooks, self._stack, self._catalogue, AT_MOST)
        while True:
            found = self._diagnosis(runbooks, diagnose_settled if repairs.tried else diagnose)
            print("\n".join(lines_of(found)))
            repair = repairs.next(found)
            if repair is None:
                return self._over(found, repairs.tried)
            if repair.ahead_of:
                print(f"{repair.runbook.name} comes first: {repair.ahead_of} works with what it repairs")
            if repair.says:
                print(repair.says)
            clocks = Clocks()
            finished = self._run(repair, clocks)
            repairs.done(repair, clocks)
            if finished.exit_code == Interrupted.exit_code or (repair.only_proof and not clocks.proven):
                return finished.exit_code

    def _over(self, found: Diagnosis, tried: list[str]) -> int:
        """Nothing is left to do: because the stack is well, or because nothing is left to try."""
        if found.healthy:
            return 0
        helped = f"; {', '.join(tried)} did not help" if tried else ""
        print(f"no runbook is left to try{helped}", file=sys.stderr)
        if tried:
            print(
                f"  hint: `k2run recover {tried[-1]}` on a terminal leads through it; the timeline of each "
                "try is named above",
                file=sys.stderr,
            )
        elif found.having(Verdict.UNSEEN):
            print(
                "  hint: what could not be seen may be seen in a moment: `k2run diagnose` looks again", file=sys.stderr
            )
        return 1

    def _diagnosis(self, runbooks: list[Runbook], look: Callable[..., Diagnosis]) -> Diagnosis:
        with StopRequest() as signals:
            return look(runbooks, self._stack, self._catalogue, signals.run)

    def _run(self, repair: Repair, clocks: Clocks) -> RunFinished:
        """Run a recovery runbook, and write its reports and its timeline."""
        runbook, suspect = repair.runbook, repair.suspect
        if self._auto:
            refuse_to_destroy(runbook)
        known = {entry.name for entry in runbook.inputs} | set(runbook.vars)
        why = list(evidence_of(suspect)) if suspect is not None else []
        face = open_face("plain", sys.stdout) if self._auto else GuidedFace(sys.stdout, why)
        with face:
            options = Options(
                extra={name: value for name, value in self._extra.items() if name in known},
                attended=not self._auto,
                by=getpass.getuser(),
            )
            request = Request(
                runbook=runbook,
                stack=self._stack,
                store=self._store,
                catalogue=self._catalogue,
                options=options,
                observers=(face, clocks, *heralds(self._store)),
                guide=TerminalGuide(face) if isinstance(face, GuidedFace) else None,
                person=TerminalPerson(face) if isinstance(face, GuidedFace) else Nobody(),
            )
            finished = run(repair.request(request))
        print(f"report   {write_account(self._store.find_run(face.run), suspect)}")
        return finished


def refuse_to_destroy(runbook: Runbook) -> None:
    """What cannot be taken back is not done without a person.

    Raises:
        Protected: The runbook destroys something.
    """
    for step in all_steps(runbook):
        if step.effect is Effect.DESTROYS:
            raise Protected(
                f"{step.place}: {step.action} destroys something; nobody is there to allow it",
                hint=f"`k2run recover {runbook.name}` on a terminal asks before each step",
            )


def write_account(folder: Path, suspect: Suspect | None) -> Path:
    """Write the reports of a recovery and its timeline; returns the timeline's file."""
    write_reports(folder)
    path = folder / TIMELINE
    path.write_text(timeline(read_journal(folder), suspect), encoding="utf-8")
    return path

"""Run lifecycle: `play` runs each phase in order, from the first event of a run to its verdict.

Long because a runbook that a step runs goes through the same phases, in the same journal, under the step's path, with
names and a clock of its own.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

import k2run
from k2run.actions.action import Result
from k2run.actions.deadline import Deadline
from k2run.engine.attempt import Attempt
from k2run.engine.dispatch import Caller, Delegates, message_of
from k2run.engine.events import (
    Answered,
    Asked,
    ClockStopped,
    Noted,
    Outcome,
    RunFinished,
    RunResumed,
    RunStarted,
    StackChanged,
    StepFinished,
)
from k2run.engine.execution import Execution, OutOfTime
from k2run.engine.journal import Journal, read_journal
from k2run.engine.judge import NOT_APPLICABLE_CODE, judge_run
from k2run.engine.outline import bands, categories, outline
from k2run.engine.prompts import Recorded
from k2run.engine.replay import UndoStack, latest, own_services, past_of, pending_undos, started, without_tries_before
from k2run.engine.safeguards import TRACEBACKS, StopRequest, Wall, requester
from k2run.engine.sections import SectionRunner
from k2run.engine.variables import Sources, Variables, resolve_inputs, shown_extra, shown_inputs
from k2run.errors import ExpressionFailed, Interrupted, JournalLost, K2runError, Refused, Unsettled, UsageError
from k2run.language.expressions import render
from k2run.language.model import Kind
from k2run.stack.secrets import as_text, as_written

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.engine.events import AnyEvent
    from k2run.engine.execution import Options
    from k2run.engine.judge import Judgement
    from k2run.engine.replay import Pending
    from k2run.engine.request import Request
    from k2run.language.model import Runbook, Step

UNDO_TIMEOUT = 60.0
START_TIMEOUT = 60.0


def play(
    request: Request, folder: Path, inputs: dict[str, Any], signals: StopRequest, past: Sequence[AnyEvent]
) -> RunFinished:
    """Begin, bring the stack up, run the sections, run `always`, undo, leave the stack as it was, judge, close."""
    execution = _begin(request, folder, inputs, signals, past)
    sections = SectionRunner(execution)
    wanted = not past or request.store.up_since(request.stack.name, past[-1].at)  # by hand: that is not taken down
    brought_up: list[str] = [] if wanted else own_services(past)
    absent = execution.missing(request.runbook.requires)
    if absent:
        return _not_applicable(request, execution, absent)
    stopped = _guard(execution, lambda: _settle_past(execution, past))
    stopped = stopped or _guard(execution, lambda: _bring_up(execution, brought_up))
    stopped = stopped or _guard(execution, sections.run_all)
    inside = request.inside
    if inside is not None:
        stopped = stopped or _guard(execution, lambda: inside(execution, signals))
    with execution.journal.unbound():
        stopped, reasons = _wind_up(execution, sections, signals, stopped)
        down = _guard(execution, lambda: _take_down(execution, brought_up))
        reasons += [f"the stack could not be stopped: {down}"] if down else []
        return _close(request, execution, stopped, reasons)


def _wind_up(
    execution: Execution, sections: SectionRunner, signals: StopRequest, stopped: K2runError | None
) -> tuple[K2runError | None, list[str]]:
    """Run `always`, then undo, whatever happened; gives why the run ended early, and what speaks against it."""
    execution.stop = signals.cleanup
    signals.say = lambda text: _tell(execution, Noted(message=f"{text}: {_impatience(execution)}", level="warning"))
    if stopped is not None:
        execution.asks_nobody.set()
        signals.leave_terminal()
    if isinstance(stopped, Interrupted):
        _tell_request(execution, signals, stopped)
    _guard(execution, sections.run_always)
    signals.leave_terminal()
    if stopped is None and execution.asks_nobody.is_set():
        stopped = Interrupted("the run was asked to end")
        _tell_request(execution, signals, stopped)
    reasons = [f"undo failed: {failure}" for failure in execution.undos.play_all()]
    reasons += execution.against
    return stopped, reasons


def _impatience(execution: Execution) -> str:
    """What another signal does to a run that is ending."""
    pending = execution.undos.says
    if not execution.stop.is_set():
        return "undoing goes on; one more gives it up" if pending else "the run is ending"
    return f"given up; still broken: {'; '.join(pending)}; `k2run undo` puts it back" if pending else "given up"


def _tell_request(execution: Execution, signals: StopRequest, stopped: Interrupted) -> None:
    """Say who asked the run to end, and what it will really do."""
    asked = requester(execution.folder)
    by = f" from {asked}" if asked else ""
    why = f"{signals.name} received{by}" if signals.name else stopped.message
    pending = len(execution.undos.says)
    doing = f"undoing {pending} fault{'s' if pending != 1 else ''}, then ending" if pending else "ending"
    _tell(execution, Noted(message=f"{why}: {doing}", level="warning"))


def _begin(
    request: Request, folder: Path, inputs: dict[str, Any], signals: StopRequest, past: Sequence[AnyEvent]
) -> Execution:
    """Open the journal and make what the parts of the run share."""
    runbook, stack, options = request.runbook, request.stack, request.options
    journal = _journal(request, folder, past)
    sources = Sources(runbook.source, runbook.home, stack, inputs)
    done = past_of(sources.recalled(past))
    if past:
        journal.record(RunResumed(pid=os.getpid(), inbox=options.inbox, by=options.by, finished_steps=len(done.steps)))
    else:
        journal.record(run_started(request, folder, inputs))
    caller = Caller(request.catalogue, stack, lambda step: Recorded(request.person, journal, step, signals.run))
    delegates = Delegates(runbook, caller, request.store.home)
    variables = Variables(
        {}, inputs, {name: as_text(value) for name, value in options.extra.items() if name not in inputs}
    )
    execution = Execution(
        folder=folder,
        runbook=runbook,
        stack=stack,
        journal=journal,
        caller=caller,
        undos=undo_stack(journal, caller, signals, past, sources),
        variables=variables,
        options=options,
        stop=signals.run,
        past=done,
        cleanup=signals.cleanup,
        delegates=delegates,
        sources=sources,
        nested=run_runbook,
    )
    variables.enter(runbook.vars, lambda name, value: execution.keep(f"vars.{name}", value))
    if request.guide is not None:
        from k2run.engine.prompts import Guided

        execution.guided = Guided(request.guide, execution)
    if runbook.kind is Kind.RECOVERY:
        execution.fault_began(-_known_for(options, past) - _away(journal, past))
    return execution


def _journal(request: Request, folder: Path, past: Sequence[AnyEvent]) -> Journal:
    stack = request.stack
    return Journal(
        folder,
        request.observers,
        redact=stack.redact,
        after=past,
        wall=Wall(folder, stack.redact),
        copy=request.store.undo_copy(stack.name),
    )


def _known_for(options: Options, past: Sequence[AnyEvent]) -> float:
    """Seconds for which the failure was known when the recovery began, in this part of the run or the first."""
    return float(started(past).options.get("known_for", 0.0)) if past else options.known_for


def _away(journal: Journal, past: Sequence[AnyEvent]) -> float:
    """Seconds between the parts of a run: it was not running, and what it recovers from lasted."""
    if not past:
        return 0.0
    begun = datetime.fromisoformat(started(past).at)
    return max(0.0, (datetime.now(UTC) - begun).total_seconds() - journal.elapsed())


def _settle_past(execution: Execution, past: Sequence[AnyEvent]) -> None:
    """Before a resumed run goes on: put back what is still broken; what ran under those faults is done again.

    Raises:
        Unsettled: Something could not be put back.
    """
    if not past:
        return
    failed = execution.undos.play_all()
    if failed:
        raise Unsettled("; ".join(failed), hint="repair it by hand, then resume again")
    execution.stand_on(past_of(execution.sources.recalled(read_journal(execution.folder))))


def _bring_up(execution: Execution, brought_up: list[str]) -> None:
    """Start what the stack needs and does not run yet; what a recovery finds broken is for its own steps to repair."""
    if execution.options.check or not execution.runbook.uses_stack or execution.runbook.kind is Kind.RECOVERY:
        return
    from k2run.stack import lifecycle

    began = execution.journal.elapsed()
    deadline = Deadline(START_TIMEOUT, execution.stop)
    new = lifecycle.start(execution.stack, None, deadline, lambda text: _tell(execution, Noted(message=text)))
    brought_up += [name for name in new if name not in brought_up]
    if new:
        seconds = round(execution.journal.elapsed() - began, 3)
        execution.journal.record(StackChanged(verb="started", services=new, seconds=seconds))


def _take_down(execution: Execution, brought_up: list[str]) -> None:
    """Leave the stack as it was found, unless asked to keep it."""
    if not brought_up:
        return
    if execution.options.keep:
        _tell(execution, StackChanged(verb="kept", services=brought_up))
        return
    from k2run.stack import lifecycle

    began = execution.journal.elapsed()
    lifecycle.stop(execution.stack, brought_up)
    _tell(
        execution,
        StackChanged(verb="stopped", services=brought_up, seconds=round(execution.journal.elapsed() - began, 3)),
    )


def _close(request: Request, execution: Execution, stopped: K2runError | None, reasons: list[str]) -> RunFinished:
    """Judge the run, record the judgement, and take the mark away when nothing is left to settle."""
    journal = execution.journal
    if execution.options.check:
        finished = judge_trial(latest(read_journal(execution.folder)), journal.elapsed(), stopped)
        return _ended(request, execution, finished)
    kept: JournalLost | None = journal.lost
    for what, why in journal.wall.broken.items():
        _tell(execution, Noted(message=f"{what} failed, and the run went on without it: {why}", level="warning"))
    try:
        events: list[AnyEvent] = read_journal(execution.folder)
    except UsageError:
        events = []
    judgement = judge_run(
        request.runbook,
        events,
        seconds=journal.elapsed(),
        figures=execution.figures,
        stopped=stopped or kept,
        reasons=reasons,
        pending=execution.undos.says,
        remark=execution.ended_well,
        lacking=execution.lacking,
        changed=execution.changed,
    )
    for event in (*judgement.objectives, *((judgement.scored,) if judgement.scored else ()), judgement.finished):
        _tell(execution, event)
    journal.close()
    if not execution.undos:
        request.store.mark_closed(request.stack.name, execution.folder.name)
    return judgement.finished


def _not_applicable(request: Request, execution: Execution, reason: str) -> RunFinished:
    """End a run for which this stack has not what it is about: that is neither a success nor a failure."""
    finished = RunFinished(
        outcome=Outcome.NOT_APPLICABLE,
        verdict=f"not applicable: {reason}",
        exit_code=NOT_APPLICABLE_CODE,
        seconds=0.0,
        reasons=[reason],
    )
    return _ended(request, execution, finished)


def _ended(request: Request, execution: Execution, finished: RunFinished) -> RunFinished:
    """Record the last event of a run that leaves nothing to settle."""
    _tell(execution, finished)
    execution.journal.close()
    request.store.mark_closed(request.stack.name, execution.folder.name)
    return finished


def _guard(execution: Execution, part: Any) -> K2runError | None:
    """Run one part; whatever it raises is kept as the reason why the run ends, so that the parts after it still run."""
    try:
        part()
    except K2runError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a defect of k2run itself must not keep undos from being played
        execution.journal.wall.keep(error)
        return K2runError(message_of(error)[0], hint=f"a defect of k2run; see {execution.folder / TRACEBACKS}")
    return None


def _tell(execution: Execution, event: Any) -> None:
    """Record an event of the closing parts, which go on whatever becomes of it."""
    with suppress(Exception):
        execution.journal.record(event)


def undo_stack(
    journal: Journal, caller: Caller, signals: StopRequest, events: Sequence[AnyEvent], sources: Sources
) -> UndoStack:
    """The undos of a run, with those that its earlier parts left."""
    left = pending_undos(events)

    def do(entry: Pending) -> Any:
        if entry in left and not caller.catalogue.undoes(entry.action):
            raise Refused(
                f"no fault has {entry.action} as its undo, so it is not played",
                hint="was the journal changed, or is the adapter of the fault not installed any more?",
            )
        args = sources.restored(entry.args, entry.secrets)
        return caller.call(entry.action, args, Deadline(UNDO_TIMEOUT, signals.cleanup))

    planned = sum(event.__class__.__name__ == "UndoPlanned" for event in events)
    return UndoStack(journal, do, left, planned=planned)


def run_started(request: Request, folder: Path, inputs: dict[str, Any]) -> RunStarted:
    """The first event of a run, from what was asked for."""
    runbook, stack, options = request.runbook, request.stack, request.options
    return RunStarted(
        run=folder.name,
        runbook=runbook.path,
        name=runbook.name,
        title=runbook.title,
        kind=runbook.kind.value,
        digest=runbook.digest,
        stack=stack.name,
        stack_file=str(stack.path),
        owner=runbook.owner,
        inputs=shown_inputs(runbook, inputs),
        options={
            "tags": sorted(options.tags),
            "skip_tags": sorted(options.skip_tags),
            "extra": shown_extra(runbook, options.extra),
            "keep": options.keep,
            **({"known_for": options.known_for} if options.known_for else {}),
        },
        attended=options.attended,
        inbox=options.inbox,
        by=options.by,
        pid=os.getpid(),
        versions={"k2run": k2run.__version__, "python": ".".join(map(str, sys.version_info[:3]))},
        environment=_environment(),
        outline=outline(runbook),
        categories=categories(runbook),
        bands=bands(runbook),
        go=runbook.score.go if runbook.score else None,
        within=runbook.objective.within,
        rto=runbook.objective.rto,
        rpo=runbook.objective.rpo,
    )


def _environment() -> dict[str, str]:
    system = os.uname()
    return {
        "host": system.nodename,
        "system": f"{system.sysname} {system.release} {system.machine}",
        "cores": str(os.cpu_count()),
    }


def judge_trial(steps: Sequence[StepFinished], seconds: float, stopped: K2runError | None) -> RunFinished:
    """How a check ended: it fails where a run certainly would."""
    failed = [step.name for step in steps if step.outcome in {Outcome.FAILED, Outcome.UNKNOWN} and step.action != "run"]
    reasons = [*([str(stopped)] if stopped is not None else []), *(f'"{name}" would fail' for name in failed)]
    would = sum(step.message.startswith("would ") for step in steps)
    probed = sum(step.outcome is Outcome.PASSED and "." in step.action for step in steps)
    looked = f", {probed} {'was' if probed == 1 else 'were'} probed" if probed else ""
    verdict = f"checked: {would} step{'' if would == 1 else 's'} would run{looked}"
    return RunFinished(
        outcome=Outcome.FAILED if reasons else Outcome.PASSED,
        verdict="; ".join([verdict, *reasons[:3]]),
        exit_code=1 if reasons else 0,
        seconds=round(seconds, 3),
        reasons=reasons,
    )


class RunbookResult(Result, frozen=True, kw_only=True):
    """What a runbook that a step ran came to.

    Attributes:
        outcome: How it ended.
        verdict: The same in a sentence.
        seconds: How long it took.
        score: Its score, 0 to 100; None when it has none.
        figures: The figures that its steps recorded, `rto` among them.
        outputs: What it hands back.
    """

    outcome: str
    verdict: str
    seconds: float
    score: float | None
    figures: dict[str, Any]
    outputs: dict[str, Any]

    def headline(self) -> str:
        """Its verdict."""
        return self.verdict


def run_runbook(  # noqa: PLR0913 - a step, and where it stands
    around: Execution, step: Step, path: str, local: dict[str, Any], *, section: str, tags: frozenset[str]
) -> Attempt:
    """Run the runbook of a step; what it broke is undone when it ends.

    `path` is that of the step's turn, `section` that of its section, `local` its own names, `tags` what it inherits.

    Raises:
        UsageError: An input does not fit.
        ExpressionFailed: An input, a variable or an output could not be computed.
        Interrupted: The run was asked to end.
    """
    given = render(step.args, around.variables.names(local))
    runbook = _nested_runbook(around, given["runbook"])
    missing = around.missing(runbook.requires)
    if missing:
        return Attempt(outcome=Outcome.NOT_APPLICABLE, message=missing)
    inputs = resolve_inputs(runbook, _nested_inputs(step, given.get("inputs") or {}), stack=around.stack)
    variables = Variables({}, inputs, {})
    run = around.inside(runbook, variables, path, section, tags | step.tags)
    variables.enter(runbook.vars, lambda name, value: run.keep(f"{run.prefix}vars.{name}", value))
    began = run.journal.elapsed()
    reasons = _nested_sections(run, path)
    judgement = _judge_nested(run, run.journal.elapsed() - began, reasons)
    return _attempt_of(run, judgement, _nested_outputs(run, judgement))


def _nested_outputs(run: Execution, judgement: Judgement) -> dict[str, Any]:
    """What it hands back; where it failed, as much of that as there is: why it failed is the cause to be told."""
    found: dict[str, Any] = {}
    for name, output in run.runbook.outputs.items():
        try:
            found[name] = output.evaluate(run.variables.names())
        except ExpressionFailed:
            if judgement.finished.outcome is Outcome.PASSED:
                raise
    return found


def _nested_runbook(around: Execution, reference: str) -> Runbook:
    try:
        return around.runbook.runs[reference]
    except KeyError:
        raise UsageError(
            f"there is no runbook {reference!r}", hint="a text without a file has none beside it"
        ) from None


def _nested_inputs(step: Step, given: dict[str, Any]) -> dict[str, Any]:
    """What the step hands over: a text of the author's own may say where a secret is, a computed one is a value."""
    own = step.args.get("inputs")
    plain = {name for name, value in own.items() if isinstance(value, str)} if isinstance(own, dict) else set()
    return {name: as_written(value) if name in plain else value for name, value in given.items()}


def _nested_sections(run: Execution, path: str) -> list[str]:
    """Run its sections and its `always`, then undo what it broke; returns what speaks against it."""
    last = run.ending()
    late: OutOfTime | None = None
    try:
        SectionRunner(run).run_all()
    except OutOfTime as over:
        late = over
    finally:
        with run.journal.unbound():
            SectionRunner(last).run_always()
    run.ended_early = run.ended_early or last.ended_early
    run.ended_well = run.ended_well or last.ended_well
    failed = run.undos.play_all(by=path, inside=run.prefix)
    if late is not None:
        raise late
    return [*(f"undo failed: {failure}" for failure in failed), *run.against]


def _judge_nested(run: Execution, seconds: float, reasons: list[str]) -> Judgement:
    """Judge it from its own steps, as if it had been run by itself."""
    events = [
        replace(event, step=f"{event.step}.run.".removeprefix(run.prefix).removesuffix(".run."))
        for event in without_tries_before(read_journal(run.folder))
        if isinstance(event, ClockStopped | StepFinished | Asked | Answered)
        and f"{event.step}.run.".startswith(run.prefix)
    ]
    return judge_run(
        run.runbook,
        events,
        seconds=seconds,
        figures=run.figures,
        stopped=None,
        reasons=reasons,
        pending=[],
        remark=run.ended_well,
        lacking=run.lacking,
        changed=run.changed,
    )


def _attempt_of(run: Execution, judgement: Judgement, outputs: dict[str, Any]) -> Attempt:
    finished = judgement.finished
    result = RunbookResult(
        outcome=finished.outcome.value,
        verdict=finished.verdict,
        seconds=finished.seconds,
        score=judgement.scored.score if judgement.scored else None,
        figures=dict(run.figures),
        outputs=outputs,
        source=run.runbook.path,
    )
    attempt = Attempt(result=result, headline=result.headline(), answered=True)
    if finished.outcome is Outcome.PASSED:
        return attempt
    if finished.outcome is Outcome.NOT_APPLICABLE:
        return replace(attempt, outcome=finished.outcome, message=finished.verdict)
    return attempt.failing("; ".join(finished.reasons) or finished.verdict)

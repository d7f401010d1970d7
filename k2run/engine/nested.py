"""Runs another runbook as one step: in the same journal, under the step's path, with names and a clock of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from k2run.actions.action import Result
from k2run.engine.attempt import Attempt
from k2run.engine.events import Answered, Asked, ClockStopped, Outcome, StepFinished
from k2run.engine.execution import OutOfTime
from k2run.engine.journal import read_journal
from k2run.engine.judge import judge_run
from k2run.engine.replay import without_tries_before
from k2run.engine.sections import SectionRunner
from k2run.engine.variables import Variables, resolve_inputs
from k2run.errors import ExpressionFailed, UsageError
from k2run.language.expressions import render
from k2run.stack.secrets import as_written

if TYPE_CHECKING:
    from k2run.engine.execution import Execution
    from k2run.engine.judge import Judgement
    from k2run.language.model import Runbook, Step


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

    Args:
        around: The execution that the step belongs to.
        step: The step.
        path: Path of its turn.
        local: Its own names.
        section: Path of its section.
        tags: What it inherits.

    Raises:
        UsageError: An input does not fit.
        ExpressionFailed: An input, a variable or an output could not be computed.
        Interrupted: The run was asked to end.
    """
    given = render(step.args, around.variables.names(local))
    runbook = _runbook(around, given["runbook"])
    missing = around.missing(runbook.requires)
    if missing:
        return Attempt(outcome=Outcome.NOT_APPLICABLE, message=missing)
    inputs = resolve_inputs(runbook, _inputs(step, given.get("inputs") or {}), stack=around.stack)
    variables = Variables({}, inputs, {})
    run = around.inside(runbook, variables, path, section, tags | step.tags)
    variables.enter(runbook.vars, lambda name, value: run.keep(f"{run.prefix}vars.{name}", value))
    began = run.journal.elapsed()
    reasons = _sections(run, path)
    judgement = _judge(run, run.journal.elapsed() - began, reasons)
    return _attempt(run, judgement, _outputs(run, judgement))


def _outputs(run: Execution, judgement: Judgement) -> dict[str, Any]:
    """What it hands back; where it failed, as much of that as there is: why it failed is the cause to be told."""
    found: dict[str, Any] = {}
    for name, output in run.runbook.outputs.items():
        try:
            found[name] = output.evaluate(run.variables.names())
        except ExpressionFailed:
            if judgement.finished.outcome is Outcome.PASSED:
                raise
    return found


def _runbook(around: Execution, reference: str) -> Runbook:
    try:
        return around.runbook.runs[reference]
    except KeyError:
        raise UsageError(
            f"there is no runbook {reference!r}", hint="a text without a file has none beside it"
        ) from None


def _inputs(step: Step, given: dict[str, Any]) -> dict[str, Any]:
    """What the step hands over: a text of the author's own may say where a secret is, a computed one is a value."""
    own = step.args.get("inputs")
    plain = {name for name, value in own.items() if isinstance(value, str)} if isinstance(own, dict) else set()
    return {name: as_written(value) if name in plain else value for name, value in given.items()}


def _sections(run: Execution, path: str) -> list[str]:
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


def _judge(run: Execution, seconds: float, reasons: list[str]) -> Judgement:
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


def _attempt(run: Execution, judgement: Judgement, outputs: dict[str, Any]) -> Attempt:
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

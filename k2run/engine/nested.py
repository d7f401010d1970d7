"""Runs another runbook as one step: in the same journal, under the step's path, with names and a clock of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from k2run.actions.action import Result
from k2run.engine.attempt import Attempt
from k2run.engine.events import Outcome, StepFinished
from k2run.engine.inputs import resolve_inputs
from k2run.engine.journal import read_journal
from k2run.engine.judge import judge_run
from k2run.engine.sections import SectionRunner
from k2run.engine.variables import Variables
from k2run.errors import Interrupted, UsageError
from k2run.language.expressions import render

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


def run_runbook(around: Execution, step: Step, path: str, local: dict[str, Any], *, section: str) -> Attempt:
    """Run the runbook of a step; what it broke is undone when it ends.

    Args:
        around: The execution that the step belongs to.
        step: The step.
        path: Path of its turn.
        local: Its own names.
        section: Path of its section.

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
    inputs = resolve_inputs(runbook, given.get("inputs") or {}, stack=around.stack)
    variables = Variables({}, inputs, {})
    run = around.inside(runbook, variables, path, section)
    variables.enter(runbook.vars)
    began = run.journal.elapsed()
    reasons = _sections(run, path)
    judgement = _judge(run, run.journal.elapsed() - began, reasons)
    outputs = {name: output.evaluate(variables.names()) for name, output in runbook.outputs.items()}
    return _attempt(run, judgement, outputs)


def _runbook(around: Execution, reference: str) -> Runbook:
    try:
        return around.runbook.runs[reference]
    except KeyError:
        raise UsageError(
            f"there is no runbook {reference!r}", hint="a text without a file has none beside it"
        ) from None


def _sections(run: Execution, path: str) -> list[str]:
    """Run its sections and its `always`, then undo what it broke; returns what speaks against it."""
    try:
        SectionRunner(run).run_all()
    except Interrupted:
        SectionRunner(run.ending()).run_always()
        raise
    SectionRunner(run).run_always()
    failed = run.undos.play_all(by=path, inside=run.prefix)
    return [*(f"undo failed: {failure}" for failure in failed), *([run.ended_early] if run.ended_early else [])]


def _judge(run: Execution, seconds: float, reasons: list[str]) -> Judgement:
    """Judge it from its own steps, as if it had been run by itself."""
    events = [
        replace(event, step=event.step.removeprefix(run.prefix))
        for event in read_journal(run.folder)
        if isinstance(event, StepFinished) and event.step.startswith(run.prefix)
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
    return attempt.failing("; ".join(finished.reasons) or finished.verdict)

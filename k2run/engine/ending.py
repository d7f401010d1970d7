"""How a step ended, as the journal keeps it: what it earned, what it hands on, whether its objective was met."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.actions.action import Effect, Result
from k2run.engine.events import Bound, Objected, Outcome, StepFinished
from k2run.engine.outcomes import satisfied
from k2run.errors import ExpressionFailed
from k2run.language.expressions import Template

if TYPE_CHECKING:
    from k2run.engine.attempt import Attempt
    from k2run.engine.execution import Execution
    from k2run.language.model import Award, Points, Step

_BOUNDS = {True: Bound.MET, False: Bound.MISSED, None: Bound.NOT_MEASURED}
UNJUDGED = frozenset({Outcome.SKIPPED, Outcome.NOT_APPLICABLE, Outcome.NOT_CONFIRMED, Outcome.INTERRUPTED})


class Ending:
    """The end of one turn of a step.

    Args:
        execution: The run.
        step: The step.
        path: The turn's path.
        section: Path of its section.
        category: The section's score category.
        local: The step's own names.
    """

    def __init__(  # noqa: PLR0913 - where a turn stands
        self, execution: Execution, step: Step, path: str, *, section: str, category: str, local: dict[str, Any]
    ) -> None:
        self._run = execution
        self._step = step
        self._path = path
        self._section = section
        self._category = category
        self.local = local

    def record(self, attempt: Attempt, *, seconds: float = 0.0, attempts: int = 0) -> Outcome:
        """Keep it, and hand on what the step registers."""
        step, quiet = self._step, self._step.no_log
        attempt, figures = self._figures(attempt) if step.figures else (attempt, {})
        variables = self._hand_on(attempt) if step.register or step.action == "set" else {}
        earned, maximum = self._points(attempt, step.points) if step.points is not None else (None, None)
        troubled = not satisfied(attempt.outcome)
        self._objected(attempt)
        self._run.journal.record(
            StepFinished(
                step=self._path,
                section=self._section,
                name=title(self._run, step, self.local),
                action=step.action or "block",
                outcome=attempt.outcome,
                seconds=round(seconds, 6),
                severity=step.severity,
                attempts=attempts,
                headline="" if quiet else attempt.headline,
                expected=expected(step),
                message=attempt.message,
                hint=(step.on_failure or attempt.hint) if troubled else "",
                recovery=step.recovery if troubled else "",
                result=None if quiet else _plain(attempt.result),
                within=step.within,
                objective=self._objective(attempt, seconds, step.within) if step.within is not None else None,
                points=earned,
                maximum=maximum,
                category=(step.points.category or self._category) if step.points else "",
                figures=figures,
                variables={} if quiet else {name: _plain(value) for name, value in variables.items()},
                changed=self._changed(attempt),
                ignored=step.ignore_failure,
            )
        )
        return attempt.outcome

    def _names(self, attempt: Attempt) -> dict[str, Any]:
        return self._run.variables.names({**self.local, "result": attempt.result})

    def _figures(self, attempt: Attempt) -> tuple[Attempt, dict[str, Any]]:
        """Evaluate the step's named figures; one that cannot be read fails the step."""
        if not attempt.answered:
            return attempt, {}
        names = self._names(attempt)
        try:
            figures = {name: expression.evaluate(names) for name, expression in self._step.figures.items()}
        except ExpressionFailed as error:
            return attempt.failing(error.message, error.hint), {}
        self._run.figures.update(figures)
        return attempt, figures

    def _hand_on(self, attempt: Attempt) -> dict[str, Any]:
        """What the steps after this one may use."""
        variables: dict[str, Any] = {}
        if self._step.action == "set" and attempt.outcome is Outcome.PASSED:
            variables.update(attempt.result)
        if variables:
            self._run.variables.register(variables)
        if self._step.register:
            variables[self._step.register] = attempt.result
            if self._step.loop is None:
                self._run.variables.register({self._step.register: attempt.result})
            else:
                self._run.results[self._path] = attempt.result
        return variables

    def _points(self, attempt: Attempt, points: Points) -> tuple[float | None, float]:
        """Earned and maximum; earned is None when the step could not be judged."""
        if attempt.outcome in UNJUDGED:
            return None, points.maximum
        if not points.awards:
            return (points.maximum if attempt.outcome is Outcome.PASSED else 0.0), points.maximum
        return (_award(points.awards, self._names(attempt)) if attempt.answered else 0.0), points.maximum

    def _objective(self, attempt: Attempt, seconds: float, within: float) -> Bound:
        """Whether `within` was met; a step that did not pass has not met it."""
        if attempt.outcome in UNJUDGED:
            return Bound.NOT_MEASURED
        return Bound.MET if attempt.outcome is Outcome.PASSED and seconds <= within else Bound.MISSED

    def _objected(self, attempt: Attempt) -> None:
        """Record the objectives that the step's action was given, before the step is over: they are then never lost."""
        for each in attempt.result.judged() if isinstance(attempt.result, Result) else []:
            self._run.journal.record(
                Objected(
                    objective=f"{title(self._run, self._step, self.local)}: {each.objective}",
                    value="" if self._step.no_log else each.says,
                    bound=_BOUNDS[each.met],
                    step=self._path,
                )
            )

    def _changed(self, attempt: Attempt) -> bool:
        if "." not in self._step.action or attempt.outcome is not Outcome.PASSED:
            return False
        return self._run.caller.action(self._step.action).effect is not Effect.OBSERVES


def expected(step: Step) -> str:
    """The expectation as written."""
    if step.action == "assert":
        return " and ".join(condition.text for condition in step.args["that"])
    conditions = (step.until, *step.expect) if step.until else step.expect
    return " and ".join([condition.text for condition in conditions]) if conditions else ""


def title(run: Execution, step: Step, local: dict[str, Any]) -> str:
    """The step's name with its templates filled in, or as written when they cannot be."""
    if not isinstance(step.name, Template):
        return step.name
    try:
        return str(step.name.render(run.variables.names(local)))
    except ExpressionFailed:
        return step.name.text


def _award(awards: tuple[Award, ...], names: dict[str, Any]) -> float:
    """The first award whose condition holds; one that cannot be evaluated does not hold."""
    for award in awards:
        try:
            if award.when is None or award.when.evaluate(names):
                return award.points
        except ExpressionFailed:
            continue
    return 0.0


def _plain(value: Any) -> Any:
    return value.plain() if isinstance(value, Result) else value

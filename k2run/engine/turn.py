"""One turn of a step as the journal keeps it: how it began and ended, what it earned and handed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.actions.action import Result
from k2run.engine.events import Bound, Objected, Outcome, StepFinished, StepStarted
from k2run.engine.outcomes import satisfied
from k2run.errors import ExpressionFailed
from k2run.language.expressions import Template
from k2run.language.vocabulary import ONLY_LOOKS

if TYPE_CHECKING:
    from k2run.actions.action import Judged
    from k2run.engine.attempt import Attempt
    from k2run.engine.execution import Execution
    from k2run.language.model import Award, Points, Step

_BOUNDS = {True: Bound.MET, False: Bound.MISSED, None: Bound.NOT_MEASURED}
UNJUDGED = frozenset({Outcome.SKIPPED, Outcome.NOT_APPLICABLE, Outcome.NOT_CONFIRMED, Outcome.INTERRUPTED})


class Turn(Struct, frozen=True):
    """One turn of a step: its only one, or one of its loop.

    Attributes:
        run: The run.
        step: The step.
        path: The turn's path.
        name: The step's name, its templates filled in.
        section: Path of its section.
        category: The section's score category.
        local: The step's own names.
    """

    run: Execution
    step: Step
    path: str
    name: str
    section: str
    category: str
    local: dict[str, Any]

    def begun(self, args: dict[str, Any], limit: float | None = None) -> None:
        """Keep that it has begun.

        Args:
            args: What of its arguments may be shown.
            limit: Seconds that it may take.
        """
        step = self.step
        self.run.journal.record(
            StepStarted(
                step=self.path,
                section=self.section,
                name=self.name,
                action=step.action or "block",
                args=args,
                within=step.within,
                timeout=limit,
            )
        )

    def ended(self, attempt: Attempt, *, seconds: float = 0.0, attempts: int = 0) -> Outcome:
        """Keep how it ended, and hand on what the step registers."""
        step, quiet = self.step, self.step.no_log
        attempt, figures = self._figures(attempt) if step.figures else (attempt, {})
        variables = self._hand_on(attempt) if step.register or step.action == "set" else {}
        earned, maximum = self._points(attempt, step.points) if step.points is not None else (None, None)
        troubled = not satisfied(attempt.outcome)
        for each in attempt.judged:
            self._objected(each)
        self.run.journal.record(
            StepFinished(
                step=self.path,
                section=self.section,
                name=self.name,
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
                category=(step.points.category or self.category) if step.points else "",
                figures=figures,
                variables={k: _plain(v) for k, v in variables.items()} if variables and not quiet else {},
                changed=attempt.outcome is Outcome.PASSED and step.effect not in ONLY_LOOKS,
                ignored=step.ignore_failure,
            )
        )
        return attempt.outcome

    def names(self, attempt: Attempt) -> dict[str, Any]:
        """What an expression that judges it may use."""
        return self.run.variables.names({**self.local, "result": attempt.result})

    def _figures(self, attempt: Attempt) -> tuple[Attempt, dict[str, Any]]:
        """Evaluate the step's named figures; one that cannot be read fails the step."""
        if not attempt.answered:
            return attempt, {}
        names = self.names(attempt)
        try:
            figures = {name: expression.evaluate(names) for name, expression in self.step.figures.items()}
        except ExpressionFailed as error:
            return attempt.failing(error.message, error.hint), {}
        self.run.figures.update(figures)
        return attempt, figures

    def _hand_on(self, attempt: Attempt) -> dict[str, Any]:
        """What the steps after this one may use."""
        variables: dict[str, Any] = {}
        if self.step.action == "set" and attempt.outcome is Outcome.PASSED:
            variables.update(attempt.result)
        if variables:
            self.run.variables.register(variables)
        if self.step.register:
            variables[self.step.register] = attempt.result
            if self.step.loop is None:
                self.run.variables.register({self.step.register: attempt.result})
            else:
                self.run.results[self.path] = attempt.result
        return variables

    def _points(self, attempt: Attempt, points: Points) -> tuple[float | None, float]:
        """Earned and maximum; earned is None when the step could not be judged."""
        if attempt.outcome in UNJUDGED:
            return None, points.maximum
        if not points.awards:
            return (points.maximum if attempt.outcome is Outcome.PASSED else 0.0), points.maximum
        return (_award(points.awards, self.names(attempt)) if attempt.answered else 0.0), points.maximum

    def _objective(self, attempt: Attempt, seconds: float, within: float) -> Bound:
        """Whether `within` was met; a step that did not pass has not met it."""
        if attempt.outcome in UNJUDGED:
            return Bound.NOT_MEASURED
        return Bound.MET if attempt.outcome is Outcome.PASSED and seconds <= within else Bound.MISSED

    def _objected(self, judged: Judged) -> None:
        """Record an objective that the step's action was given, before the step is over: it is then never lost."""
        says = "" if self.step.no_log else judged.says
        objective = f"{self.name}: {judged.objective}"
        self.run.journal.record(Objected(objective=objective, value=says, bound=_BOUNDS[judged.met], step=self.path))


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

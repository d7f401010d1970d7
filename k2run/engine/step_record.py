"""What comes of a step: its record in the journal, and what it hands on to the steps after it."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict

from k2run.actions.action import Judged, Result
from k2run.engine.attempt import Attempt
from k2run.engine.dispatch import message_of
from k2run.engine.events import Bound, Objected, Outcome, StepFinished, StepStarted, satisfied
from k2run.engine.outline import is_proof, names_given
from k2run.errors import ExpressionFailed, Interrupted, JournalLost
from k2run.language.expressions import Expression, Template
from k2run.language.model import Severity
from k2run.language.vocabulary import ONLY_LOOKS, SET, NoValue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.engine.execution import Execution
    from k2run.engine.sequence import Leap
    from k2run.engine.variables import Variables
    from k2run.language.model import Award, Points, Step

_AS_FILE = re.compile(r"[^\w#]+", re.ASCII)
_UNTIMED = frozenset({Outcome.UNKNOWN, Outcome.NOT_CONFIRMED})
_BOUNDS = {True: Bound.MET, False: Bound.MISSED, None: Bound.NOT_MEASURED}
UNJUDGED = frozenset({Outcome.SKIPPED, Outcome.NOT_APPLICABLE, Outcome.NOT_CONFIRMED, Outcome.INTERRUPTED})


class Turn(Struct, frozen=True):
    """One turn of a step: its only one, or one of its loop.

    Attributes:
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

    def ended(self, attempt: Attempt, *, seconds: float = 0.0, attempts: int = 0, leap: Leap | None = None) -> Outcome:
        """Keep how it ended, and hand on what the step registers; with the leap that it hands on, if there is one."""
        step, quiet = self.step, self.step.no_log
        attempt, figures = self._figures(attempt) if step.figures else (attempt, {})
        variables = self._hand_on(attempt) if step.register or step.action == SET.name else {}
        earned, maximum = self._points(attempt, step.points) if step.points is not None else (None, None)
        troubled = not satisfied(attempt.outcome)
        for each in attempt.judged:
            self._objected(each)
        finished = StepFinished(
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
            result=None if quiet else self._kept(attempt.result),
            within=step.within,
            objective=self._objective(attempt, seconds, step.within) if step.within is not None else None,
            points=earned,
            maximum=maximum,
            category=(step.points.category or self.category) if step.points else "",
            figures=figures,
            variables={k: _with_outcome(v) for k, v in variables.items()} if variables and not quiet else {},
            changed=attempt.outcome is Outcome.PASSED and step.effect not in ONLY_LOOKS,
            ignored=step.ignore_failure,
            leap=leap.written() if leap is not None else {},
        )
        self.run.journal.record(finished)
        if did_change(finished) and not is_proof(step, self.section, self.run):
            self.run.changes.add(self.path)
        if troubled:
            self.run.failures[without_turn(self.path)] = failure_of(finished)
        elif attempt.outcome is Outcome.NOT_APPLICABLE:
            self.run.absences[without_turn(self.path)] = attempt.message
        self._time_of_those_around(attempt.outcome)
        return attempt.outcome

    def _time_of_those_around(self, outcome: Outcome) -> None:
        """Keep whether the time of a section with this step says anything."""
        step, untimed = self.step, self.run.untimed
        untimed.pop(self.path, None)
        if outcome in _UNTIMED and not step.ignore_failure:
            untimed[self.path] = step.severity is Severity.CRITICAL and outcome is Outcome.UNKNOWN
        elif step.block and outcome is Outcome.PASSED:  # what would have failed it was rescued
            for path in self._untimed_inside(critical=True):
                untimed.pop(path, None)

    def _untimed_inside(self, *, critical: bool = False) -> list[str]:
        """Those of its own steps whose time says nothing."""
        below = f"{self.path}."
        known = [*self.run.untimed.items()]  # steps that run at once add to them
        return [path for path, fails in known if path.startswith(below) and (fails or not critical)]

    @contextmanager
    def in_any_case(self, began: float) -> Iterator[None]:
        """What began has an end in the record, whatever leaves it."""
        try:
            yield
        except BaseException as error:
            outcome = Outcome.INTERRUPTED if isinstance(error, Interrupted) else Outcome.FAILED
            with suppress(JournalLost):
                self.ended(Attempt(outcome=outcome, message=message_of(error)[0]), seconds=time.monotonic() - began)
            raise

    def _kept(self, result: Any) -> Any:
        """What the journal keeps of a result; what is too long for it goes into files beside it."""
        built = _plain(result)
        for name, text in result.beside().items() if isinstance(result, Result) else ():
            file = f"outputs/{_AS_FILE.sub('-', self.path).strip('-')}.{name}.txt"
            if self.run.journal.wall.beside("a file with an output", lambda: self._write(file, text), ""):  # noqa: B023 - called at once
                built[f"{name}_file"] = file
        return built

    def _write(self, file: str, text: str) -> str:
        place = self.run.folder / file
        place.parent.mkdir(mode=0o700, exist_ok=True)
        place.write_text(self.run.stack.redact(text), encoding="utf-8", errors="replace")
        return file

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
            return attempt.unresolved(error), {}
        self.run.figures.update(figures)
        return attempt, figures

    def _hand_on(self, attempt: Attempt) -> dict[str, Any]:
        """What the steps after this one may use."""
        step, variables = self.step, {}
        if step.action == SET.name and attempt.outcome is Outcome.PASSED:
            variables.update(attempt.result)
            self.run.variables.register(variables)
        elif step.action == SET.name and attempt.outcome in UNJUDGED:
            self.run.variables.leave_out(step.args, _no_value(self.name, attempt.outcome, attempt.message))
        if not step.register or attempt.outcome is Outcome.INTERRUPTED:
            return variables
        if without_turn(self.path) != self.path:
            variables[step.register] = self.run.results[self.path] = _registered(attempt)
        elif attempt.outcome in UNJUDGED and attempt.result is None:
            self.run.variables.leave_out([step.register], _no_value(self.name, attempt.outcome, attempt.message))
        else:
            variables[step.register] = _registered(attempt)
            self.run.variables.register({step.register: variables[step.register]})
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
        unseen = attempt.outcome is Outcome.PASSED and self._untimed_inside()
        if attempt.outcome in UNJUDGED or unseen:
            return Bound.NOT_MEASURED
        return Bound.MET if attempt.outcome is Outcome.PASSED and seconds <= within else Bound.MISSED

    def _objected(self, judged: Judged) -> None:
        """Record an objective that the step's action was given, before the step ends: it is then never lost."""
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
    """The step's name with its templates filled in; `…` stands for what cannot be known, as in a loop with no turn."""
    if not isinstance(step.name, Template):
        return step.name
    names = run.variables.names(local)
    return "".join(part if isinstance(part, str) else _known(part, names) for part in step.name.parts)


def _known(part: Expression, names: dict[str, Any]) -> str:
    from k2run.language.filters import as_text

    try:
        return as_text(part.evaluate(names))
    except ExpressionFailed:
        return "…"


def _award(awards: tuple[Award, ...], names: dict[str, Any]) -> float:
    """The first award whose condition holds; one that cannot be evaluated does not hold."""
    for award in awards:
        try:
            if award.when is None or award.when.evaluate(names):
                return award.points
        except ExpressionFailed:
            continue
    return 0.0


def without_turn(path: str) -> str:
    """The path of a step without the number of its own turn."""
    return path[: path.rindex("#")] if "#" in path.rpartition(".")[2] else path


def did_change(step: StepFinished) -> bool:
    """Whether a step may have changed the stack; some results say that there was nothing to change."""
    said = step.result.get("changed") if isinstance(step.result, dict) else getattr(step.result, "changed", None)
    return step.changed and said is not False


def failure_of(step: StepFinished) -> dict[str, Any]:
    """What a rescue may know of the step that failed, as `failed`."""
    return {
        "name": step.name,
        "step": step.step,
        "outcome": step.outcome.value,
        "message": step.message,
        "result": step.result,
    }


def left_unknown(variables: Variables, step: Step, finished: StepFinished) -> None:
    """The names that a finished step, and those inside of it, would have given have no value where it did nothing."""
    if finished.outcome in UNJUDGED:
        names = [name for name in names_given(step) if name not in finished.variables]
        variables.leave_out(names, _no_value(finished.name, finished.outcome, finished.message))


def _no_value(name: str, outcome: Outcome, message: str) -> NoValue:
    applies = outcome is not Outcome.NOT_APPLICABLE
    was = outcome.value.replace("_", " ")
    did = "was left out" if outcome is Outcome.SKIPPED else f"was {was}" if applies else "does not apply"
    return NoValue(f"it is registered by {name!r}, which {did}: {message}", applies)


def _registered(attempt: Attempt) -> Any:
    """The value of `register`: the result; of a step that did not pass as much of it as there is, with its outcome."""
    result = attempt.result
    if attempt.outcome is Outcome.PASSED or (satisfied(attempt.outcome) and result is not None):
        return result
    if satisfied(attempt.outcome):
        return None
    fields = asdict(result) if isinstance(result, Result) else result if isinstance(result, dict) else {}
    return {"outcome": attempt.outcome.value, "message": attempt.message, **fields}


def _with_outcome(value: Any) -> Any:
    """A registered result for the journal: its outcome is known after a resume, too."""
    return {"outcome": value.outcome, "message": value.message, **value.plain()} if isinstance(value, Result) else value


def _plain(value: Any) -> Any:
    return value.plain() if isinstance(value, Result) else value

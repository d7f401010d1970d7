"""Symptoms: the probes by which a recovery runbook recognises its own failure, looked at all at once, each once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from k2run.actions.deadline import Deadline
from k2run.engine.attempt import WORDS, Attempt, judge, observed
from k2run.engine.dispatch import Caller, message_of
from k2run.engine.events import Outcome
from k2run.engine.prompts import Nobody
from k2run.engine.step_record import expected
from k2run.engine.variables import Variables, loop_items, resolve_inputs
from k2run.errors import Inapplicable, Interrupted, K2runError, NotApplicable, Refused, TimedOut, Unreachable
from k2run.language.expressions import Template, render
from k2run.language.loader import load_runbook
from k2run.language.quantities import encode_quantity
from k2run.language.vocabulary import ONLY_LOOKS

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from k2run.actions.catalogue import Catalogue
    from k2run.language.model import Runbook, Step
    from k2run.stack.stack import Stack

LOOK_S = 4.0
"""Seconds that one probe may take when its symptom sets no `timeout`."""
TOO_SLOW = "no answer within"
"""What a probe says that had no answer in its time."""
AT_ONCE = 24
"""Probes wait for answers most of their time."""


class Presence(StrEnum):
    """What a look at a symptom found."""

    PRESENT = "present"
    ABSENT = "absent"
    UNSEEN = "unseen"  # it could not be checked: neither for nor against the failure
    NOT_APPLICABLE = "not_applicable"  # this stack has no such thing


class Sighting(Struct, frozen=True, kw_only=True):
    """One symptom of one runbook, looked at.

    Attributes:
        evidence: What was measured, or why nothing could be.
        expected: What would make the symptom present, as written.
        decisive: Its absence rules the failure out.
        weight: How specific it is, 0 to 1: one over the number of runbooks that have the same symptom.
        step: Its path in the runbook; the turns of a loop share one.
        failed: The look itself failed: the system refused, or gave no answer. Of a data path that is an answer.
        precondition: It must be so for the symptoms to tell anything, and is no evidence itself.
        service: The service that was asked; empty where no one service was.
        slow: That service took longer than it was waited for; nothing more is known of it.
    """

    runbook: str
    symptom: str
    presence: Presence
    evidence: str
    expected: str
    decisive: bool
    weight: float
    step: str = ""
    failed: bool = False
    precondition: bool = False
    service: str = ""
    slow: bool = False

    @property
    def broken(self) -> bool:
        """Of a step of a data path: whether it was seen not to work."""
        return self.presence is Presence.ABSENT or self.failed


class _Question(Struct, frozen=True, kw_only=True):
    """A symptom that is ready to be asked: its arguments are filled in."""

    runbook: str
    step: Step
    name: str
    names: dict[str, Any]
    args: Any
    probe: str
    precondition: bool
    attempt: Attempt | None = None  # there is an answer already: it cannot, or need not, be asked

    @property
    def same_as(self) -> tuple[str, str]:
        """Two symptoms with the same probe and the same expectation are the same."""
        return self.probe, expected(self.step)


def look(runbooks: Sequence[Runbook], stack: Stack, catalogue: Catalogue, stop: threading.Event) -> list[Sighting]:
    """Look at the preconditions and symptoms of several runbooks, side by side; identical probes are made once.

    Nothing is changed: a symptom whose action does more than observe is not done, and counts as unseen.

    Raises:
        Interrupted: It was asked to end.
    """
    caller = Caller(catalogue, stack, lambda _step: Nobody())
    questions = [question for runbook in runbooks for question in _questions(runbook, stack)]
    answers = _ask(questions, caller, stop)
    shared: dict[tuple[str, str], set[str]] = {}
    for question in questions:
        if not question.precondition:
            shared.setdefault(question.same_as, set()).add(question.runbook)
    weights = [0.0 if each.precondition else 1 / len(shared[each.same_as]) for each in questions]
    seen = [
        _sighting(question, question.attempt or answers[question.probe], weight)
        for question, weight in zip(questions, weights, strict=True)
    ]
    return [replace(one, symptom=stack.redact(one.symptom), evidence=stack.redact(one.evidence)) for one in seen]


def look_along(stack: Stack, catalogue: Catalogue, stop: threading.Event) -> list[Sighting]:
    """Look at the data path that a stack declares, step by step: what is present works; none where it declares none.

    Raises:
        RunbookInvalid: The runbook of the data path has problems.
        Interrupted: It was asked to end.
    """
    if stack.data_path is None:
        return []
    runbook = load_runbook(stack.data_path, catalogue)
    steps = tuple(step for section in runbook.sections for step in section.steps)
    return look([replace(runbook, preconditions=(), symptoms=steps)], stack, catalogue, stop)


def believed(sightings: Sequence[Sighting], path: Sequence[Sighting]) -> list[Sighting]:
    """The same sightings; a service that was only slow, and had answered on the data path meanwhile, is not silent."""
    answered = {one.service for one in path if one.presence is Presence.PRESENT}
    return [
        replace(one, presence=Presence.UNSEEN, evidence=f"{one.evidence}, and an answer on the data path meanwhile")
        if one.slow and one.service in answered and one.presence is Presence.PRESENT
        else one
        for one in sightings
    ]


# --- what is to be asked ----------------------------------------------------------------------------------------------


def _questions(runbook: Runbook, stack: Stack) -> Iterator[_Question]:
    variables = Variables(
        {"stack": stack.facts(), "roles": stack.roles, "run": {}, "figures": {}}, resolve_inputs(runbook, {}), {}
    )
    variables.enter(runbook.vars)
    for step in (*runbook.preconditions, *runbook.symptoms):
        turns: list[dict[str, Any]] = [{}]
        if step.loop is not None:
            turns = [{step.loop_var: item} for item in loop_items(step.loop, variables.names())]
        for turn in turns:
            question = _question(runbook, step, variables, turn, stack)
            if question is not None:
                yield question


def _question(
    runbook: Runbook, step: Step, variables: Variables, turn: dict[str, Any], stack: Stack
) -> _Question | None:
    """One symptom, ready to be asked; what stands against asking is its answer already. None where it is not needed."""
    names: dict[str, Any] = {}
    args: Any = {}
    attempt: Attempt | None = None
    try:
        names = variables.names(variables.local(step.vars, **turn))
        if step.when is not None and not step.when.evaluate(names):
            return None
        _require((*runbook.requires, *step.requires), step, stack)
        args = step.args if step.action in WORDS else render(step.args, names)
    except K2runError as error:
        attempt = _refused(error)
    name = step.name.render(names) if isinstance(step.name, Template) and attempt is None else step.name
    return _Question(
        runbook=runbook.name,
        step=step,
        name=str(name),
        names=names,
        args=args,
        probe=_key(step, args),
        precondition=step.path.startswith("preconditions["),
        attempt=attempt,
    )


def _require(services: Sequence[str], step: Step, stack: Stack) -> None:
    """Refuse what does not apply here, and what would do more than look."""
    for service in services:
        reason = stack.absent(service)
        if reason:
            raise NotApplicable(reason)
    if step.block or step.effect not in ONLY_LOOKS:
        raise K2runError(
            f"a symptom only looks; {step.action or 'a block'} may do more", hint="use an observing action"
        )


def _key(step: Step, args: Any) -> str:
    if step.action in WORDS:
        return f"{step.action} {expected(step)}"
    return f"{step.action} {msgspec.json.encode(args, enc_hook=encode_quantity, order='deterministic').decode()}"


# --- asking -----------------------------------------------------------------------------------------------------------


def _ask(questions: Sequence[_Question], caller: Caller, stop: threading.Event) -> dict[str, Attempt]:
    """The answer to each distinct probe."""
    first: dict[str, _Question] = {}
    for question in questions:
        if question.attempt is None:
            first.setdefault(question.probe, question)

    def answer(question: _Question) -> Attempt:
        deadline = Deadline(question.step.timeout or LOOK_S, stop)
        step = question.step
        try:
            if step.action in WORDS:
                return WORDS[step.action](step.args, question.names, deadline)
            return observed(caller.call(step.action, question.args, deadline, step=step.path))
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary of a step: an action's own defect hides one symptom
            return _refused(error)

    with ThreadPoolExecutor(AT_ONCE, "symptom") as threads:
        return dict(zip(first, threads.map(answer, first.values()), strict=True))


_FAILURES = (Refused, Unreachable, TimedOut)


def _refused(error: BaseException) -> Attempt:
    message = message_of(error)[0]
    outcome = Outcome.NOT_APPLICABLE if isinstance(error, NotApplicable | Inapplicable) else Outcome.UNKNOWN
    return Attempt(outcome=outcome, message=message, result=error if isinstance(error, _FAILURES) else None)


def _sighting(question: _Question, attempt: Attempt, weight: float) -> Sighting:
    """Hold an answer against what the symptom says."""
    step = question.step
    if attempt.outcome is Outcome.PASSED:
        conditions = (*((step.until,) if step.until else ()), *step.expect)
        attempt = judge(attempt, conditions, {**question.names, "result": attempt.result})
    presence = {
        Outcome.PASSED: Presence.PRESENT,
        Outcome.FAILED: Presence.ABSENT,
        Outcome.NOT_APPLICABLE: Presence.NOT_APPLICABLE,
    }.get(attempt.outcome, Presence.UNSEEN)
    return Sighting(
        runbook=question.runbook,
        symptom=question.name,
        presence=presence,
        evidence=attempt.headline or attempt.message,
        expected=expected(step),
        decisive=step.severity.value == "critical",
        weight=round(weight, 4),
        step=step.path,
        failed=isinstance(attempt.result, _FAILURES),
        precondition=question.precondition,
        service=str(question.args.get("service", "")) if isinstance(question.args, dict) else "",
        slow=TOO_SLOW in str(getattr(attempt.result, "detail", "")),
    )

"""The events of a run, as they stand in its journal: one JSON line each, in order. Views are made from these alone.

Long because it is one vocabulary: every reader of a journal finds all that can stand in one on this page.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable


class Outcome(StrEnum):
    """How a step, a section or a run ended."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"  # could not be seen: counts as not passed, but says so
    SKIPPED = "skipped"  # `when` was false, a tag left it out, or it was not reached
    NOT_APPLICABLE = "not_applicable"  # this stack has no such thing
    NOT_CONFIRMED = "not_confirmed"  # a person should have answered, and none was there
    INTERRUPTED = "interrupted"


class Bound(StrEnum):
    """Whether an objective was met; recorded apart from the outcome."""

    MET = "met"
    MISSED = "missed"
    NOT_MEASURED = "not_measured"


_WORST_FIRST = (
    Outcome.INTERRUPTED,
    Outcome.FAILED,
    Outcome.UNKNOWN,
    Outcome.PASSED,
    Outcome.NOT_CONFIRMED,
    Outcome.NOT_APPLICABLE,
    Outcome.SKIPPED,
)
_WRONG = frozenset({Outcome.FAILED, Outcome.UNKNOWN, Outcome.INTERRUPTED})


def satisfied(outcome: Outcome) -> bool:
    """Whether nothing went wrong: passed, or there was nothing to do."""
    return outcome not in _WRONG


def went_wrong(name: object, outcome: Outcome) -> str:
    """What is said of a step that went wrong: `"Level is NORMAL" failed`, or that it `could not be checked`."""
    return f'"{name}" {"could not be checked" if outcome is Outcome.UNKNOWN else "failed"}'


def of_all(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several together: the worst; nothing at all is skipped."""
    found = set(outcomes)
    return next((outcome for outcome in _WORST_FIRST if outcome in found), Outcome.SKIPPED)


NOT_PLAYED = "no person has played all of it"
"""The value of the length of a rehearsal with steps that no operator has confirmed."""
NOT_ALL_SEEN = "not all of it could be checked"
"""The value of the length of a run with steps that are unknown."""
NO_LENGTH = (NOT_PLAYED, NOT_ALL_SEEN)
"""Why the length of a run says nothing of it; neither speaks against the run."""


def bound_of(within: float | None, seconds: float, *, measured: bool) -> Bound | None:
    """Whether a time was met; None when none was promised."""
    if within is None:
        return None
    if not measured:
        return Bound.NOT_MEASURED
    return Bound.MET if seconds <= within else Bound.MISSED


class Event(Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """Base of all events.

    Attributes:
        seq: Its number in the journal, from 1.
        at: UTC time, ISO 8601.
        t: Seconds since the run started, monotonic.
        said: The fields that may hold text from outside, in which secrets are masked; all others are structure. With
            each stands how many levels of its keys are names that k2run or the runbook gave.
        compared: Fields whose text is compared with others: a secret that is an ordinary word stays there.
        kept: Fields that k2run works with again: what is a secret there is kept by reference to its source.
        secrets: These references, by what stands for the secret: where it is read, and how it is written.
    """

    said: ClassVar[dict[str, int]] = {}
    compared: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[dict[str, int]] = {}

    seq: int = 0
    at: str = ""
    t: float = 0.0
    secrets: dict[str, tuple[str, str]] = {}


class OutlineStep(Struct, frozen=True, kw_only=True):
    """A step as the outline of a run shows it before it has run."""

    path: str
    name: str
    action: str
    severity: str = "critical"
    points: float = 0.0
    category: str = ""


class OutlineSection(Struct, frozen=True, kw_only=True):
    """A section as the outline of a run shows it; `steady_state`, `always` and such are sections of their own here."""

    path: str
    name: str
    within: float | None = None
    steps: list[OutlineStep] = []


class OutlineCategory(Struct, frozen=True, kw_only=True):
    """A category of the score."""

    name: str
    title: str
    points: float


class OutlineBand(Struct, frozen=True, kw_only=True):
    """A band of the score."""

    at_least: float
    name: str
    light: str


class RunStarted(Event, frozen=True, kw_only=True, tag="run_started"):
    """The run exists; nothing has been done yet."""

    said: ClassVar[dict[str, int]] = {"title": 0, "owner": 0}
    kept: ClassVar[dict[str, int]] = {"inputs": 1, "options": 2}

    run: str
    runbook: str
    name: str
    title: str
    kind: str
    digest: str
    stack: str
    stack_file: str = ""
    owner: str = ""
    inputs: dict[str, Any] = {}
    options: dict[str, Any] = {}
    attended: bool = False
    inbox: bool = False  # questions are answered by another process, through the run's folder
    by: str = ""  # who asked for it, where that is known
    pid: int = 0
    versions: dict[str, str] = {}
    environment: dict[str, str] = {}
    outline: list[OutlineSection] = []
    categories: list[OutlineCategory] = []
    bands: list[OutlineBand] = []
    go: float | None = None
    within: float | None = None
    rto: float | None = None
    rpo: float | None = None


class RunResumed(Event, frozen=True, kw_only=True, tag="run_resumed"):
    """The run goes on after an interruption; what was finished is not repeated."""

    pid: int = 0
    inbox: bool = False
    by: str = ""
    finished_steps: int = 0


class StackChanged(Event, frozen=True, kw_only=True, tag="stack_changed"):
    """k2run started or stopped services of the stack for this run."""

    verb: str  # started, stopped, kept
    services: list[str]
    seconds: float = 0.0


class SectionStarted(Event, frozen=True, kw_only=True, tag="section_started"):
    """A section begins."""

    said: ClassVar[dict[str, int]] = {"name": 0}

    section: str
    name: str
    within: float | None = None


class SectionFinished(Event, frozen=True, kw_only=True, tag="section_finished"):
    """A section has ended.

    Attributes:
        message: Why it failed, where that is not because of one of its steps.
    """

    said: ClassVar[dict[str, int]] = {"name": 0, "message": 0}

    section: str
    name: str
    outcome: Outcome
    seconds: float
    within: float | None = None
    objective: Bound | None = None
    message: str = ""


class StepStarted(Event, frozen=True, kw_only=True, tag="step_started"):
    """A step begins. `step` is its path, with `#n` for the n-th turn of a loop."""

    said: ClassVar[dict[str, int]] = {"name": 0, "args": 1}

    step: str
    section: str
    name: str
    action: str
    args: dict[str, Any] = {}
    within: float | None = None
    timeout: float | None = None


class StepTried(Event, frozen=True, kw_only=True, tag="step_tried"):
    """One attempt of a step that repeats `until` something is true, and it was not."""

    said: ClassVar[dict[str, int]] = {"headline": 0, "message": 0, "result": 1}

    step: str
    attempt: int
    headline: str = ""
    message: str = ""
    result: Any = None


class StepFinished(Event, frozen=True, kw_only=True, tag="step_finished"):
    """A step has ended: the outcome, what was measured, and what was expected of it.

    Attributes:
        headline: The measured value in a few words.
        expected: The expectation as written, such as `result.rows > 1000`.
        message: Why it did not pass (or was skipped).
        objective: Whether `within` was met.
        points: What it earned; None when it has none or is not judged.
        maximum: The most it could earn.
        changed: The action may have changed the stack.
        variables: What the step set for the steps after it (`register`, `set`).
        leap: The `stop` or `skip_section`, it or one inside of it, that left out the steps after it.
    """

    said: ClassVar[dict[str, int]] = {
        **dict.fromkeys(("name", "headline", "expected", "message", "hint"), 0),
        "result": 1,
        "figures": 1,
    }
    kept: ClassVar[dict[str, int]] = {"variables": 2, "leap": 1}

    step: str
    section: str
    name: str
    action: str
    outcome: Outcome
    seconds: float
    severity: str = "critical"
    attempts: int = 1
    headline: str = ""
    expected: str = ""
    message: str = ""
    hint: str = ""
    recovery: str = ""
    result: Any = None
    within: float | None = None
    objective: Bound | None = None
    points: float | None = None
    maximum: float | None = None
    category: str = ""
    figures: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    changed: bool = False
    ignored: bool = False
    leap: dict[str, Any] = {}


class ValueKept(Event, frozen=True, kw_only=True, tag="value_kept"):
    """What a resumed run must find as the first start computed it: the items of a loop, or what `now()` gave.

    Attributes:
        of: Path of the step with the loop, or of the variable.
    """

    kept: ClassVar[dict[str, int]] = {"value": 1}

    of: str
    value: Any


class UndoPlanned(Event, frozen=True, kw_only=True, tag="undo_planned"):
    """On disk before the fault is injected: how to undo what it breaks."""

    said: ClassVar[dict[str, int]] = {"says": 0}
    kept: ClassVar[dict[str, int]] = {"args": 1}

    undo: str
    step: str
    action: str
    args: dict[str, Any]
    says: str


class FaultStruck(Event, frozen=True, kw_only=True, tag="fault_struck"):
    """The fault has happened.

    Attributes:
        began: When it was injected, in seconds since the run started; the recovery clock runs from here.
    """

    said: ClassVar[dict[str, int]] = {"name": 0}

    step: str
    action: str
    name: str
    began: float = 0.0


class UndoStarted(Event, frozen=True, kw_only=True, tag="undo_started"):
    """An undo begins."""

    said: ClassVar[dict[str, int]] = {"says": 0}

    undo: str
    says: str


class UndoFinished(Event, frozen=True, kw_only=True, tag="undo_finished"):
    """An undo has ended; failed ones stay pending."""

    said: ClassVar[dict[str, int]] = {"says": 0, "message": 0}

    undo: str
    says: str
    outcome: Outcome
    message: str = ""
    by: str = "engine"  # engine; a step's path when the runbook did it itself; `k2run undo`
    seconds: float = 0.0


class ClockStopped(Event, frozen=True, kw_only=True, tag="clock_stopped"):
    """A clock was read: time from its start, with the error that the sampling allows."""

    said: ClassVar[dict[str, int]] = {"message": 0}

    clock: str
    seconds: float
    step: str = ""  # the step whose runbook it belongs to, when it is not the run's own
    error: float = 0.0
    within: float | None = None
    objective: Bound | None = None
    message: str = ""


class Asked(Event, frozen=True, kw_only=True, tag="asked"):
    """A person is asked something."""

    said: ClassVar[dict[str, int]] = {"question": 0}
    compared: ClassVar[tuple[str, ...]] = ("choices", "default")

    step: str
    question: str
    choices: list[str] = []
    default: str = ""
    seconds: float | None = None


class Answered(Event, frozen=True, kw_only=True, tag="answered"):
    """The answer, and who gave it; `by` is empty without an operator."""

    compared: ClassVar[tuple[str, ...]] = ("answer",)

    step: str
    answer: str
    by: str = ""


class Noted(Event, frozen=True, kw_only=True, tag="noted"):
    """A remark of the engine that belongs to the record."""

    said: ClassVar[dict[str, int]] = {"message": 0, "hint": 0}

    message: str
    level: str = "info"  # info, warning, error
    hint: str = ""


class Objected(Event, frozen=True, kw_only=True, tag="objective_judged"):
    """An objective on a figure, judged.

    Attributes:
        step: The step that it was given to; empty when it is one of the whole run.
    """

    said: ClassVar[dict[str, int]] = {"objective": 0, "value": 0}

    objective: str
    value: str
    bound: Bound
    step: str = ""


class ScoreLine(Struct, frozen=True, kw_only=True):
    """One category of a computed score.

    Attributes:
        earned: Points brought in by what was judged.
        judged: The most that the judged steps could bring in, scaled to the category.
        points: The category's weight.
    """

    category: str
    title: str
    earned: float
    judged: float
    points: float


class Scored(Event, frozen=True, kw_only=True, tag="scored"):
    """The score, computed from the step events before it.

    Attributes:
        score: 0 to 100, over what was judged.
        coverage: The share of all points that could be judged, 0 to 1.
        unattended: The share of the points that need no person that could be judged; None where all need one.
        why: Why it is that band.
        missing: What would have to change for a go, most points first.
    """

    said: ClassVar[dict[str, int]] = {"missing": 0, "for_a_person": 0, "not_applicable": 0}

    score: float
    coverage: float
    lines: list[ScoreLine]
    unattended: float | None = None
    band: str = ""
    light: str = ""
    why: str = ""
    go: bool | None = None
    missing: list[str] = []
    for_a_person: list[str] = []
    not_applicable: list[str] = []


class RunFinished(Event, frozen=True, kw_only=True, tag="run_finished"):
    """The run has ended.

    Attributes:
        verdict: One sentence: "go, subject to 4 items for a person".
        partial: Only a part of the runbook was asked for, so its success says nothing of the whole.
        unchanged: A recovery after which the steady state holds, and none of whose steps changed anything.
    """

    said: ClassVar[dict[str, int]] = {"verdict": 0, "reasons": 0, "pending_undos": 0}

    outcome: Outcome
    verdict: str
    exit_code: int
    seconds: float
    reasons: list[str] = []
    pending_undos: list[str] = []
    partial: bool = False
    unchanged: bool = False


AnyEvent = (
    RunStarted
    | RunResumed
    | StackChanged
    | SectionStarted
    | SectionFinished
    | StepStarted
    | StepTried
    | StepFinished
    | ValueKept
    | UndoPlanned
    | FaultStruck
    | UndoStarted
    | UndoFinished
    | ClockStopped
    | Asked
    | Answered
    | Noted
    | Objected
    | Scored
    | RunFinished
)

_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
decode_event = _decoder.decode
"""The event of one line of a journal; what is none is a `msgspec.DecodeError`."""

"""What a checked runbook is: frozen values, no behaviour. The loader makes them; the engine reads them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct, field

from k2run.language.expressions import Expression, Template  # noqa: TC001 - msgspec resolves the types of fields at run time
from k2run.language.problems import Place  # noqa: TC001 - msgspec resolves the types of fields at run time
from k2run.language.quantities import Duration
from k2run.language.vocabulary import Effect  # noqa: TC001 - msgspec resolves the types of fields at run time


class Kind(StrEnum):
    """What a runbook is for."""

    READINESS = "readiness"
    BENCHMARK = "benchmark"
    SCENARIO = "scenario"
    RECOVERY = "recovery"
    REHEARSAL = "rehearsal"


class Severity(StrEnum):
    """How much a failed step weighs: only a critical one fails the run."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class AfterFailure(StrEnum):
    """What a failed critical step does to the steps after it."""

    CONTINUE = "continue"
    END_SECTION = "end_section"
    END_RUN = "end_run"


class Input(Struct, frozen=True, kw_only=True):
    """A value that the person who starts the run may set."""

    name: str
    type: Literal["string", "integer", "number", "boolean", "duration", "size", "enum", "secret"]
    default: Any = None
    required: bool = False
    help: str = ""
    choices: tuple[str, ...] = ()


class Award(Struct, frozen=True, kw_only=True):
    """`award: 15 when EXPR`: points for a graded step; the first whose condition holds counts."""

    points: float
    when: Expression | None = None


class Points(Struct, frozen=True, kw_only=True):
    """What a step is worth in the score.

    Attributes:
        maximum: The most that the step can earn.
        awards: The graded list; empty for a plain number (all or nothing).
        category: The score category it counts under.
    """

    maximum: float
    awards: tuple[Award, ...] = ()
    category: str = ""


class Backoff(Struct, frozen=True, kw_only=True):
    """`every: {from: 1s, to: 30s, factor: 2, jitter: 20%}`: pauses that grow.

    Attributes:
        first: The first pause.
        most: The longest one.
        factor: How many times as long as the one before each is.
        jitter: The share by which each is longer or shorter by chance, 0 to 1.
    """

    first: Duration
    most: Duration
    factor: float = 2.0
    jitter: float = 0.0


class Step(Struct, frozen=True, kw_only=True):
    """One thing to do: one action with its arguments, or a block of steps.

    Attributes:
        path: Its address in the document, such as `sections[1].steps[0]`; unique, and stable across a resume.
        action: The name of the action, or "" for a block.
        args: The arguments as written; a string with `{{ }}` is a Template.
        fixed: There is no Template in the arguments.
        effect: What the action does to the stack; None for a block and for the words of the language.
        expect: All must be true of `result`.
        until: Repeat until this is true of `result`, at most `retries` times or for `within` (or `timeout`).
        every: Pause between two attempts.
        timeout: The hard limit of one call, and of the whole step when it repeats.
        within: The objective: met or missed, apart from passed or failed.
        figures: Named numbers to record from the result, such as `rpo: result.lost`.
        on_failure: A hint for the person who reads the failure.
        recovery: A recovery runbook to offer when the step fails.
        approve: Whether a person approves it first; None leaves that to the action: destructive ones are approved.
        delegate: Another stack on which it is done; "" for the run's own.
    """

    path: str
    name: str | Template
    place: Place
    action: str
    args: dict[str, Any]
    fixed: bool = False
    effect: Effect | None = None
    when: Expression | None = None
    loop: tuple[Any, ...] | Template | Expression | None = None
    loop_var: str = "item"
    register: str | None = None
    expect: tuple[Expression, ...] = ()
    until: Expression | None = None
    every: Duration | Backoff | None = None
    retries: int | None = None
    timeout: Duration | None = None
    within: Duration | None = None
    severity: Severity = Severity.CRITICAL
    points: Points | None = None
    tags: frozenset[str] = frozenset()
    vars: dict[str, Any] = {}
    ignore_failure: bool = False
    failed_when: Expression | None = None
    figures: dict[str, Expression] = {}
    on_failure: str = ""
    recovery: str = ""
    no_log: bool = False
    approve: bool | None = None
    delegate: str = ""
    requires: tuple[str, ...] = ()
    id: str = ""
    parallel: int = 0
    block: tuple[Step, ...] = ()
    rescue: tuple[Step, ...] = ()
    always: tuple[Step, ...] = ()


class Section(Struct, frozen=True, kw_only=True):
    """An ordered group of steps with its own time budget.

    Attributes:
        within: The budget of the section: an objective, not a limit.
        timeout: The hard limit of all its steps together.
        parallel: How many steps run at once; 0 or 1 is one after the other.
        clock: `rto` makes this the section that recovery is timed by; `detect` stops the time to detection at its end.
        category: The score category of its steps, unless a step names its own.
    """

    path: str
    name: str
    place: Place
    steps: tuple[Step, ...]
    when: Expression | None = None
    within: Duration | None = None
    timeout: Duration | None = None
    parallel: int = 0
    clock: str = ""
    category: str = ""
    after_failure: AfterFailure = AfterFailure.CONTINUE
    tags: frozenset[str] = frozenset()
    vars: dict[str, Any] = {}
    requires: tuple[str, ...] = ()


class Objective(Struct, frozen=True, kw_only=True):
    """What the whole run promises: bounds on time and on recorded figures.

    Attributes:
        within: The whole run, waits included.
        rto: Recovery time objective: from the first fault until steady state holds again.
        rpo: Recovery point objective: the most that the figure `rpo` (lost messages) may be.
        figures: Further bounds, as expressions over the recorded figures, such as `p99_ms < 500`.
    """

    within: Duration | None = None
    rto: Duration | None = None
    rpo: float | None = None
    figures: tuple[Expression, ...] = ()


class Category(Struct, frozen=True, kw_only=True):
    """One line of the score: its points are the most that its steps can bring in together."""

    name: str
    title: str
    points: float


class Band(Struct, frozen=True, kw_only=True):
    """A name (and light) for scores from `at_least` upwards."""

    at_least: float
    name: str
    light: Literal["green", "yellow", "red"] = "green"


class Score(Struct, frozen=True, kw_only=True):
    """How evidence turns into points and into go or no-go.

    Attributes:
        go: The least score of a go, 0 to 100.
        coverage: The least share of the points that need no person that a go must have judged, in percent.
    """

    categories: tuple[Category, ...]
    bands: tuple[Band, ...] = ()
    go: float | None = None
    coverage: float | None = None


class WhenLocked(StrEnum):
    """What becomes of a due run when another run holds the stack."""

    SKIP = "skip"
    QUEUE = "queue"


class Schedule(Struct, frozen=True, kw_only=True):
    """When a runbook runs by itself: exactly one of `cron`, `every` and `at`.

    Attributes:
        cron: Five fields of cron, read in `timezone`.
        every: An interval; due times are its multiples since 1970, whoever counts them.
        at: A time relative to an event of the calendar, such as `1 day before demo`.
        timezone: The zone of `cron`, of whole days in `at`, and of `quiet`.
        stack: The stack; the runbook's own when empty.
        jitter: A run starts up to this much later than it is due, always the same for the same due time.
        quiet: Hours in which nothing is started, such as `22:00-06:00`.
        when_locked: When another run holds the stack; `at` queues where nothing is said, others skip.
        catch_up: After a downtime, the newest due time is made up for when it is not older than this.
    """

    cron: str = ""
    every: Duration | None = None
    at: str = ""
    timezone: str = "UTC"
    stack: str = ""
    inputs: dict[str, Any] = {}
    tags: tuple[str, ...] = ()
    jitter: Duration = Duration(0)
    quiet: str = ""
    when_locked: WhenLocked = WhenLocked.SKIP
    catch_up: Duration = Duration(3600)


class Start(StrEnum):
    """How an alert starts its runbook."""

    AUTOMATIC = "automatic"
    APPROVAL = "approval"


class AlertRule(Struct, frozen=True, kw_only=True):
    """Which alerts a runbook answers.

    Attributes:
        labels: A regular expression for each label; all must match the whole value.
        start: At once, or after approval.
        stack: The stack; the runbook's own when empty.
        inputs: Values for the runbook; templates see `labels` and `annotations` of the alert.
    """

    labels: dict[str, str]
    start: Start = Start.APPROVAL
    stack: str = ""
    inputs: dict[str, Any] = {}


class Runbook(Struct, frozen=True, kw_only=True):
    """One checked YAML document.

    Attributes:
        home: The folder from which it names other files.
        runs: The runbooks that its steps run, by the references it uses.
        platform: Of a recovery: which stacks it is for, by their `platform`; all of them when empty.
        outputs: What a runbook that runs this one sees of it.
        timeout: The hard limit of everything but `always` and undos.
    """

    kind: Kind
    name: str
    title: str
    path: str
    digest: str
    source: str
    description: str = ""
    owner: str = ""
    stack: str = ""
    platform: str = ""
    inputs: tuple[Input, ...] = ()
    vars: dict[str, Any] = {}
    requires: tuple[str, ...] = ()
    objective: Objective = field(default_factory=Objective)
    timeout: Duration | None = None
    steady_state: tuple[Step, ...] = ()
    preconditions: tuple[Step, ...] = ()
    symptoms: tuple[Step, ...] = ()
    sections: tuple[Section, ...] = ()
    always: tuple[Step, ...] = ()
    outputs: dict[str, Expression] = {}
    score: Score | None = None
    tags: frozenset[str] = frozenset()
    uses_stack: bool = False
    home: str = ""
    runs: dict[str, Runbook] = {}
    schedule: tuple[Schedule, ...] = ()
    alerts: tuple[AlertRule, ...] = ()

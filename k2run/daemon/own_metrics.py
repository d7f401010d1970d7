"""The metrics of k2run itself for Prometheus: counted from the ends of all journals, measured from the newest."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import k2run
from k2run.daemon.alerts.delivery import bears
from k2run.daemon.alerts.incident_store import IncidentStore
from k2run.daemon.schedule.ledger import DATABASE, State, open_ledger
from k2run.engine.events import (
    Bound,
    ClockStopped,
    Objected,
    Outcome,
    RunStarted,
    Scored,
    SectionFinished,
    StepFinished,
)
from k2run.engine.journal import ends_of, read_journal
from k2run.engine.replay import pending_undos
from k2run.engine.store import Store, holder
from k2run.errors import K2runError
from k2run.language.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric
    from starlette.requests import Request

    from k2run.daemon.schedule.ledger import Ledger, Record
    from k2run.engine.events import AnyEvent, RunFinished

ABOUT = ("runbook", "stack")


def show_metrics() -> None:
    """Print them as a scrape would show them."""
    print(Exposition(Store()).text().decode(), end="")


class Exposition(Collector):
    """Collects everything again at each scrape."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._metrics = RunMetrics(store)
        self._ledger: Ledger | None = None
        self._opened = IncidentStore(store.home)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """The metrics as they are now."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: so that registering reads no journal."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family of metrics."""
        tally = self._metrics.tally()
        yield InfoMetricFamily("k2run", "The version of k2run.", {"version": k2run.__version__})
        yield from _totals(tally)
        yield from _newest(tally)
        yield from _undos(tally)
        yield from self._schedule()
        yield from self._incidents()

    def _schedule(self) -> Iterator[Metric]:
        """Due times; only where there is a schedule."""
        if not os.environ.get(DATABASE) and not (self._store.home / "schedule").is_dir():
            return
        try:
            self._ledger = self._ledger or open_ledger(self._store)
        except K2runError:  # its database is away: what cannot be read is not shown
            return
        yield from _due_times(record for entry in self._ledger.entries() for record in self._ledger.records(entry))

    def _incidents(self) -> Iterator[Metric]:
        states = Counter(incident.state for incident in self._opened.all())
        gauge = GaugeMetricFamily("k2run_incidents", "Incidents by how they stand.", labels=("state",))
        for state, count in sorted(states.items()):
            gauge.add_metric((state.replace(" ", "_"),), count)
        yield gauge


def _due_times(records: Iterable[Record]) -> Iterator[Metric]:
    due = CounterMetricFamily("k2run_schedule_due", "Due times and what became of them.", labels=("runbook", "state"))
    skipped = CounterMetricFamily(
        "k2run_schedule_skipped", "Due times at which nothing was started, on purpose.", labels=("runbook", "reason")
    )
    late = GaugeMetricFamily(
        "k2run_schedule_lateness_seconds", "How late the newest scheduled run started.", labels=("runbook",)
    )
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    lateness: dict[str, float] = {}
    for record in records:
        for state in State:  # a series that begins with its first event has no increase
            counts[record.name, state.value] += record.count if record.state is state else 0
        for reason in ("held", "quiet"):
            reasons[record.name, reason] += record.count if _skipped(record) == reason else 0
        if record.late_s is not None:
            lateness[record.name] = record.late_s
    for family, values in ((due, counts), (skipped, reasons), (late, {(name,): at for name, at in lateness.items()})):
        for labels, value in sorted(values.items()):
            family.add_metric(labels, value)
        yield family


def _skipped(record: Record) -> str:
    """Why a due time was skipped: `held` or `quiet`; empty when it was not."""
    if record.state is not State.SKIPPED:
        return ""
    return "quiet" if record.why.startswith("quiet hours") else "held"


def _totals(tally: RunCounts) -> Iterator[Metric]:
    runs = CounterMetricFamily("k2run_runs", "Runs that are over.", labels=(*ABOUT, "kind", "outcome"))
    for (about, kind, outcome), count in sorted(tally.ended.items()):
        runs.add_metric((about.runbook, about.stack, kind, outcome), count)
    seconds = SummaryMetricFamily("k2run_run_duration_seconds", "Time that runs took.", labels=ABOUT)
    for about, total in sorted(tally.seconds.items()):
        count = sum(runs for (one, _, outcome), runs in tally.ended.items() if one == about and outcome != "died")
        seconds.add_metric((about.runbook, about.stack), count, total)
    yield from (runs, seconds, GaugeMetricFamily("k2run_runs_going", "Runs that go on now.", tally.going))


def _newest(tally: RunCounts) -> Iterator[Metric]:
    def family(name: str, words: str, *more: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"k2run_last_{name}", f"{words} of the newest run.", labels=(*ABOUT, *more))

    unrecovered = GaugeMetricFamily(
        "k2run_failure_unrecovered",
        "1 where the newest run failed and nothing has proven the stack well since; a no-go is no failure.",
        labels=ABOUT,
    )
    passed, seconds = family("passed", "1 for a go or a pass"), family("duration_seconds", "Duration")
    began, score = family("start_timestamp_seconds", "Start"), family("score", "Score")
    margin = family("objective_margin_seconds", "Time left of each time objective", "objective")
    bounds = family("objectives", "Objectives", "bound")
    for about, newest in sorted(tally.newest.items()):
        labels = (about.runbook, about.stack)
        passed.add_metric(labels, float(newest.passed))
        seconds.add_metric(labels, newest.seconds)
        began.add_metric(labels, newest.began)
        if newest.score is not None:
            score.add_metric(labels, newest.score)
        for name, left in newest.margins.items():
            margin.add_metric((*labels, name), left)
        for bound in ("met", "missed", "not_measured"):
            bounds.add_metric((*labels, bound), newest.bounds[bound])
    for about, broken in sorted(tally.unrecovered.items()):
        unrecovered.add_metric((about.runbook, about.stack), float(broken))
    yield from (passed, seconds, began, score, margin, bounds, unrecovered)


def _undos(tally: RunCounts) -> Iterator[Metric]:
    pending = GaugeMetricFamily("k2run_undo_pending", "Undos that are still to be played.", labels=("stack",))
    for stack, count in sorted(tally.pending.items()):
        pending.add_metric((stack,), count)
    yield pending


def metrics_routes(store: Store, secret: str = "") -> list[Route]:
    """`/metrics`.

    Args:
        store: The k2run home.
        secret: What a scraper bears as its token; everybody may look when empty.
    """
    exposition = Exposition(store)

    async def metrics(request: Request) -> Response:
        if secret and not bears(request.headers.get("authorization", ""), secret):
            return PlainTextResponse("no token, or a wrong one\n", 401, {"www-authenticate": "Bearer"})
        return Response(await run_in_threadpool(exposition.text), media_type=CONTENT_TYPE_LATEST)

    return [Route("/metrics", metrics)]


class Subject(Struct, frozen=True, order=True):
    """What figures are about: a runbook on a stack."""

    runbook: str
    stack: str


class Newest(Struct, frozen=True, kw_only=True):
    """Figures of the newest run that has ended.

    Attributes:
        began: Seconds since 1970.
        margins: Seconds that were left of each time objective, by its name; negative when it was missed.
        bounds: How many objectives were met, missed and not measured.
    """

    run: str
    began: float
    passed: bool
    seconds: float
    margins: dict[str, float]
    bounds: Counter[str]
    score: float | None


class RunCounts(Struct):
    """Figures of all runs of one home.

    Attributes:
        ended: Runs by subject, kind and outcome; one that died counts as `died`.
        seconds: Time that runs took together, by subject.
        unrecovered: Whether the newest run of a subject failed, and nothing has proven its stack well since.
        going: Runs that go on now.
        pending: Undos that are still to be played, by stack.
    """

    ended: Counter[tuple[Subject, str, str]] = field(default_factory=Counter)
    seconds: Counter[Subject] = field(default_factory=Counter)
    newest: dict[Subject, Newest] = field(default_factory=dict)
    unrecovered: dict[Subject, bool] = field(default_factory=dict)
    going: int = 0
    pending: dict[str, int] = field(default_factory=dict)


class RunMetrics:
    """Makes tallies; what has ended is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends: dict[str, tuple[RunStarted, RunFinished]] = {}
        self._newest: dict[str, Newest] = {}

    def tally(self) -> RunCounts:
        """The figures as they are now."""
        made = RunCounts()
        last: dict[Subject, Path] = {}
        ends: dict[Subject, RunFinished] = {}
        proven: dict[str, str] = {}
        for folder, begun, over in self._runs():
            subject = Subject(begun.name, begun.stack)
            if over is None:
                self._open(made, subject, folder, begun)
                continue
            made.ended[subject, begun.kind, over.outcome.value] += 1
            made.seconds[subject] += over.seconds  # type: ignore[assignment] # a counter of seconds
            last[subject], ends[subject] = folder, over
            if over.exit_code == 0 and not over.partial and begun.kind != Kind.BENCHMARK:
                proven[begun.stack] = max(over.at, proven.get(begun.stack, ""))
        made.newest = {subject: self._read(folder) for subject, folder in last.items()}
        for subject, over in ends.items():
            well = proven.get(subject.stack, "") > over.at or self._store.well_since(subject.stack, over.at)
            made.unrecovered[subject] = _is_outage(over) and not well
        for stack in self._store.open_stacks():
            made.pending[stack] = self._pending(stack)
        return made

    def _runs(self) -> Iterator[tuple[Path, RunStarted, RunFinished | None]]:
        for folder in self._store.runs():
            if folder.name in self._ends:
                yield folder, *self._ends[folder.name]
                continue
            begun, over = ends_of(folder)
            if begun is None:
                continue
            if over is not None and over.outcome is not Outcome.INTERRUPTED:
                self._ends[folder.name] = (begun, over)
            yield folder, begun, over

    def _open(self, made: RunCounts, subject: Subject, folder: Path, begun: RunStarted) -> None:
        if folder.name in holder(self._store.stack_folder(begun.stack)):
            made.going += 1
        else:
            made.ended[subject, begun.kind, "died"] += 1

    def _pending(self, stack: str) -> int:
        folder = self._store.open_run(stack)
        try:
            return len(pending_undos(read_journal(folder))) if folder is not None else 0
        except K2runError:
            return 0

    def _read(self, folder: Path) -> Newest:
        if folder.name not in self._newest:
            self._newest[folder.name] = newest_of(read_journal(folder))
        return self._newest[folder.name]


def _is_outage(over: RunFinished) -> bool:
    """Whether the end of a run says that something is broken; a no-go is a decision, and an interruption a wish."""
    return over.outcome is Outcome.FAILED and not over.verdict.startswith("no-go")


def newest_of(events: list[AnyEvent]) -> Newest:
    """The figures of a run that has ended."""
    from datetime import datetime

    begun, over = events[0], events[-1]
    assert isinstance(begun, RunStarted)  # noqa: S101 - the caller knows both ends
    bounds = Counter(bound.value for event in _judged(events) if (bound := _bound(event)) is not None)
    scored = next((event for event in reversed(events) if isinstance(event, Scored)), None)
    return Newest(
        run=begun.run,
        began=datetime.fromisoformat(begun.at).timestamp(),
        passed=getattr(over, "exit_code", 1) == 0,
        seconds=getattr(over, "seconds", 0.0),
        margins=dict(_margins(begun, events, getattr(over, "seconds", 0.0))),
        bounds=bounds,
        score=scored.score if scored is not None else None,
    )


def _judged(events: Iterable[AnyEvent]) -> Iterable[AnyEvent]:
    """The last word on each step, section, objective and clock: a resumed run judges some of them again."""
    last: dict[tuple[str, ...], AnyEvent] = {}
    for event in events:
        match event:
            case StepFinished():
                last["step", event.step] = event
            case SectionFinished():
                last["section", event.section] = event
            case Objected():
                last["objective", event.step, event.objective] = event
            case ClockStopped():
                last["clock", event.step, event.clock] = event
    return last.values()


def _bound(event: AnyEvent) -> Bound | None:
    found: Any = getattr(event, "bound", None) or getattr(event, "objective", None)
    return found if isinstance(found, Bound) else None


def _margins(begun: RunStarted, events: list[AnyEvent], seconds: float) -> Iterator[tuple[str, float]]:
    """Time objectives of the run, of its sections and of its clocks."""
    if begun.within is not None:
        yield "within", round(begun.within - seconds, 3)
    for event in events:
        if isinstance(event, SectionFinished) and event.within is not None:
            yield f"section {event.name}", round(event.within - event.seconds, 3)
        elif isinstance(event, ClockStopped) and event.within is not None:
            yield event.clock, round(event.within - event.seconds, 3)

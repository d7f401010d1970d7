"""A process of its own beside each run: reads its journal, tells people, exports its spans. The run never waits for it.

Each channel has a queue and a thread, which sends, and tries again until it gives up.

Started as `python -m k2run.daemon.messenger HOME RUN`, only where there is something to tell or to export.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.engine.events import RunFinished, RunResumed, RunStarted
from k2run.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from k2run.daemon.channels import Channel, Moment
    from k2run.engine.events import AnyEvent
    from k2run.engine.store import Store
    from k2run.evidence.step_view import SectionView, StepView
    from k2run.evidence.view import RunView

POLL_S = 0.2
GRACE_S = 3.0
"""A journal without an end, whose run no longer holds its stack, is given this long."""
TIMEOUT_MS = 10_000
"""Milliseconds that an endpoint may take for what is left when the run has ended."""
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
GIVE_UP_S = 900.0
LOG = "notified.jsonl"


class Outbox:
    """Sends moments through channels.

    Args:
        channels: The ways to people.
        log: What was sent, or given up; a moment that stands there is not sent again.
        give_up: Seconds after which a message is given up.
        first_pause: Seconds until the second attempt; doubled with each.
    """

    def __init__(
        self,
        channels: Iterable[Channel],
        log: Path,
        *,
        give_up: float = GIVE_UP_S,
        first_pause: float = FIRST_PAUSE_S,
    ) -> None:
        self._log = log
        self._give_up = give_up
        self._first_pause = first_pause
        self._sent = _settled(log)
        self._lock = threading.Lock()
        self._lanes: list[tuple[str, Channel, queue.SimpleQueue[Moment | None]]] = [
            (f"{number} {channel.kind}", channel, queue.SimpleQueue()) for number, channel in enumerate(channels)
        ]
        self._threads = [threading.Thread(target=self._work, args=lane, daemon=True) for lane in self._lanes]
        for thread in self._threads:
            thread.start()

    def put(self, moment: Moment) -> None:
        """Send a moment to everybody who wants it; returns at once."""
        for name, channel, lane in self._lanes:
            if channel.wants(moment.occasion) and (name, moment.key) not in self._sent:
                lane.put(moment)

    def close(self) -> None:
        """Wait until everything is sent or given up."""
        for _, _, lane in self._lanes:
            lane.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, name: str, channel: Channel, lane: queue.SimpleQueue[Moment | None]) -> None:
        while (moment := lane.get()) is not None:
            self._settle(name, channel, moment)

    def _settle(self, name: str, channel: Channel, moment: Moment) -> None:
        """Try until it is sent, or cannot be sent at all, or has taken too long."""
        from k2run.daemon.channels import send

        end, pause, attempts = time.monotonic() + self._give_up, self._first_pause, 0
        while True:
            attempts += 1
            try:
                send(channel, moment)
            except UsageError as error:
                self._note(name, moment, attempts, error=channel.masked(error.message))
                return
            except Exception as error:  # noqa: BLE001 - whatever a network or a mail server does, it is tried again
                if time.monotonic() + pause > end:
                    self._note(name, moment, attempts, error=f"given up: {channel.masked(str(error))}")
                    return
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
            else:
                self._note(name, moment, attempts)
                return

    def _note(self, name: str, moment: Moment, attempts: int, error: str = "") -> None:
        line: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "channel": name,
            "key": moment.key,
            "occasion": moment.occasion,
            "attempts": attempts,
            "error": error,
        }
        with self._lock, self._log.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def _settled(log: Path) -> set[tuple[str, str]]:
    """What an earlier messenger has sent or given up."""
    try:
        lines = log.read_bytes().splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        try:
            entry = msgspec.json.decode(line)
            found.add((entry["channel"], entry["key"]))
        except (msgspec.DecodeError, KeyError, TypeError):
            continue  # a line that a crash has cut off
    return found


class Herald:
    """An observer that starts the messenger when its run begins, or when `run` is resumed."""

    def __init__(self, store: Store, run: str = "") -> None:
        self._home = store.home
        self._run = run

    def see(self, event: AnyEvent) -> None:
        """Start the messenger when the run begins or goes on."""
        if isinstance(event, RunStarted):
            self._start(event.run)
        elif isinstance(event, RunResumed):
            self._start(self._run)

    def _start(self, run: str) -> None:
        command = [sys.executable, "-m", "k2run.daemon.messenger", str(self._home), run]
        with (self._home / "messenger.log").open("ab") as log:
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )


def heralds(store: Store, run: str) -> tuple[Herald, ...]:
    """The observer that starts the messenger; none where there are no recipients and nothing is exported."""
    return (Herald(store, run),) if _told() or _exported() else ()


def _told() -> bool:
    """Whether there are recipients; invalid settings are a warning, not the end of the run."""
    if not Path(os.environ.get("K2RUN_SETTINGS") or "k2run.yaml").is_file():
        return False
    from k2run.daemon.channels import usable_settings

    return bool(usable_settings().notifications)


def _patience() -> float:
    """Seconds after which a message is given up: those of K2RUN_NOTIFY_GIVE_UP, else 15 minutes."""
    from k2run.language.quantities import Duration

    try:
        return float(Duration.parse(os.environ["K2RUN_NOTIFY_GIVE_UP"]))
    except (KeyError, ValueError):
        return GIVE_UP_S


def _exported() -> bool:
    return any(os.environ.get(name) for name in ENDPOINTS)


def follow(store: Store, folder: Path) -> None:
    """Read a run's journal until the run has ended, and send its messages."""
    from k2run.daemon.channels import Telling, usable_settings
    from k2run.engine.replay import pending_undos

    settings = usable_settings()
    telling = Telling(settings.link, failed_before=_failed_before(store, folder))
    outbox = Outbox(settings.notifications, folder / LOG, give_up=_patience())
    events: list[AnyEvent] = []
    over = False
    while not over:
        over = not _alive(store, folder, events)
        for event in _new(folder, events):
            moment = telling.hear(event)
            if moment is not None:
                outbox.put(moment)
        if events and isinstance(events[-1], RunFinished):
            break
        time.sleep(POLL_S)
    else:
        moment = telling.died(len(pending_undos(events)))
        if moment is not None:
            outbox.put(moment)
    if _exported():
        export_spans(events)
    outbox.close()


def _new(folder: Path, events: list[AnyEvent]) -> list[AnyEvent]:
    """The events that have come since; they are added to those that are known."""
    from k2run.engine.journal import read_journal

    found = read_journal(folder)[len(events) :]
    events += found
    return found


def _alive(store: Store, folder: Path, events: list[AnyEvent]) -> bool:
    """Whether the run may still write into its journal."""
    if not events or time.time() - (folder / "journal.jsonl").stat().st_mtime < GRACE_S:
        return True
    from k2run.app.run_processes import process_of

    return process_of(store, folder.name, events) is not None


def _failed_before(store: Store, folder: Path) -> bool:
    """Whether the run of the same runbook on the same stack before this one failed."""
    from k2run.engine.journal import ends_of
    from k2run.engine.store import began

    begun, _ = ends_of(folder)
    for other in reversed(store.runs()):
        if begun is None or began(other.name) >= began(folder.name):
            continue
        earlier, over = ends_of(other)
        if earlier is not None and (earlier.name, earlier.stack) == (begun.name, begun.stack):
            return over is None or over.exit_code != 0
    return False


def export_spans(events: Sequence[AnyEvent]) -> int:
    """Send the spans of a run to the endpoint that the environment names (OTEL_EXPORTER_OTLP_ENDPOINT).

    Returns:
        How many spans there were.

    Raises:
        UsageError: The OpenTelemetry SDK is not installed.
    """
    from k2run.evidence.view import view_of

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UsageError("OpenTelemetry is not installed", hint="pip install 'k2run[otel]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "k2run"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    view = view_of(events)
    count = _Spans(provider.get_tracer("k2run"), view).make() if view.started is not None else 0
    provider.force_flush(TIMEOUT_MS)
    provider.shutdown()
    return count


class _Spans:
    """A run as OpenTelemetry spans: one for the run, for each section, for each step; times are the journal's."""

    def __init__(self, tracer: Any, view: RunView) -> None:
        assert view.started is not None  # noqa: S101 - the caller has looked
        self._tracer = tracer
        self._view = view
        self._began = datetime.fromisoformat(view.started.at) - timedelta(seconds=view.started.t)
        self._count = 0

    def make(self) -> int:
        begun, over = self._view.started, self._view.finished
        assert begun is not None  # noqa: S101 - checked at the beginning
        about = {
            "k2run.run": begun.run,
            "k2run.runbook": begun.name,
            "k2run.kind": begun.kind,
            "k2run.stack": begun.stack,
            "k2run.verdict": over.verdict if over else "did not end",
        }
        run = self._span(begun.name, 0.0, None, about)
        for section in self._view.sections.values():
            if section.started is not None:
                self._section(section, run)
        for fault in self._view.faults:
            run.add_event(f"fault {fault.name}", {"k2run.action": fault.action}, timestamp=self._ns(fault.t))
        self._end(run, self._view.seconds, bad=over is None or over.exit_code != 0)
        return self._count

    def _section(self, section: SectionView, run: Any) -> None:
        began = section.started.t if section.started is not None else 0.0
        span = self._span(section.name, began, run, {"k2run.section": section.path})
        for step in section.in_order():
            if step.began is not None:
                self._step(step, span)
        over = section.finished
        self._end(span, over.t if over else self._view.seconds, bad=over is None or over.outcome.value == "failed")

    def _step(self, step: StepView, section: Any) -> None:
        from k2run.evidence.wording import Standing

        over = step.finished
        about: dict[str, Any] = {"k2run.step": step.path, "k2run.action": step.action}
        about["k2run.outcome"] = step.standing.value
        if over is not None:
            about |= {"k2run.headline": over.headline, "k2run.attempts": over.attempts, "k2run.message": over.message}
        span = self._span(step.name, step.began or 0.0, section, about)
        self._end(
            span, over.t if over else self._view.seconds, bad=step.standing in {Standing.FAILED, Standing.UNKNOWN}
        )

    def _span(self, name: str, began: float, parent: Any, about: dict[str, Any]) -> Any:
        from opentelemetry import trace

        self._count += 1
        context = trace.set_span_in_context(parent) if parent is not None else None
        return self._tracer.start_span(name, context=context, start_time=self._ns(began), attributes=about)

    def _end(self, span: Any, at: float, *, bad: bool) -> None:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR if bad else StatusCode.OK))
        span.end(self._ns(at))

    def _ns(self, seconds: float) -> int:
        """Nanoseconds since 1970 of a time in the run."""
        return int((self._began + timedelta(seconds=seconds)).timestamp() * 1_000_000_000)


def main(home: str, run: str) -> None:
    """Follow one run."""
    from k2run.engine.store import Store

    store = Store(Path(home))
    follow(store, store.find_run(run))


if __name__ == "__main__":
    main(*sys.argv[1:])

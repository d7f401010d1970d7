"""A run as OpenTelemetry spans: one for the run, one for each section, one for each step; times are the journal's."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from k2run.errors import UsageError
from k2run.evidence.view import view_of
from k2run.evidence.wording import Standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.events import AnyEvent
    from k2run.evidence.step_view import SectionView, StepView
    from k2run.evidence.view import RunView

_BAD = {Standing.FAILED, Standing.UNKNOWN}
TIMEOUT_MS = 10_000


def export_spans(events: Sequence[AnyEvent]) -> int:
    """Send the spans of a run to the endpoint that the environment names (OTEL_EXPORTER_OTLP_ENDPOINT).

    Returns:
        How many spans there were.

    Raises:
        UsageError: The OpenTelemetry SDK is not installed.
    """
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
    """Makes the spans of one run."""

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
        over = step.finished
        about: dict[str, Any] = {"k2run.step": step.path, "k2run.action": step.action}
        about["k2run.outcome"] = step.standing.value
        if over is not None:
            about |= {"k2run.headline": over.headline, "k2run.attempts": over.attempts, "k2run.message": over.message}
        span = self._span(step.name, step.began or 0.0, section, about)
        self._end(span, over.t if over else self._view.seconds, bad=step.standing in _BAD)

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

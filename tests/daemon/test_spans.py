from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2run.daemon.messenger import export_spans
from k2run.engine.journal import read_journal

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")
JOURNALS = Path(__file__).parent.parent / "evidence" / "journals"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """An OTLP/HTTP collector that keeps what it gets."""
    bodies: list[bytes] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Take)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield bodies
    server.shutdown()
    server.server_close()


def test_a_run_is_a_trace_of_its_sections_and_steps(collector: list[bytes]) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    events = read_journal(JOURNALS / "consumer-killed.jsonl")
    count = export_spans(events)
    spans = [
        span
        for body in collector
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert len(spans) == count > 3
    [run] = [span for span in spans if not span.parent_span_id]
    by_id = {span.span_id: span for span in spans}
    assert {span.trace_id for span in spans} == {run.trace_id}
    assert all(span.parent_span_id in by_id for span in spans if span is not run)
    assert all(run.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    attributes = {entry.key: entry.value.string_value for entry in run.attributes}
    assert attributes["k2run.run"] == events[0].run  # type: ignore[union-attr]
    assert run.status.code == 2, "it did not end well"
    assert any(event.name.startswith("fault") for event in run.events)

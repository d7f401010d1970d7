"""Incidents on the page: followed live, approved and declined by whoever may, and never by anybody else."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


@pytest.fixture
def waiting(served: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """An incident whose runbook waits for an approval."""
    key = request.node.name
    name = served.alert("Held", key=key, note="one")
    served.wait_for_incident(name, lambda one: one.waits_for_approval)
    yield name
    served.alert("Held", key=key, status="resolved", note="one")


def messages(client: httpx.Client, path: str, seconds: float = 60) -> Iterator[dict[str, Any]]:
    """The server-sent events of a page."""
    end = time.monotonic() + seconds
    with client.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            assert time.monotonic() < end, "what was waited for did not come"
            if line.startswith("data: "):
                yield json.loads(line[6:])


def test_an_incident_is_approved_on_its_page_and_followed_to_its_end(served, waiting):
    with served.client() as client, served.anonymous() as watcher:
        stream = messages(watcher, f"/incidents/{waiting}/events")
        seen = next(stream)["parts"]
        assert "Approve and start it" in seen["p-answer"]
        assert "It is held" in seen["p-seen"], "the diagnosis"
        assert waiting in client.get("/").text, "the first page leads there"
        answer = client.post(f"/incidents/{waiting}/approve")
        assert answer.headers["location"] == f"/incidents/{waiting}"
        for message in stream:
            seen |= message["parts"]
            if "CHANGED NOTHING" in seen["p-answer"]:
                break
        incident = served.wait_for_incident(waiting, lambda one: one.ended is not None)
        page = client.get(f"/incidents/{waiting}").text
        assert f"/runs/{incident.run}/oncall" in page
        assert "approved by" in page
        served.alert("Held", key=incident.opened.key, status="resolved", note="one")
        for message in stream:
            seen |= message["parts"]
            if message["state"] == "ended":
                break
    assert "CLOSED" in seen["p-incident"]
    assert incident.ordered.by.endswith(f"approved by {served.name}")
    assert served.events(incident.run)[0].by == incident.ordered.by


def test_a_recovery_that_failed_says_that_nothing_was_recovered_and_that_a_person_is_needed(served):
    name = served.alert("Broken", note="two")
    served.wait_for_incident(name, lambda one: one.ended is not None)
    with served.client() as client:
        page = client.get(f"/incidents/{name}").text
        assert '<p class="word" role="status">NOT RECOVERED</p>' in page
        assert "held did not recover it · 1 of 1 alert firing" in page
        assert "An operator is needed now" in page
        assert 'badge bad">not recovered' in client.get("/incidents").text
        served.alert("Broken", status="resolved", note="two")
        served.wait_for_incident(name, lambda one: one.closed is not None)
        assert "NOT RECOVERED" not in client.get(f"/incidents/{name}").text
        assert "held did not recover it: " in client.get("/incidents").text


def test_a_declined_incident_starts_nothing(served, waiting):
    with served.client() as client:
        assert client.post(f"/incidents/{waiting}/decline").status_code == 303
        page = client.get(f"/incidents/{waiting}").text
        assert "Declined by" in page
        assert "Approve and start it" not in page
        again = client.post(f"/incidents/{waiting}/approve")
    assert again.status_code == 409
    assert "waits for no approval: declined" in again.text
    assert served.wait_for_incident(waiting, lambda one: one.declined is not None).ordered is None


def test_the_list_of_incidents_changes_while_it_is_looked_at(served):
    with served.anonymous() as watcher:
        stream = messages(watcher, "/incidents/events")
        next(stream)
        name = served.alert("Unknown", key="the list")
        found = next(message for message in stream if name in message["parts"]["p-incidents"])
        assert "Unknown in the test" in found["parts"]["p-incidents"]
        served.alert("Unknown", key="the list", status="resolved")
        next(message for message in stream if 'badge good">closed' in message["parts"]["p-incidents"])


def test_only_an_approver_decides(served, waiting):
    path = served.home / "tokens"
    before = path.read_text()
    path.write_text(before + "operator olga k2_operator_9876543210\n")
    try:
        for what in ("approve", "decline"):
            address = f"/incidents/{waiting}/{what}"
            with served.anonymous(origin=served.address) as nobody:
                assert nobody.post(address).status_code == 401
            with served.client("k2_operator_9876543210") as olga:
                assert olga.post(address).status_code == 403
            with served.client(origin="http://evil.example") as other:
                assert other.post(address).status_code == 403
    finally:
        path.write_text(before)
    assert served.wait_for_incident(waiting, lambda _: True).waits_for_approval


def test_an_incident_is_found_by_its_whole_name_only(served, waiting):
    with served.client() as client:
        for name in ("last", "x", "..%2f..%2ftokens", "%00", "lock", "2", waiting[:-1]):
            for view in ("", "/events"):
                assert client.get(f"/incidents/{name}{view}").status_code == 404
            assert client.post(f"/incidents/{name}/approve").status_code in {404, 409}
    assert served.wait_for_incident(waiting, lambda _: True).waits_for_approval


def test_script_in_an_alert_is_shown_as_text(served):
    script = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    name = served.alert("Script", key=script, **{script: script})
    served.wait_for_incident(name, lambda one: one.chosen is not None)
    with served.anonymous() as client:
        for path in ("/", "/incidents", f"/incidents/{name}"):
            text = client.get(path).text
            assert "<script>alert" not in text
            assert "<img src=x" not in text
    served.alert("Script", key=script, status="resolved", **{script: script})

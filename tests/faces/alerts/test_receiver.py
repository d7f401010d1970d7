from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from k2run.errors import UsageError
from k2run.faces.alerts.book import Book
from k2run.faces.alerts.secret import hooks_secret


def test_repeated_alerts_join_their_incident_and_resolved_ones_close_it(receiver: Any) -> None:
    lag, errors = receiver.alert("Lag"), receiver.alert("Errors")
    first = receiver.post(receiver.delivery("group", lag)).json()["incident"]
    assert receiver.post(receiver.delivery("group", lag, errors)).json()["incident"] == first
    resolved = receiver.alert("Lag", "resolved")
    assert receiver.post(receiver.delivery("group", resolved, errors)).json() == {"incident": first, "state": "open"}
    done = receiver.delivery("group", resolved, receiver.alert("Errors", "resolved"))
    assert receiver.post(done).json() == {"incident": first, "state": "closed"}
    assert receiver.post(receiver.delivery("group", lag)).json()["incident"] != first


def test_200_alerts_in_10_seconds_are_one_incident_each_group_and_none_is_lost(receiver: Any) -> None:
    """20 groups with 10 alerts each, sent side by side, as Alertmanager does in a storm."""
    deliveries = [
        receiver.delivery(f"group {number % 20}", receiver.alert("Storm", instance=f"host-{number}"))
        for number in range(200)
    ]
    began = time.monotonic()
    with ThreadPoolExecutor(16) as senders:
        answers = list(senders.map(receiver.post, deliveries))
    took = time.monotonic() - began
    print(f"200 alerts in {took:.2f} s")
    assert {answer.status_code for answer in answers} == {200}
    incidents = Book(receiver.store.home).all()
    assert Counter(one.opened.key for one in incidents) == Counter({f"group {number}": 1 for number in range(20)})
    assert {alert.labels["instance"] for one in incidents for alert in one.alerts.values()} == {
        f"host-{number}" for number in range(200)
    }
    assert took < 10


def test_a_server_that_starts_anew_knows_its_incidents(receiver: Any) -> None:
    first = receiver.post(receiver.delivery("group", receiver.alert("Lag"))).json()["incident"]
    again = Book(receiver.store.home)
    assert [one.id for one in again.all()] == [first]


@pytest.mark.parametrize("token", ["", "wrong"])
def test_nobody_without_the_token_is_heard(receiver: Any, token: str) -> None:
    assert receiver.post(receiver.delivery("group", receiver.alert("Lag")), token).status_code == 401
    assert receiver.book.all() == []


def test_a_signed_alert_of_any_sender_is_heard(receiver: Any) -> None:
    content = {"key": "nightly", "title": "The nightly load failed", "labels": {"alertname": "Load"}}
    answer = receiver.post_signed(content).json()
    assert receiver.book.find(answer["incident"]).opened.title == "The nightly load failed"
    assert receiver.post_signed({**content, "status": "resolved"}).json()["state"] == "closed"
    assert receiver.post_signed(content, "wrong").status_code == 401


@pytest.mark.parametrize("content", [[], {}, {"groupKey": "", "alerts": []}, {"groupKey": "x", "alerts": [{}]}, "text"])
def test_what_is_no_delivery_is_refused(receiver: Any, content: Any) -> None:
    answer = receiver.post(content)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_delivery_that_is_too_large_is_refused(receiver: Any) -> None:
    big = receiver.delivery("group", receiver.alert("Lag", words="x" * 3_000_000))
    assert receiver.post(big).status_code == 413


def test_other_methods_are_refused(receiver: Any) -> None:
    assert httpx.get(f"{receiver.url}/hooks/alertmanager").status_code == 405


def test_an_automatic_runbook_is_started_once_with_the_values_of_the_alert(receiver: Any) -> None:
    receiver.runbook("lag", "Lag.*", "automatic")
    receiver.post(receiver.delivery("group", receiver.alert("LagHigh", topic="trades")))
    incident = until(receiver, lambda one: one.ended is not None)
    assert incident.diagnosed.stack == "nothing"
    assert (incident.chosen.runbook, incident.ended.verdict, incident.ended.exit_code) == ("lag", "passed", 0)
    assert "-lag-" in incident.ended.run
    receiver.keep().step()
    assert len(receiver.store.runs()) == 1


def test_a_runbook_that_wants_approval_waits_for_it(receiver: Any) -> None:
    receiver.runbook("lag", "LagHigh", "approval")
    receiver.post(receiver.delivery("group", receiver.alert("LagHigh", topic="trades")))
    waiting = until(receiver, lambda one: one.waits_for_approval)
    keeper = receiver.keep()
    keeper.step()
    assert waiting.ordered is None
    receiver.book.approve("last", "ada")
    incident = until(receiver, lambda one: one.ended is not None, keeper)
    assert incident.ordered.by == f"incident {incident.id}, approved by ada"
    assert incident.ended.verdict == "passed"
    with pytest.raises(UsageError, match="waits for no approval"):
        receiver.book.approve("last", "ada")


def test_an_incident_that_no_runbook_answers_says_so(receiver: Any) -> None:
    receiver.post(receiver.delivery("group", receiver.alert("NobodyKnows")))
    incident = until(receiver, lambda one: one.chosen is not None)
    assert (incident.chosen.runbook, incident.state) == ("", "open")


def test_a_resolved_incident_starts_nothing(receiver: Any) -> None:
    receiver.runbook("lag", "LagHigh", "automatic")
    receiver.post(receiver.delivery("group", receiver.alert("LagHigh")))
    receiver.post(receiver.delivery("group", receiver.alert("LagHigh", "resolved")))
    for _ in range(4):
        receiver.keep().step()
    assert receiver.book.find("last").ordered is None


def test_a_held_stack_is_tried_again(receiver: Any) -> None:
    from k2run.engine.lock import hold

    receiver.runbook("lag", "LagHigh", "automatic")
    receiver.post(receiver.delivery("group", receiver.alert("LagHigh", topic="trades")))
    keeper = receiver.keep()
    with hold(receiver.store.stack_folder("nothing"), "nothing", "somebody"):
        until(receiver, lambda one: one.ordered is not None, keeper)
        incident = until(receiver, lambda one: one.ordered is None, keeper)
    assert incident.ended is None
    assert incident.may_start


def test_the_secret_is_made_once_and_private(tmp_path: Any) -> None:
    made = hooks_secret(tmp_path)
    assert len(made) > 30
    assert hooks_secret(tmp_path) == made
    assert (tmp_path / "hooks-secret").stat().st_mode & 0o777 == 0o600


def until(receiver: Any, true: Any, keeper: Any = None) -> Any:
    """The newest incident, when something is true of it."""
    keeper = keeper or receiver.keep()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        keeper.step()
        incident = receiver.book.find("last")
        if true(incident):
            return incident
        time.sleep(0.1)
    raise AssertionError(incident)

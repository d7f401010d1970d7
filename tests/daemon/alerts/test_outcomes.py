"""What an incident says in the end: what a run has proven, and nothing more."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from k2run.daemon.alerts.incident import Diagnosed, Requeued, Resolved
from k2run.daemon.alerts.incident_messages import moments_of
from k2run.engine.store import hold, holder

if TYPE_CHECKING:
    from collections.abc import Callable


def settle(receiver: Any, true: Callable[[Any], Any], worker: Any, incident: str = "last", seconds: float = 120) -> Any:
    """The incident, when something is true of it."""
    end = time.monotonic() + seconds
    while not true(found := receiver.incidents.find(incident)):
        assert time.monotonic() < end, (found.state, receiver.incidents.entries(found))
        worker.step()
        time.sleep(0.1)
    return found


def told(incident: Any) -> list[str]:
    """The titles of the messages of an incident."""
    return [moment.title for _, moment in moments_of(incident)]


def later(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_recovered_is_said_when_the_run_has_passed_and_counts_from_the_start_of_the_outage(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic")
    alert = receiver.alert("Lag", topic="trades", since=later(-90))
    alert["annotations"]["for"] = "30s"
    receiver.post(receiver.delivery("group", alert))
    incident = settle(receiver, lambda one: one.ended, receiver.keep())
    assert incident.state == "run passed", "its alert still fires, and Alertmanager's word is not waited for"
    opened, recovered = told(incident)
    assert opened == "Incident: Lag in the test: lag"
    assert recovered.startswith("Recovered after 2m"), "30 s of `for` before the alert fired, and 90 s since then"
    assert recovered.endswith("by lag: lag")
    receiver.post(receiver.delivery("group", receiver.alert("Lag", "resolved", topic="trades")))
    assert told(receiver.incidents.find("last")) == [opened, recovered], "the resolve is no second outcome"
    assert receiver.incidents.find("last").state == "closed"


def test_a_run_that_changed_nothing_has_recovered_nothing(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic", changes="false")
    receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="trades")))
    incident = settle(receiver, lambda one: one.ended, receiver.keep())
    assert (incident.ended.exit_code, incident.ended.unchanged) == (0, True)
    [_, (_, ended)] = moments_of(incident)
    assert "without a recovery" in ended.title
    assert "lag changed nothing" in ended.cause


def test_a_resolve_during_a_run_is_noted_and_a_run_that_fails_after_it_leaves_the_incident_open(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic", seconds="3s")
    receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="another")))
    worker = receiver.keep()
    settle(receiver, lambda one: one.began, worker)
    answer = receiver.post(receiver.delivery("group", receiver.alert("Lag", "resolved", topic="another"))).json()
    assert answer["state"] == "running"
    incident = settle(receiver, lambda one: one.ended, worker)
    assert any(isinstance(entry, Resolved) for entry in receiver.incidents.entries(incident))
    for _ in range(4):
        worker.step()
    incident = receiver.incidents.find("last")
    assert (incident.state, incident.closed) == ("not recovered", None)
    assert [title.partition(" recover")[0] for title in told(incident)] == [
        "Incident: Lag in the test: lag",
        "lag did not",
    ]


def test_an_incident_whose_run_failed_is_not_recovered_by_a_resolve(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic")
    receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="another")))
    worker = receiver.keep()
    before = told(settle(receiver, lambda one: one.ended, worker))
    receiver.post(receiver.delivery("group", receiver.alert("Lag", "resolved", topic="another")))
    incident = settle(receiver, lambda one: one.closed, worker)
    assert incident.closed.why == "every alert is resolved; no run recovered it"
    assert told(incident) == before
    assert not any("Recovered" in title for title in before)


def test_another_run_that_recovered_after_a_failed_one_is_named(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic")
    receiver.runbook("other", "Other", "automatic")
    receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="another")))
    worker = receiver.keep()
    failed = settle(receiver, lambda one: one.ended, worker)
    receiver.post(receiver.delivery("two", receiver.alert("Other", topic="trades")))
    passed = settle(receiver, lambda one: one.ended, worker)
    receiver.post(receiver.delivery("group", receiver.alert("Lag", "resolved", topic="another")))
    incident = settle(receiver, lambda one: one.closed, worker, failed.id)
    assert (incident.closed.run, incident.closed.runbook) == (passed.run, "other")
    assert told(incident)[-1].endswith(" by other: lag")


def test_a_run_that_began_after_the_resolve_has_not_recovered_it(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic", seconds="3s")
    receiver.runbook("other", "Other", "automatic")
    receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="another")))
    worker = receiver.keep()
    settle(receiver, lambda one: one.began, worker)
    receiver.post(receiver.delivery("group", receiver.alert("Lag", "resolved", topic="another")))
    failed = settle(receiver, lambda one: one.ended, worker)
    receiver.post(receiver.delivery("two", receiver.alert("Other", topic="trades")))
    settle(receiver, lambda one: one.ended, worker)
    incident = settle(receiver, lambda one: one.closed, worker, failed.id)
    assert incident.closed.run == ""
    assert "no run recovered it" in incident.closed.why
    assert not any("Recovered" in title for title in told(incident))


def test_an_alert_that_begins_again_after_the_run_has_passed_is_another_incident(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic")
    first = receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="trades"))).json()["incident"]
    settle(receiver, lambda one: one.ended, receiver.keep())
    assert receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="trades"))).json()["incident"] == first
    time.sleep(0.01)
    again = receiver.alert("Lag", topic="trades", since=later(0))
    assert receiver.post(receiver.delivery("group", again)).json()["incident"] != first
    assert receiver.incidents.find(first).closed.why == "the alert began again: that is another incident"


def test_an_incident_that_ends_without_a_run_is_not_recovered(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "approval")
    receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="trades")))
    settle(receiver, lambda one: one.chosen, receiver.keep())
    receiver.post(receiver.delivery("group", receiver.alert("Lag", "resolved", topic="trades")))
    *_, last = told(receiver.incidents.find("last"))
    assert last.startswith("Ended after ")
    assert last.endswith("without a recovery: Lag in the test")


def test_an_automatic_start_needs_its_symptoms_seen(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic")
    receiver.broken.write_text("")
    receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="trades")))
    incident = settle(receiver, lambda one: one.chosen, receiver.keep())
    assert (incident.chosen.automatic, incident.state) == (False, "approval needed")
    assert incident.chosen.why == "its alerts fit, but its symptoms were not seen"


def test_a_held_stack_is_waited_for_without_a_process_and_diagnosed_again_when_it_is_free(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic")
    worker = receiver.keep()
    with hold(receiver.store.stack_folder("nothing"), "nothing", "another run"):
        receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="trades")))
        incident = settle(receiver, lambda one: one.waits, worker)
        for _ in range(10):
            worker.step()
    assert (incident.state, incident.put_off.why) == ("queued", f"the stack is held by another run (pid {os.getpid()})")
    runs = receiver.store.home / "runs"
    assert not runs.exists() or not list(runs.iterdir()), "no run folder, and so no process, for each try"
    incident = settle(receiver, lambda one: one.ended, worker)
    assert incident.recovered
    kinds = [type(entry) for entry in receiver.incidents.entries(incident)]
    assert (kinds.count(Requeued), kinds.count(Diagnosed)) == (1, 2)


def test_a_start_that_nothing_needs_any_more_is_dropped_with_the_reason(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic")
    worker = receiver.keep()
    with hold(receiver.store.stack_folder("nothing"), "nothing", "another run"):
        receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="trades")))
        settle(receiver, lambda one: one.waits, worker)
        receiver.broken.write_text("")
    incident = settle(receiver, lambda one: one.dropped, worker)
    assert (incident.state, incident.ordered) == ("not needed", None)
    assert incident.dropped.why.startswith("nothing is healthy again, and nothing was started: the stack is held by")
    assert [title.split(" after ")[0] for title in told(incident)] == ["Incident: Lag in the test", "Ended"]


def test_eight_alerts_of_one_cause_start_one_recovery(receiver: Any) -> None:
    receiver.runbook("lag", "Lag.*", "automatic", seconds="2s")
    worker = receiver.keep()
    ids = [
        receiver.post(receiver.delivery(f"group {number}", receiver.alert(f"Lag{number}", topic="trades"))).json()
        for number in range(8)
    ]
    for found in ids:
        settle(receiver, lambda one: one.ended, worker, found["incident"])
    assert len(receiver.store.runs()) == 1
    incidents = receiver.incidents.all()
    assert {(one.state, one.run) for one in incidents} == {("run passed", receiver.store.runs()[0].name)}
    assert {len(told(one)) for one in incidents} == {2}


def test_an_alert_that_comes_after_the_recovery_of_its_cause_starts_nothing_and_names_that_run(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic")
    receiver.runbook("other", "Late", "approval")
    worker = receiver.keep()
    began = later(-60)
    receiver.post(receiver.delivery("one", receiver.alert("Lag", topic="trades", since=began)))
    first = settle(receiver, lambda one: one.ended, worker)
    receiver.broken.write_text("")
    receiver.post(receiver.delivery("two", receiver.alert("Late", topic="trades", since=began)))
    late = settle(receiver, lambda one: one.dropped or one.chosen, worker)
    assert (late.state, late.dropped.run, late.dropped.runbook) == ("not needed", first.run, "lag")
    assert told(late)[-1].startswith("Recovered after 1m")
    assert told(late)[-1].endswith("by lag: Late in the test")


def test_what_starts_by_itself_does_not_wait_for_the_approval_of_another_incident(receiver: Any) -> None:
    receiver.runbook("lag", "Lag", "automatic")
    worker = receiver.keep()
    receiver.post(receiver.delivery("one", receiver.alert("Strange")))
    strange = settle(receiver, lambda one: one.waits_for_approval, worker)
    receiver.post(receiver.delivery("two", receiver.alert("Lag", topic="trades")))
    lag = settle(receiver, lambda one: one.ended, worker)
    assert (lag.recovered, lag.joined) == (True, None)
    strange = receiver.incidents.find(strange.id)
    assert (strange.joined.incident, strange.joined.fits, strange.state) == (lag.id, False, "joined")
    assert not any("Recovered" in title for title in told(strange)), "no rule says that this runbook answers it"
    receiver.post(receiver.delivery("one", receiver.alert("Strange", "resolved")))
    strange = settle(receiver, lambda one: one.closed, worker, strange.id)
    assert told(strange)[-1].endswith(" by lag: lag")


def test_eight_alerts_of_one_cause_ask_for_one_approval(receiver: Any) -> None:
    receiver.runbook("lag", "Lag.*", "approval")
    worker = receiver.keep()
    for number in range(8):
        receiver.post(receiver.delivery(f"group {number}", receiver.alert(f"Lag{number}", topic="trades")))
    for one in receiver.incidents.all():
        settle(receiver, lambda each: each.chosen, worker, one.id)
    [asks] = [one for one in receiver.incidents.all() if one.waits_for_approval]
    receiver.incidents.approve(asks.id, "ada")
    for one in receiver.incidents.all():
        settle(receiver, lambda each: each.ended, worker, one.id)
    assert len(receiver.store.runs()) == 1


OURS = """\
runbook: 1
kind: scenario
name: load
title: A load on purpose
stack: {stack}
sections: [{{steps: [{{wait: {{for: 4s}}}}, {{assert: {{that: 1 == 1}}}}]}}]
"""


@pytest.mark.parametrize("broken", [False, True])
def test_alerts_that_a_run_of_ours_causes_are_told_as_ours_and_start_nothing_while_it_runs(
    receiver: Any, *, broken: bool
) -> None:
    receiver.runbook("lag", "Lag", "automatic")
    path = receiver.folder / "load.yaml"
    path.write_text(OURS.format(stack=receiver.stack))
    worker = receiver.keep()
    load = subprocess.Popen(
        [sys.executable, "-m", "k2run", "run", str(path), "--json"],
        env={**os.environ, "K2RUN_HOME": str(receiver.store.home)},
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + 30
    while not holder(receiver.store.stack_folder("nothing")):
        assert time.monotonic() < end
        time.sleep(0.05)
    receiver.post(receiver.delivery("group", receiver.alert("Lag", topic="trades", since=later(0))))
    incident = settle(receiver, lambda one: one.waits, worker)
    [run] = receiver.store.runs()
    assert (incident.put_off.ours, incident.put_off.run) == (True, run.name)
    assert told(incident) == ["Caused by a run of ours: Lag in the test"]
    assert incident.diagnosed is None
    if not broken:
        receiver.broken.write_text("")
    assert load.wait(30) == 0
    incident = settle(receiver, lambda one: one.dropped or one.ended, worker)
    assert (incident.dropped is None, incident.recovered) == (broken, broken)
    assert len(receiver.store.runs()) == 1 + broken, "what is still broken when our run has ended is recovered"

"""What people are told of incidents, and that runs started by other commands than `run` are told of too."""

from __future__ import annotations

import email
import email.policy
import os
import subprocess
import sys
from typing import Any

import pytest

from k2run.daemon.alerts.delivery import Alert, Delivery
from k2run.daemon.alerts.incident_messages import open_messages
from k2run.daemon.alerts.incident_store import IncidentStore
from k2run.daemon.alerts.worker import Worker
from k2run.daemon.messenger import LOG


@pytest.fixture
def duty(place: Any, web: Any, recovery: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A place with recovery runbooks, as the server looks after it."""
    monkeypatch.chdir(place.folder)
    folder = place.folder / "runbooks" / "recovery"
    folder.mkdir(parents=True)
    stack = place.folder / "stack.yaml"
    for name, start, that in (("asks", "approval", "true"), ("fails", "automatic", "false")):
        (folder / f"{name}.yaml").write_text(recovery(name=name, start=start, that=that, stack=stack, broken=stack))
    place.settings(f"link: https://ops.example/\nnotifications: [{{webhook: '{web.url}'}}]\n")
    return place


def keeper_of(duty: Any, incidents: IncidentStore) -> Worker:
    stack = str(duty.folder / "stack.yaml")  # it is healthy: it would be watched for 20 s before that is said
    return Worker(duty.store, incidents, stack, messages=open_messages(duty.store), watch_s=0.2)


def deliver(incidents: IncidentStore, name: str, status: Any = "firing") -> Any:
    alert = Alert(status=status, labels={"alertname": name}, annotations={"summary": f"{name} & more"})
    return incidents.receive(Delivery(group_key=name, alerts=[alert], status=status))


def told(web: Any, incident: Any) -> list[tuple[str, str]]:
    """The messages with the link of an incident."""
    own = [one["json"] for one in web.received if one["json"]["link"] == f"https://ops.example/incidents/{incident.id}"]
    return [(one["occasion"], one["title"]) for one in own]


def settled(duty: Any) -> list[str]:
    """What the server has noted as sent."""
    log = duty.store.home / "serve" / LOG
    return log.read_text().splitlines() if log.exists() else []


def test_an_incident_is_told_when_it_opens_asks_and_is_over_once_each(duty: Any, web: Any, until: Any) -> None:
    incidents = IncidentStore(duty.store.home)
    incident = deliver(incidents, "asks")
    worker = keeper_of(duty, incidents)
    until(lambda: worker.step() or len(told(web, incident)) == 2)
    assert told(web, incident) == [
        ("incident", "Incident: asks & more: asks recovers"),
        ("approval", "asks waits for an approval: asks recovers"),
    ]
    deliver(incidents, "asks", "resolved")
    until(lambda: worker.step() or len(told(web, incident)) == 3)
    occasion, title = told(web, incident)[2]
    assert (occasion, title.partition(" after ")[0]) == ("ended", "Ended"), "no run has proven anything"
    assert title.endswith("without a recovery: asks & more")
    until(lambda: len(settled(duty)) == 3)  # what is received is not noted yet: a server that dies now tells it twice
    again = keeper_of(duty, IncidentStore(duty.store.home))  # a restarted server
    again.step()
    other = deliver(incidents, "asks")
    until(lambda: again.step() or told(web, other))
    assert len(told(web, incident)) == 3


def test_a_mail_names_the_cause_first_and_the_next_step_and_does_not_say_its_subject_again(
    duty: Any, mail: Any, until: Any
) -> None:
    server = f"smtp://127.0.0.1:{mail.server_address[1]}"
    duty.settings(f"link: https://ops.example/\nnotifications: [{{email: [ops@example.com], server: '{server}'}}]\n")
    incidents = IncidentStore(duty.store.home)
    incident = deliver(incidents, "asks")
    worker = keeper_of(duty, incidents)
    until(lambda: worker.step() or len(mail.messages) == 2)
    opened, asked = (email.message_from_string(text, policy=email.policy.default) for text in mail.messages)
    link = f"https://ops.example/incidents/{incident.id}"
    assert opened["Subject"] == "● Incident: asks & more: asks recovers"
    assert opened.get_content().splitlines() == [
        "asks recovers",
        "+ It is broken: file, 23 bytes",
        f"Next: asks waits for an approval: `k2run incidents --approve {incident.id}`",
        link,
    ]
    assert asked["Subject"] == "? asks waits for an approval: asks recovers"
    assert asked.get_content().splitlines()[2:] == [
        "Chosen because its alerts fit, and its symptoms are present",
        f"Next: `k2run incidents --approve {incident.id}`",
        link,
    ]


def test_the_run_of_an_incident_tells_nothing_of_its_own(duty: Any, web: Any, until: Any) -> None:
    incidents = IncidentStore(duty.store.home)
    incident = deliver(incidents, "asks")
    worker = keeper_of(duty, incidents)
    until(lambda: worker.step() or incidents.find(incident.id).waits_for_approval)
    incidents.approve(incident.id, "ada")
    until(lambda: worker.step() or "recovered" in dict(told(web, incident)))
    until(lambda: not duty.messengers())
    assert [one["json"]["occasion"] for one in web.received] == ["incident", "approval", "recovered"]


def test_a_recovery_that_fails_is_told_as_a_matter_for_people(duty: Any, web: Any, until: Any) -> None:
    incidents = IncidentStore(duty.store.home)
    incident = deliver(incidents, "fails")
    worker = keeper_of(duty, incidents)
    until(lambda: worker.step() or "failure" in dict(told(web, incident)), 60)
    assert dict(told(web, incident))["failure"] == "fails did not recover this: fails recovers"
    assert incidents.find(incident.id).run == duty.store.find_run("last").name


def test_a_recovery_on_the_command_line_is_told_of(duty: Any, web: Any, until: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "k2run", "recover", "--runbook=asks", "--auto", "--stack=./stack.yaml"],
        cwd=duty.folder,
        env={**os.environ, "K2RUN_HOME": str(duty.store.home)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    until(lambda: len(web.received) == 2)
    assert [one["json"]["occasion"] for one in web.received] == ["start", "recovered"]

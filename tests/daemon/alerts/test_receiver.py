from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from k2run.daemon.alerts.delivery import bears, hooks_secret, read_alertmanager, read_plain, signature_of, signed
from k2run.daemon.alerts.incident import Diagnosed
from k2run.daemon.alerts.incident_store import IncidentStore
from k2run.daemon.alerts.worker import Worker
from k2run.errors import OperatorError, UsageError
from k2run.files import Spent

if TYPE_CHECKING:
    from pathlib import Path


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
    incidents = IncidentStore(receiver.store.home).all()
    assert Counter(one.opened.key for one in incidents) == Counter({f"group {number}": 1 for number in range(20)})
    assert {alert.labels["instance"] for one in incidents for alert in one.alerts.values()} == {
        f"host-{number}" for number in range(200)
    }
    assert took < 10


def test_a_server_that_starts_anew_knows_its_incidents(receiver: Any) -> None:
    first = receiver.post(receiver.delivery("group", receiver.alert("Lag"))).json()["incident"]
    again = IncidentStore(receiver.store.home)
    assert [one.id for one in again.all()] == [first]


@pytest.mark.parametrize("token", ["", "wrong"])
def test_nobody_without_the_token_is_heard(receiver: Any, token: str) -> None:
    assert receiver.post(receiver.delivery("group", receiver.alert("Lag")), token).status_code == 401
    assert receiver.incidents.all() == []


def test_a_signed_alert_of_any_sender_is_heard(receiver: Any) -> None:
    content = {"key": "nightly", "title": "The nightly load failed", "labels": {"alertname": "Load"}}
    answer = receiver.post_signed(content).json()
    assert receiver.incidents.find(answer["incident"]).opened.title == "The nightly load failed"
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


def test_a_label_is_a_value_and_no_place_to_read_a_secret_from(receiver: Any, tmp_path: Path) -> None:
    receiver.runbook("lag", "Lag.*", "automatic")
    path = receiver.folder / "runbooks" / "recovery" / "lag.yaml"
    path.write_text(path.read_text().replace("type: string", "type: secret").replace(', default: ""', ""))
    proof = tmp_path / "proof"
    receiver.post(receiver.delivery("group", receiver.alert("LagHigh", topic=f"cmd:touch {proof}; echo trades")))
    incident = until(receiver, lambda one: one.ended is not None)
    assert "was given the name of a place (cmd:…)" in incident.ended.verdict
    assert not proof.exists()


def test_a_runbook_that_wants_approval_waits_for_it(receiver: Any) -> None:
    receiver.runbook("lag", "LagHigh", "approval")
    receiver.post(receiver.delivery("group", receiver.alert("LagHigh", topic="trades")))
    waiting = until(receiver, lambda one: one.waits_for_approval)
    worker = receiver.keep()
    worker.step()
    assert waiting.ordered is None
    receiver.incidents.approve("last", "ada")
    incident = until(receiver, lambda one: one.ended is not None, worker)
    assert incident.ordered.by == f"incident {incident.id}, approved by ada"
    assert incident.ended.verdict == "passed"
    with pytest.raises(UsageError, match="waits for no approval"):
        receiver.incidents.approve("last", "ada")


def test_an_incident_that_no_runbook_answers_says_so(receiver: Any) -> None:
    receiver.post(receiver.delivery("group", receiver.alert("NobodyKnows")))
    incident = until(receiver, lambda one: one.chosen is not None)
    assert (incident.chosen.runbook, incident.state) == ("", "open")


def test_a_runbook_about_what_the_stack_has_not_is_not_offered(receiver: Any) -> None:
    receiver.runbook("fix", "Down", "automatic")
    path = receiver.folder / "runbooks" / "recovery" / "fix.yaml"
    path.write_text(path.read_text().replace("name: fix\n", "name: fix\nrequires: [prometheus]\n"))
    receiver.post(receiver.delivery("group", receiver.alert("Down", topic="trades")))
    [incident] = receiver.incidents.all()
    receiver.incidents.add(incident, Diagnosed(stack="nothing", absent=["fix"]))
    incident = until(receiver, lambda one: one.chosen is not None)
    assert incident.chosen.runbook == ""
    assert incident.chosen.why == "fix: not applicable on this stack; no failure was recognised"
    assert incident.ordered is None


def test_the_only_stack_beside_the_server_is_looked_at_and_of_several_none_on_its_own(receiver: Any) -> None:
    runbook = receiver.folder / "runbooks" / "recovery" / "fix.yaml"
    receiver.runbook("fix", "Down", "automatic")
    lines = [line for line in runbook.read_text().splitlines() if "stack:" not in line]
    runbook.write_text("\n".join(lines))
    stacks = receiver.folder / "stacks"
    stacks.mkdir()
    (stacks / "mine.yaml").write_text("stack: 1\nname: mine\n")
    worker = Worker(receiver.store, receiver.incidents, watch_s=0.1)
    receiver.post(receiver.delivery("one", receiver.alert("Down", topic="trades")))
    one = until(receiver, lambda each: each.chosen is not None, worker)
    assert (one.diagnosed.stack, one.chosen.stack, one.chosen.automatic) == ("mine", str(stacks / "mine.yaml"), True)
    (stacks / "other.yaml").write_text("stack: 1\nname: other\n")
    receiver.post(receiver.delivery("two", receiver.alert("Down", topic="trades")))
    two = until(receiver, lambda each: each.id != one.id and each.chosen is not None, worker)
    assert "there are 2 stacks here, and none was chosen" in two.diagnosed.lines[0]
    assert (two.chosen.stack, two.chosen.automatic, two.ordered) == ("", False, None)
    assert "not said on which stack" in two.chosen.why


def test_an_alert_that_is_resolved_and_belongs_to_no_incident_is_no_news(receiver: Any) -> None:
    answer = receiver.post(receiver.delivery("stray", receiver.alert("Fire", "resolved")))
    assert (answer.status_code, answer.json()["incident"]) == (200, None)
    assert receiver.post(receiver.delivery("other", receiver.alert("Lag"))).json()["state"] == "open"
    assert [one.opened.key for one in receiver.incidents.all()] == ["other"]


def test_a_resolved_incident_starts_nothing(receiver: Any) -> None:
    receiver.runbook("lag", "LagHigh", "automatic")
    receiver.post(receiver.delivery("group", receiver.alert("LagHigh")))
    receiver.post(receiver.delivery("group", receiver.alert("LagHigh", "resolved")))
    for _ in range(4):
        receiver.keep().step()
    assert receiver.incidents.find("last").ordered is None


def test_the_secret_is_made_once_and_private(tmp_path: Any) -> None:
    made = hooks_secret(tmp_path)
    assert len(made) > 30
    assert hooks_secret(tmp_path) == made
    assert (tmp_path / "hooks-secret").stat().st_mode & 0o777 == 0o600


def test_a_signed_delivery_is_taken_once_and_only_near_its_time(receiver: Any) -> None:
    content = {"key": "nightly", "status": "firing"}
    for late_s in (400, -400, 10**9):
        refused = receiver.post_signed(content, late_s=late_s)
        assert refused.status_code == 401
        assert "server's clock" in refused.json()["error"]
    first = receiver.post_signed(content)
    assert first.status_code == 200
    headers = {name: first.request.headers[name] for name in ("x-k2run-time", "x-k2run-signature")}
    again = receiver.send(first.request.content, headers)
    assert (again.status_code, receiver.send(first.request.content, {**headers, "x-k2run-time": "x"}).status_code) == (
        409,
        401,
    )
    shouted = {**headers, "x-k2run-signature": headers["x-k2run-signature"].upper()}
    assert receiver.send(first.request.content, shouted).status_code == 409
    known = Spent(receiver.incidents.folder / "signatures", 600)
    assert not known.take(headers["x-k2run-signature"]), "a restarted server knows it too"


def test_a_delivery_that_was_refused_can_be_sent_again(receiver: Any) -> None:
    refused = receiver.post_signed({"key": ""})
    assert refused.status_code == 400
    headers = {name: refused.request.headers[name] for name in ("x-k2run-time", "x-k2run-signature")}
    assert receiver.send(refused.request.content, headers).status_code == 400


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"key": ' * 50_000, b'{"key": "\xff"}', b"\xff\xfe", b""])
def test_what_is_no_json_is_refused_with_a_reason(body: bytes) -> None:
    for read in (read_plain, read_alertmanager):
        with pytest.raises(UsageError, match="not a"):
            read(body)


@pytest.mark.parametrize("text", ["", " \n", "\n\n"])
def test_an_empty_secret_is_refused_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("K2RUN_HOOKS_SECRET", text)
    with pytest.raises(OperatorError, match="is empty"):
        hooks_secret(tmp_path)
    monkeypatch.delenv("K2RUN_HOOKS_SECRET")
    (tmp_path / "hooks-secret").touch(0o600)
    (tmp_path / "hooks-secret").write_text(text)
    with pytest.raises(OperatorError, match="is empty"):
        hooks_secret(tmp_path)
    assert not bears("Bearer ", "")
    assert not signed(signature_of("1", b"", ""), "1", b"", "")


def test_a_secret_that_others_can_read_or_have_laid_there_is_refused(tmp_path: Path) -> None:
    hooks_secret(tmp_path)
    path = tmp_path / "hooks-secret"
    path.chmod(0o640)
    with pytest.raises(OperatorError, match="can be read by others"):
        hooks_secret(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link"):
        hooks_secret(tmp_path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(UsageError, match="no plain file"):
        hooks_secret(tmp_path)


def test_of_many_who_make_the_secret_all_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = set(pool.map(lambda _: hooks_secret(tmp_path), range(64)))
    assert len(made) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hooks-secret"]


def until(receiver: Any, true: Any, worker: Any = None) -> Any:
    """The newest incident, when something is true of it."""
    worker = worker or receiver.keep()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        worker.step()
        incident = receiver.incidents.find("last")
        if true(incident):
            return incident
        time.sleep(0.1)
    raise AssertionError(incident)

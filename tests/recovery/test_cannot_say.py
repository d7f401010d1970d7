"""What cannot be seen is evidence for nothing: not of a failure, and not of health."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.app.diagnose import lines_of
from k2run.language.loader import load_runbook
from k2run.recovery.diagnosis import Verdict
from k2run.recovery.looks import suspicion
from k2run.recovery.symptoms import Presence

FOREIGN = """\
stack: 1
name: foreign
services:
  store: {run: process, command: [sleep, "600"]}
  worker: {run: process, command: [sleep, "600"], needs: [store]}
  stream: {run: external}
"""
RUNS = "{name: It runs, service.status: {service: worker}, expect: result.running}"
SILENT = """\
{name: It produces nothing, metrics.sample: {service: stream, metrics: [made], during: 1s}, \
expect: "result.metrics['made'].increase == 0"}\
"""
STOPPED = "{name: It has ended, service.status: {service: worker}, expect: result.state == 'stopped'}"
PATH = """\
runbook: 1
kind: readiness
name: path
sections: [{name: Path, steps: [{name: Rows come out, file.lines: {path: ROWS}, expect: result.lines > 0}]}]
"""


def recovery(site, name: str, given: str, symptoms: str, top: str = ""):
    return site.runbook(
        f"runbook: 1\nkind: recovery\nname: {name}\n{top}"
        + (f"preconditions: [{given}]\n" if given else "")
        + f"symptoms: [{symptoms}]\n"
        "sections: [{name: Repair, steps: [{assert: {that: true}}]}]\n"
    )


@pytest.fixture
def foreign(site):
    (site.folder / "stack.yaml").write_text(FOREIGN.replace("foreign", "sleepers"))
    return site


def test_what_holds_on_a_healthy_stack_is_no_evidence(site):
    half = site.symptoms("half", f"- {RUNS}\n- {STOPPED[:-1]}, severity: info}}\n")
    given = recovery(site, "given", RUNS, f"{STOPPED[:-1]}, severity: info}}")
    found = {one.runbook: one for one in site.diagnose(half, given).suspects}
    assert (found["given"].verdict, found["given"].share, found["given"].weight) == (Verdict.RULED_OUT, 0, 0)
    assert [one.precondition for one in found["given"].sightings] == [True, False]


def test_a_precondition_that_does_not_hold_rules_out(site):
    site.kill("worker")
    found = site.diagnose(recovery(site, "given", RUNS, STOPPED)).suspects[0]
    assert (found.verdict, found.gone) == (Verdict.RULED_OUT, False)


def test_a_failure_whose_telling_symptom_cannot_be_seen_is_not_named(foreign):
    """On the real platform this was "No trades arrive, 100 %": the broker answered, the stream had no metrics."""
    stalled = recovery(foreign, "stalled", RUNS, SILENT, "requires: [stream]\n")
    found = foreign.diagnose(stalled)
    assert [one.verdict for one in found.suspects] == [Verdict.CANNOT_SAY]
    assert not found.matches
    said = "\n".join(lines_of(found))
    assert "undecided on this stack; these checks gave no answer:" in said
    assert "? It produces nothing: " in said
    assert "what can be seen is healthy; 2 cannot be seen" in said
    assert "stream: no probe" in said
    assert (found.healthy, found.word) == (True, "HEALTHY AS FAR AS SEEN")


def test_one_that_can_be_seen_by_another_symptom_is_named_as_before(foreign):
    stalled = recovery(foreign, "stalled", RUNS, f"{STOPPED}, {SILENT[:-1]}, severity: info}}", "requires: [stream]\n")
    assert foreign.diagnose(stalled).suspects[0].verdict is Verdict.RULED_OUT
    foreign.kill("worker")
    found = foreign.diagnose(recovery(foreign, "ended", "", f"{STOPPED}, {SILENT[:-1]}, severity: info}}"))
    assert [one.runbook for one in found.matches] == ["ended"]


def test_a_loop_over_services_of_which_the_stack_has_some_says_what_it_sees(site):
    text = STOPPED.replace("{service: worker}", "{service: '{{ item }}'}, loop: [worker, no-such]")
    site.kill("worker")
    assert [one.runbook for one in site.diagnose(recovery(site, "some", "", text)).matches] == ["some"]


def test_a_stack_of_which_nothing_can_be_seen_is_not_healthy(site):
    own = (site.folder / "stack.yaml").read_text()
    (site.folder / "stack.yaml").write_text("stack: 1\nname: sleepers2\nservices: {api: {run: external}}\n")
    found = site.diagnose()
    assert (found.healthy, found.word) == (False, "CANNOT SAY")
    assert next(lines_of(found)).startswith("sleepers2: nothing of it can be seen")
    code, said = site.command("status", "--stack", "stack.yaml")
    assert (code, "cannot be seen, so nothing is known of them" in said) == (1, True)
    code, said = site.command("status", "--stack", "stack.yaml", "--json")
    [row] = json.loads(said)["services"]
    assert (row["works"], row["state"], row["restarts"]) == (None, "unknown", None)
    (site.folder / "stack.yaml").write_text(own)


def test_a_silent_external_service_is_unhealthy_and_one_without_a_probe_unknown(site):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (site.folder / "stack.yaml").write_text(
        FOREIGN.replace("foreign", "sleepers") + f"  api: {{run: external, ready: {{tcp: '127.0.0.1:{port}'}}}}\n"
    )
    found = site.diagnose()
    assert [one.service for one in found.ailing] == ["api"]
    assert found.not_seen == ["stream: no probe"]


@pytest.fixture
def path(site):
    """A stack with a data path; gives the file that shows that it works."""
    rows = site.folder / "rows"
    rows.write_text("a row\n")
    (site.folder / "path.yaml").write_text(PATH.replace("ROWS", str(rows)))
    text = (site.folder / "stack.yaml").read_text()
    (site.folder / "stack.yaml").write_text(text.replace("name: sleepers", "name: sleepers\ndata_path: path.yaml"))
    return rows


def test_a_stack_whose_data_path_is_broken_is_never_healthy(site, path):
    found = site.diagnose(site.repair("store"))
    assert (found.healthy, [one.presence for one in found.data_path]) == (True, [Presence.PRESENT])
    assert site.command("status", "--stack", "stack.yaml")[0] == 0
    path.write_text("")
    found = site.diagnose(site.repair("store"))
    assert (found.healthy, found.word) == (False, "UNHEALTHY")
    said = "\n".join(lines_of(found))
    assert "no failure was recognised, but the data path is not confirmed to work" in said
    assert "Rows come out: " in said
    for command in ("status", "diagnose"):
        code, said = site.command(command, "--stack", "stack.yaml")
        assert (code, "Rows come out: " in said) == (1, True), said
    assert json.loads(site.command("status", "--stack", "stack.yaml", "--json")[1])["data_path"][0]["works"] is False


def test_a_window_keeps_a_data_path_that_was_broken_in_one_of_its_looks(site, path):
    from k2run.recovery.looks import together

    well = site.diagnose()
    path.unlink()
    ill = site.diagnose()
    assert [together([well, ill, well], 1.0).healthy, together([well, well], 1.0).healthy] == [False, True]


def test_a_data_path_that_does_not_apply_is_not_seen_to_work(site, path):
    (site.folder / "path.yaml").write_text(
        PATH.replace("file.lines: {path: ROWS}, expect: result.lines > 0", "kafka.rate: {topic: t, window: 1s}")
    )
    assert not site.diagnose().healthy


def test_an_unattended_recovery_starts_nothing_that_is_not_confirmed(site):
    code, said = site.command("recover", "worker-down", "--auto", "--stack", "stack.yaml")
    assert code == 7, said
    assert "not running worker-down: its symptoms are not confirmed" in said
    assert "Its process has ended" in said
    assert site.store.runs() == []
    site.kill("worker")
    assert site.command("recover", "worker-down", "--auto", "--stack", "stack.yaml")[0] == 0


def test_a_failure_that_comes_and_goes_keeps_its_weights_when_it_is_looked_at_again(site):
    site.kill("worker")
    one = site.symptoms("one", f"- {STOPPED}\n- {RUNS[:-1]}, severity: info}}\n")
    other = site.symptoms("other", f"- {STOPPED}\n")
    before = next(each for each in site.diagnose(one, other).suspects if each.runbook == "one")
    again = suspicion(one, site.stack(), site.catalogue, _never(), before)
    assert (again.share, again.verdict) == (before.share, before.verdict)


def _never():
    import threading

    return threading.Event()


@pytest.mark.parametrize("file", sorted(Path("runbooks/recovery").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_recovery_counts_no_bare_answer_as_evidence(file):
    book = load_runbook(file, Catalogue())
    bare = {"result.answered", "result.running", "result.state != 'stopped'", "result.cpu_percent < 10"}
    assert not [step.name for step in book.symptoms if {each.text for each in step.expect} & bare]


UNREACHED = {
    "docker": ("{run: docker, container: shop-db}", "no Docker engine answers"),
    "docker-silent": (
        "{run: docker, container: shop-db, ready: {tcp: '127.0.0.1:PORT'}}",
        "no Docker engine answers",
    ),
    "ssh": (
        "{run: ssh, host: 127.0.0.1, status: [systemctl, is-active, db]}",
        "its host 127.0.0.1 cannot be reached through ssh",
    ),
    "command": ("{run: external, status: [no-such-program-here]}", "no-such-program-here: No such file"),
    "shell": ("{run: external, status: [sh, -c, no-such-program-here]}", "its `status` command exits 127"),
}


@pytest.fixture(params=UNREACHED)
def unreached(site, request):
    """A stack in which what runs `db` gives no answer; gives the site and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    form, reason = UNREACHED[request.param]
    away = f"connections: {{docker: {{url: 'unix://{site.folder}/none.sock'}}, ssh: {{port: {port}}}}}\n"
    text = (site.folder / "stack.yaml").read_text() + f"  db: {form.replace('PORT', port)}\n"
    (site.folder / "stack.yaml").write_text(text.replace("services:", f"{away}services:"))
    return site, reason


def test_a_service_whose_engine_host_or_command_gives_no_answer_is_neither_healthy_nor_failed(unreached):
    site, reason = unreached
    found = site.diagnose(site.repair("store"))
    [told] = found.unreached
    assert told.startswith("db: ")
    assert reason in told
    assert (found.healthy, found.word, found.ailing, found.not_seen) == (False, "CANNOT SAY", [], [])
    said = "\n".join(lines_of(found))
    assert "services that gave no answer now; they may be healthy or not:\n  db: " in said
    code, said = site.command("status", "--stack", "stack.yaml", "--json")
    row = json.loads(said)["services"][-1]
    assert (code, row["works"], row["state"], row["unreached"]) == (1, None, "unknown", True)
    assert reason in row["detail"]
    code, said = site.command("status", "--stack", "stack.yaml")
    assert (code, "gave no answer now, so they may be healthy or not: db" in said) == (1, True), said
    code, said = site.command("diagnose", "--stack", "stack.yaml")
    assert (code, reason in said) == (1, True), said


def test_nothing_is_recovered_for_a_service_that_gives_no_answer_and_the_hint_says_what_to_do(unreached):
    site, reason = unreached
    (site.folder / "runbooks" / "recovery" / "db-down.yaml").write_text(DB_DOWN)
    code, said = site.command("recover", "--auto", "--stack", "stack.yaml")
    assert (code, reason in said) == (1, True), said
    assert "hint: make what runs the services above answer" in said
    assert site.store.runs() == []
    code, said = site.command("recover", "db-down", "--auto", "--stack", "stack.yaml")
    assert (code, "its symptoms are not confirmed" in said) == (7, True), said


DB_DOWN = """\
runbook: 1
kind: recovery
name: db-down
title: The database does not run
requires: [db]
symptoms:
  - name: It is not running
    service.status: {service: db}
    expect: not result.running
  - name: Something is not running
    service.roll_call: {}
    expect: result.down | length > 0
sections: [{name: Repair, steps: [{service.start: {service: db}}]}]
"""


def test_a_service_that_answers_is_healthy_though_what_runs_it_does_not(site):
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        away = f"connections: {{docker: {{url: 'unix://{site.folder}/none.sock'}}}}\n"
        db = f"  db: {{run: docker, container: shop-db, ready: {{tcp: '127.0.0.1:{port}'}}}}\n"
        (site.folder / "stack.yaml").write_text(
            (site.folder / "stack.yaml").read_text().replace("services:", f"{away}services:") + db
        )
        found = site.diagnose(site.repair("store"))
        assert (found.healthy, found.unreached, found.ailing) == (True, [], [])
        code, said = site.command("status", "--stack", "stack.yaml", "--json")
        row = json.loads(said)["services"][-1]
    assert (code, row["works"], row["state"], row["unreached"]) == (0, True, "unknown", False)


def test_the_page_says_of_a_service_that_gives_no_answer_that_it_cannot_be_seen(unreached, monkeypatch):
    from k2run.web.listings import SiteCatalogue

    site, reason = unreached
    (site.folder / "runbooks" / "stacks").mkdir()
    (site.folder / "stack.yaml").rename(site.folder / "runbooks" / "stacks" / "sleepers.yaml")
    monkeypatch.chdir(site.folder)
    health = SiteCatalogue(site.store).health("sleepers")
    (site.folder / "runbooks" / "stacks" / "sleepers.yaml").rename(site.folder / "stack.yaml")
    db = health.services[-1]
    assert (health.light, db.light, db.said) == ("warn", "warn", "cannot be seen")
    assert reason in db.detail

from __future__ import annotations

import msgspec

from k2run.engine.journal import read_journal
from k2run.recovery.timeline import timeline


def test_auto_recovers_two_failures_in_a_sound_order_and_says_healthy(site):
    site.kill("worker")
    site.kill("store")
    code, said = site.command("recover", "--stack", "stack.yaml", "--auto")
    assert code == 0, said
    assert said.index("The store does not run, on sleepers") < said.index("The worker does not run, on sleepers")
    assert "sleepers is healthy" in said
    assert site.pid("store")
    assert site.pid("worker")


def test_diagnose_says_healthy_or_names_the_runbook(site):
    assert site.command("diagnose", "--stack", "stack.yaml")[0] == 0
    site.kill("worker")
    code, said = site.command("diagnose", "--stack", "stack.yaml")
    assert code == 1
    assert "recover with: k2run recover worker-down" in said
    told = msgspec.json.decode(site.command("diagnose", "--stack", "stack.yaml", "--json")[1])
    assert told["suspects"][0]["runbook"] == "worker-down"
    assert told["suspects"][0]["rto"] == 20


def test_a_recovery_by_name_leaves_what_it_started_up_and_writes_a_timeline(site):
    site.kill("worker")
    code, said = site.command("recover", "worker-down", "--stack", "stack.yaml", "--auto")
    assert code == 0, said
    assert site.pid("worker")
    folder = site.store.find_run("last")
    told = (folder / "timeline.md").read_text()
    assert "# The worker does not run" in told
    assert "✓ Start it (passed" in told
    assert "The data path works: rto" in told


def test_every_line_of_a_timeline_names_its_line_in_the_journal(site):
    site.kill("worker")
    site.command("recover", "worker-down", "--stack", "stack.yaml", "--auto")
    events = read_journal(site.store.find_run("last"))
    rows = [line for line in timeline(events).splitlines() if line.startswith("| ") and "#" in line]
    assert rows
    for row in rows:
        number = int(row.rstrip(" |").rpartition("#")[2])
        assert events[number - 1].at[11:19] in row


def test_without_a_terminal_recover_asks_for_auto(site):
    code, said = site.command("recover", "--stack", "stack.yaml")
    assert code == 2
    assert "--auto" in said


def test_what_no_runbook_helps_against_ends_with_exit_code_1(site):
    (site.folder / "runbooks" / "recovery" / "worker-down.yaml").unlink()
    site.kill("worker")
    code, said = site.command("recover", "--stack", "stack.yaml", "--auto")
    assert code == 1
    assert "no runbook is left to try" in said


def test_auto_does_not_destroy(site):
    text = (site.folder / "runbooks" / "recovery" / "worker-down.yaml").read_text()
    careless = text.replace("service.start: {service: worker}", "kafka.delete_topic: {topic: trades}")
    (site.folder / "runbooks" / "recovery" / "worker-down.yaml").write_text(careless)
    site.kill("worker")
    code, said = site.command("recover", "worker-down", "--stack", "stack.yaml", "--auto")
    assert code == 2
    assert "destroys" in said

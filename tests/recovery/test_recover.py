from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from k2run.engine.journal import read_journal
from k2run.recovery.account import timeline

if TYPE_CHECKING:
    from pathlib import Path


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
    assert said.index("no failure can be named yet: looking again") < said.index("no recovery runbook is left to try")


def change(site, before: str, after: str) -> None:
    file = site.folder / "runbooks" / "recovery" / "worker-down.yaml"
    file.write_text(file.read_text().replace(before, after))


def free_after_the_first_try(site, freed: Path) -> None:
    while not any('"run_finished"' in (run / "journal.jsonl").read_text() for run in site.store.runs()):
        time.sleep(0.05)
    freed.write_text("now")


def test_a_cause_that_lasts_is_met_by_trying_again_within_the_objective(site):
    freed = site.folder / "freed"
    change(site, "rto: 20s", "rto: 60s")
    change(
        site,
        "      - name: Start it\n",
        f"      - name: Freed\n        file.size: {{path: {freed}}}\n      - name: Start it\n",
    )
    site.kill("worker")
    later = threading.Thread(target=free_after_the_first_try, args=(site, freed))
    later.start()
    code, said = site.command("recover", "--stack", "stack.yaml", "--auto")
    later.join()
    assert code == 0, said
    assert "worker-down is tried again in" in said
    assert re.search(r"worker-down: recovered \(tried \d times\)", said)
    assert "did not help" not in said


def test_auto_says_that_a_recovery_changed_nothing_and_stops_when_its_objective_is_over(site):
    change(site, "service.start: {service: worker}", "assert: {that: false}")
    change(site, "rto: 20s", "rto: 3s")
    site.kill("worker")
    code, said = site.command("recover", "--stack", "stack.yaml", "--auto")
    assert code == 1
    assert "worker-down: changed nothing" in said


def test_auto_says_that_a_recovery_made_it_better_though_it_did_not_pass(site):
    change(
        site,
        "service.start: {service: worker}",
        "service.start: {service: worker}\n      - {name: No, assert: {that: false}}",
    )
    site.kill("worker")
    code, said = site.command("recover", "--stack", "stack.yaml", "--auto")
    assert code == 0, said
    assert "worker-down: made it better" in said


def test_auto_does_not_destroy(site):
    text = (site.folder / "runbooks" / "recovery" / "worker-down.yaml").read_text()
    careless = text.replace("service.start: {service: worker}", "kafka.delete_topic: {topic: trades}")
    (site.folder / "runbooks" / "recovery" / "worker-down.yaml").write_text(careless)
    site.kill("worker")
    code, said = site.command("recover", "worker-down", "--stack", "stack.yaml", "--auto")
    assert code == 6
    assert "kafka.delete_topic is destructive, and there is no operator to approve it" in said


def test_why_a_service_ended_stands_on_the_screen_and_in_the_timeline(site):
    stack = site.folder / "stack.yaml"
    text = 'worker: {run: process, command: [sleep, "600"], needs: [store]}'
    line = "OSError: [Errno 28] No space left on device"
    dying = f"worker: {{run: process, command: [sh, -c, \"echo '{line}'; exit 1\"], needs: [store]}}"
    site.kill("worker")
    stack.write_text(stack.read_text().replace(text, dying))
    site.command("up", "--stack", "stack.yaml")
    assert f"why: {line} (log of worker)" in site.command("status", "--stack", "stack.yaml")[1]
    stack.write_text(stack.read_text().replace(dying, text))
    said = site.command("recover", "--stack", "stack.yaml", "--auto")[1]
    assert f"worker: disk full (log of worker): {line}" in said
    assert line in (site.store.find_run("last") / "timeline.md").read_text().replace("\\", "")

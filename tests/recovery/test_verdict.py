"""The verdict of a recovery is the truth: a clock that did not stop by its condition is missed."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.engine.events import Bound, ClockStopped, Objected, SectionStarted
from k2run.engine.journal import read_journal
from k2run.engine.run import resume, run
from k2run.recovery.repairs import prove_alone

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Site

FAILING = """\
    runbook: 1
    kind: KIND
    name: worker-down
    title: The worker does not run
    objective: {rto: 20s}
    symptoms:
      - name: Its process has ended
        service.status: {service: worker}
        expect: result.state == 'stopped'
    steady_state:
      - {name: It runs, service.status: {service: worker}, expect: result.running}
    sections:
      - name: Repair
        steps:
          - {name: Start it, service.start: {service: worker}}
      - name: Prove it
        clock: rto
        steps:
          - {name: A proof, assert: {that: false}}
"""


def read(site: Site, kind: type[Any]) -> list[Any]:
    return [event for event in site.seen if isinstance(event, kind)]


def test_a_recovery_whose_proof_failed_has_not_met_its_objective_though_the_steady_state_holds(site):
    finished = run(site.request(site.runbook(FAILING.replace("KIND", "recovery"))))
    assert finished.exit_code == 1
    [clock] = read(site, ClockStopped)
    assert clock.objective is Bound.MISSED
    assert "the section 'Prove it' failed" in clock.message
    [objective] = read(site, Objected)
    assert objective.bound is Bound.MISSED
    assert "not proven" in objective.value


def test_a_scenario_whose_recovery_failed_has_not_met_its_objective_either(site):
    text = FAILING.replace("KIND", "scenario").replace(
        "    sections:\n",
        "    sections:\n      - name: Break\n        steps:\n"
        "          - {name: Hold it, service.pause: {service: worker}}\n",
    )
    text = text[: text.index("    symptoms:")] + text[text.index("    steady_state:") :]
    finished = run(site.request(site.runbook(text)))
    assert finished.exit_code == 1
    assert [clock.objective for clock in read(site, ClockStopped)] == [Bound.MISSED]
    assert [objective.bound for objective in read(site, Objected)] == [Bound.MISSED]


def test_a_repair_whose_steps_failed_is_not_repaired_though_its_symptoms_are_gone(site):
    runbook = site.runbook(FAILING.replace("KIND", "recovery"))
    alone = msgspec.structs.replace(runbook, steady_state=())
    assert run(site.request(alone, inside=prove_alone(runbook))).exit_code == 1
    clock = read(site, ClockStopped)[-1]
    assert clock.clock == "repaired"
    assert clock.objective is Bound.MISSED
    assert "not proven" in clock.message


def killed(site: Site, text: str, after: str, ago: timedelta) -> Path:
    """A recovery that died right after an event, some time ago."""
    run(site.request(site.runbook(text)))
    journal = site.store.find_run("last") / "journal.jsonl"
    events = [msgspec.json.decode(line) for line in journal.read_bytes().splitlines()]
    last = next(
        number for number, event in enumerate(events) if after in str(event) and event["event"] != "run_started"
    )
    for event in events:
        event["at"] = (datetime.fromisoformat(event["at"]) - ago).isoformat(timespec="milliseconds")
    journal.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events[: last + 1]))
    site.seen.clear()
    return journal.parent


WORKING = FAILING.replace("that: false", "that: true").replace("KIND", "recovery")


def test_a_recovery_that_is_resumed_counts_from_the_failure_and_looks_at_the_steady_state(site):
    folder = killed(site, WORKING, "Start it", timedelta(seconds=300))
    finished = resume(site.request(site.runbook(WORKING)), folder)
    assert finished.exit_code == 1, "5 minutes are more than the 20 s that were promised"
    [clock] = read(site, ClockStopped)
    assert clock.seconds >= 300
    assert clock.objective is Bound.MISSED
    assert "Steady state again" in [event.name for event in read(site, SectionStarted)]


def test_a_recovery_resumed_after_its_clock_stopped_keeps_its_time_and_looks_at_the_steady_state_again(site):
    text = WORKING + "      - name: Count\n        steps:\n          - {name: Cost, assert: {that: true}}\n"
    folder = killed(site, text, "Cost", timedelta(seconds=300))
    assert resume(site.request(site.runbook(text)), folder).exit_code == 0
    clocks = [event for event in read_journal(folder) if isinstance(event, ClockStopped)]
    assert len(clocks) == 1
    assert clocks[0].seconds < 20
    assert "Steady state again" in [event.name for event in read(site, SectionStarted)]


def test_a_recovery_resumed_after_its_clock_stopped_fails_when_the_steady_state_is_gone_by_then(site):
    text = WORKING + "      - name: Count\n        steps:\n          - {name: Cost, assert: {that: true}}\n"
    folder = killed(site, text, "Cost", timedelta(seconds=300))
    site.kill("worker")
    assert resume(site.request(site.runbook(text)), folder).exit_code == 1

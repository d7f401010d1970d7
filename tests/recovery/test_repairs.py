"""While another failure is known a repair is proven by its own symptoms; the whole steady state follows once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.actions.deadline import Deadline
from k2run.engine.events import ClockStopped, Objected, RunFinished, SectionStarted
from k2run.engine.journal import read_journal
from k2run.engine.run import run
from k2run.recovery.diagnosis import Diagnosis
from k2run.recovery.looks import diagnose
from k2run.recovery.repairs import Clocks, Repairs
from k2run.stack import lifecycle

if TYPE_CHECKING:
    from k2run.engine.events import AnyEvent
    from k2run.engine.store import Store
    from k2run.language.model import Runbook

REPAIR = """\
runbook: 1
kind: recovery
name: SERVICE-down
title: The SERVICE does not run
requires: [SERVICE]
objective: {rto: 20s}
symptoms:
  - name: Its process has ended
    service.status: {service: SERVICE}
    expect: result.state == 'stopped'
steady_state:
  - name: The store runs
    service.status: {service: store}
    expect: result.running
  - name: The worker runs
    service.status: {service: worker}
    expect: result.running
sections:
  - name: Repair
    steps:
      - name: Start it
        service.start: {service: SERVICE}
  - name: Prove
    clock: rto
    steps:
      - name: All is well
        assert: {that: true}
"""

STARTED = "        service.start: {service: store}\n"
BOTH = REPAIR.replace("SERVICE", "store").replace(
    STARTED, f"{STARTED}      - name: And its worker\n        service.start: {{service: worker}}\n"
)
"""A recovery of the store that starts the worker too."""


@pytest.fixture
def together(site):
    """A site on which each recovery wants both services to run."""
    for service in ("store", "worker"):
        (site.folder / "runbooks" / "recovery" / f"{service}-down.yaml").write_text(REPAIR.replace("SERVICE", service))
    return site


def runs(store: Store) -> list[list[AnyEvent]]:
    return [read_journal(folder) for folder in store.runs()]


def clocks(events: list[AnyEvent]) -> dict[str, ClockStopped]:
    return {event.clock: event for event in events if isinstance(event, ClockStopped)}


def sections(events: list[AnyEvent]) -> list[str]:
    return [event.name for event in events if isinstance(event, SectionStarted)]


def test_the_first_of_two_repairs_stops_its_clock_although_the_other_is_still_to_be_done(together):
    together.kill("store")
    together.kill("worker")
    code, said = together.command("recover", "--stack", "stack.yaml", "--auto")
    assert code == 0, said
    assert "store-down is proven by its own symptoms; its steady state comes after worker-down" in said
    first, last = runs(together.store)
    assert sections(first) == ["Repair", "Its own symptoms are gone"]
    repaired = clocks(first)["repaired"]
    assert repaired.objective == "met"
    assert "rto" not in clocks(first)
    assert [event.objective for event in first if isinstance(event, Objected)] == ["repaired <= 20"]
    assert sections(last) == ["Repair", "Prove", "Steady state again"]
    proven = clocks(last)["rto"]
    assert proven.seconds > repaired.seconds  # it has waited for the first, and its clock says so
    assert {event.exit_code for events in (first, last) for event in events if isinstance(event, RunFinished)} == {0}
    told = [(folder / "timeline.md").read_text() for folder in together.store.runs()]
    assert ["Repaired (its own symptoms are gone" in one for one in told] == [True, False]
    assert ["The data path works" in one for one in told] == [False, True]


def test_the_whole_is_proven_once_though_the_other_failure_went_by_itself(together):
    (together.folder / "runbooks" / "recovery" / "store-down.yaml").write_text(BOTH)
    together.kill("store")
    together.kill("worker")
    code, said = together.command("recover", "--stack", "stack.yaml", "--auto")
    assert code == 0, said
    repair, proof = runs(together.store)
    assert list(clocks(repair)) == ["repaired"]
    assert sections(proof) == ["Prove", "Steady state again"]
    assert clocks(proof)["rto"].seconds > clocks(repair)["repaired"].seconds


def test_a_proof_that_was_owed_and_fails_is_no_success(together):
    (together.folder / "runbooks" / "recovery" / "store-down.yaml").write_text(
        BOTH.replace("assert: {that: true}", "assert: {that: false}")
    )
    together.kill("store")
    together.kill("worker")
    code, said = together.command("recover", "--stack", "stack.yaml", "--auto")
    assert "now the whole steady state is" in said
    assert code == 1, said


def plan(site, *recoveries: Runbook) -> tuple[Repairs, Diagnosis]:
    stack = site.stack()
    return Repairs(recoveries, stack, site.catalogue, 4), diagnose(recoveries, stack, site.catalogue)


def test_failures_that_want_nothing_in_common_are_each_proven_in_full(site):
    repairs, _ = plan(site, site.repair("store"), site.repair("worker"))
    site.kill("store")
    site.kill("worker")
    repairs, found = plan(site, site.repair("store"), site.repair("worker"))
    repair = repairs.next(found)
    assert repair is not None
    assert (repair.runbook.name, repair.beside) == ("store-down", ())


def test_nothing_is_left_to_do_on_a_stack_that_is_well(site):
    repairs, found = plan(site, site.repair("store"))
    assert found.healthy
    assert repairs.next(found) is None


def test_a_repair_that_proved_the_same_settles_what_was_owed(together):
    together.kill("store")
    together.kill("worker")
    recoveries = [together.runbook(REPAIR.replace("SERVICE", service)) for service in ("store", "worker")]
    repairs, found = plan(together, *recoveries)
    first = repairs.next(found)
    assert first is not None
    assert first.beside == ("worker-down",)
    repairs.done(first, Clocks())
    lifecycle.start(together.stack(), ["store"], Deadline(10))
    second = repairs.next(diagnose(recoveries, together.stack(), together.catalogue))
    assert second is not None
    assert second.beside == ()
    proven = Clocks()
    proven.see(ClockStopped(clock="rto", seconds=1.0))
    repairs.done(second, proven)
    well = plan_healthy(found)
    assert repairs.next(well) is None


def plan_healthy(found: Diagnosis) -> Diagnosis:
    return Diagnosis(stack=found.stack, suspects=[], ailing=[], probes=found.probes, seconds=found.seconds)


def test_a_recovery_whose_own_proof_failed_does_not_wait_for_the_steady_state(together):
    failing = REPAIR.replace("SERVICE", "store").replace("assert: {that: true}", "assert: {that: false}")
    together.kill("worker")  # so the steady state does not hold, and nothing of this recovery would bring it about
    run(together.request(together.runbook(failing)))
    [stopped] = [event for event in together.seen if isinstance(event, ClockStopped)]
    assert stopped.message.startswith("the steady state did not come back: ")
    assert "worker" in stopped.message
    assert stopped.seconds < 60  # otherwise it would be checked for 120 s

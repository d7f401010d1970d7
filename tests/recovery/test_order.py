"""Two failures at once are repaired in an order in which the first repair can succeed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from moved_ports import moved_ports, variables
from msgspec.structs import replace

from k2run.actions.catalogue import Catalogue
from k2run.language.loader import load_runbook
from k2run.recovery.diagnosis import Order, Suspect, Verdict, arranged
from k2run.recovery.looks import diagnose
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from k2run.language.model import Runbook

RECOVERIES = Path(__file__).parent.parent.parent / "runbooks" / "recovery"


def suspect(runbook: Runbook) -> Suspect:
    return Suspect(
        runbook=runbook.name,
        title=runbook.title,
        path=runbook.path,
        verdict=Verdict.MATCHES,
        share=1.0,
        weight=1.0,
        needed_by=0,
        rto=None,
        sightings=[],
    )


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("api-down", "stream-down"),  # the proof of the stream's recovery asks the API
        ("api-down", "consumer-crashed"),
        ("broker-down", "consumer-crashed"),  # which the broker's recovery starts itself
        ("broker-down", "stream-down"),
    ],
)
def test_a_recovery_waits_for_the_one_that_repairs_what_it_works_with(tmp_path: Path, first: str, then: str) -> None:
    runbooks = {name: load_runbook(RECOVERIES / f"{name}.yaml", Catalogue()) for name in (first, then)}
    stack = load_stack("sandbox", near=None, home=tmp_path, overrides={})
    order = Order([*runbooks.values()], stack, Catalogue())
    for names in ([first, then], [then, first]):
        found = order.first([suspect(runbooks[name]) for name in names])
        assert found is not None
        assert found.runbook == first


def test_a_recovery_works_with_the_same_services_where_they_are_containers(tmp_path: Path) -> None:
    """A container often declares no port: the address by which it is asked says which connections lead to it."""
    runbooks = [load_runbook(file, Catalogue()) for file in sorted(RECOVERIES.glob("*.yaml"))]
    stacks = {name: load_stack(name, near=None, home=tmp_path, overrides={}) for name in ("sandbox", "compose")}
    found = {
        name: {
            one.name: Order(runbooks, stack, Catalogue()).works_with(one) & {*stacks["compose"].services}
            for one in runbooks
        }
        for name, stack in stacks.items()
    }
    assert found["compose"] == found["sandbox"]
    assert "object-store" in found["compose"]["table-unavailable"]


def test_of_failures_that_have_nothing_to_do_with_each_other_the_most_likely_is_first(tmp_path: Path) -> None:
    runbooks = {
        name: load_runbook(RECOVERIES / f"{name}.yaml", Catalogue()) for name in ("prometheus-down", "api-down")
    }
    stack = load_stack("sandbox", near=None, home=tmp_path, overrides={})
    order = Order([*runbooks.values()], stack, Catalogue())
    for names in (["api-down", "prometheus-down"], ["prometheus-down", "api-down"]):
        found = order.first([suspect(runbooks[name]) for name in names])
        assert found is not None
        assert found.runbook == names[0]
    assert order.first([]) is None


def test_where_nothing_runs_that_is_the_failure_and_not_each_of_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, port in variables(moved_ports()).items():
        monkeypatch.setenv(name, port)
    stack = load_stack("sandbox", near=None, home=tmp_path, overrides={})
    recoveries = [load_runbook(file, Catalogue()) for file in sorted(RECOVERIES.glob("*.yaml"))]
    found = diagnose(recoveries, stack, Catalogue())
    named = [one.runbook for one in found.having(Verdict.MATCHES)]
    assert named[0] == "total-failure"
    assert {"broker-down", "schema-registry-down", "catalog-database-down", "api-down"} <= {*named[1:]}


CONSUMER = {"requires": ["consumer"], "needed_by": 1, "waiting": 1}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        # the consumer has ended because it could not write, and is down itself
        (
            {"requires": ["store"], "needed_by": 3, "waiting": 2},
            {"requires": ["consumer"], "needed_by": 1, "waiting": 1},
        ),
        (
            {"requires": ["rest"], "needed_by": 2, "waiting": 1},
            {"requires": ["consumer"], "needed_by": 1, "waiting": 1},
        ),
        # everything is down: the repair of all of it comes before that of what much of it needs
        ({"requires": list("abcd"), "needed_by": 0}, {"requires": ["one", "two"], "needed_by": 3, "waiting": 0}),
        ({"requires": [], "needed_by": 11, "waiting": 11}, {"requires": list("abcd"), "needed_by": 0, "waiting": 0}),
    ],
)
def test_a_cause_comes_before_what_it_brought_down(first: dict[str, Any], then: dict[str, Any]) -> None:
    plain = suspect(load_runbook(RECOVERIES / "api-down.yaml", Catalogue()))
    cause, effect = (replace(plain, runbook=name, **one) for name, one in (("z", first), ("a", {**then, "weight": 9})))
    assert arranged([effect, cause]) == [cause, effect]

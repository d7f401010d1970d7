"""Faults from outside are noticed, named by their cause and recovered from, and cost nothing that the broker has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from outside_faults import (
    SERVICES,
    Sandbox,
    catalog_gone,
    catalog_locked,
    clock_wrong,
    disk_full,
    file_of_the_table,
    flapping,
    for_seconds,
    impostor,
    killed,
    killed_by_the_kernel,
    link_cut,
    metadata_gone,
    mounted_read_only,
    no_more_files,
    out_of_memory,
    stopped,
    topic_deleted,
)

from k2run.engine.events import Bound, ClockStopped
from k2run.engine.journal import read_journal
from k2run.engine.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("outside")]
LASTS_S = 25.0
"""Seconds for which a cause lasts that only the script can take away."""
NOTICED_S = 20.0
RECONCILE = """\
runbook: 1
kind: readiness
name: reconciled
title: What the broker has is in the table, once
sections:
  - name: Count
    steps:
      - name: Nothing is lost
        reconcile.topic: {topic: market.crypto.trades.binance, table: market_data.trades_v2}
        expect: [result.lost == 0, result.duplicated == 0]
        timeout: 60s
      - name: Nothing is there twice
        iceberg.duplicates: {table: market_data.trades_v2, column: message_id}
        expect: result.duplicates == 0
        timeout: 60s
"""


class Fault(NamedTuple):
    """One fault and what is expected of it.

    Attributes:
        make: Makes it.
        first: Runbooks of which the first that is named must be one; none where an honest "unknown" is right.
        why: What the evidence must say, as a regular expression.
        root: It needs a disk, a mount or a control group of its own.
    """

    make: Callable[[Sandbox], Any]
    first: set[str]
    why: str = ""
    root: bool = False


FAULTS = {
    "the disk of the warehouse is full": Fault(disk_full, {"disk-full"}, "disk .* is full", root=True),
    "the warehouse is mounted read-only": Fault(
        mounted_read_only, {"warehouse-read-only"}, "mounted read-only", root=True
    ),
    "the catalog is locked": Fault(catalog_locked, {"catalog-locked"}, r"locked for [\d.]+ s by pid \d+"),
    "the catalog was moved away": Fault(catalog_gone, {"table-unavailable"}),
    "the consumer's port is taken": Fault(
        impostor("consumer", "CONSUMER_METRICS"), {"port-taken"}, r"port \d+ of consumer: pid \d+"
    ),
    "the stream's port is taken": Fault(
        impostor("stream", "STREAM_METRICS"), {"port-taken"}, r"port \d+ of stream: pid \d+"
    ),
    "another process answers for the API": Fault(
        impostor("api", "API_BEHIND"), {"port-taken"}, r"port \d+ of api: pid \d+"
    ),
    "another process answers for the proxy": Fault(
        impostor("network", "API"), {"port-taken"}, r"port \d+ of network: pid \d+"
    ),
    "a data file is missing": Fault(file_of_the_table("missing"), {"data-file-missing-or-corrupt"}, "missing"),
    "a data file is cut off": Fault(file_of_the_table("cut off"), {"data-file-missing-or-corrupt"}, "bytes instead of"),
    "a data file is overwritten": Fault(
        file_of_the_table("overwritten"), {"data-file-missing-or-corrupt"}, "no longer a Parquet file"
    ),
    "the table's metadata file is missing": Fault(metadata_gone, {"data-file-missing-or-corrupt"}, "missing"),
    "the topic is deleted": Fault(topic_deleted(held=True), {"topic-deleted"}, "does not know the topic"),
    "the clock of the consumer is wrong": Fault(clock_wrong, {"clock-wrong"}, "consumer 3600 s ahead"),
    "the consumer has no more memory": Fault(
        out_of_memory, {"consumer-crashed", "consumer-not-committing", "consumer-stuck"}
    ),
    "the kernel kills the consumer": Fault(
        killed_by_the_kernel, {"consumer-crashed"}, "out of memory.*Killed process", root=True
    ),
    "the API can open no more files": Fault(no_more_files, {"api-failing", "table-unavailable", "api-down"}),
    "all services are killed": Fault(killed(*SERVICES), {"total-failure"}),
    "the broker is killed": Fault(killed("broker"), {"broker-down"}),
    "the consumer is killed": Fault(killed("consumer"), {"consumer-crashed"}),
    "stream and consumer are killed": Fault(killed("stream", "consumer"), {"stream-down", "consumer-crashed"}),
    "the hop is killed": Fault(killed("network"), {"network-proxy-down"}),
    "the broker is held": Fault(stopped("broker"), {"broker-down"}),
    "the consumer is held": Fault(stopped("consumer"), {"consumer-stuck"}),
    "the API is held": Fault(stopped("api"), {"api-down"}),
    "the stream's link is cut": Fault(link_cut("stream"), {"stream-stalled"}),
    "the consumer's link is cut": Fault(link_cut("consumer"), {"consumer-not-committing"}),
}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("outside"))
    try:
        sandbox.up()
        yield sandbox
    finally:
        sandbox.down()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_from_outside_is_noticed_named_by_its_cause_and_recovered_from(sandbox: Sandbox, name: str) -> None:
    fault = FAULTS[name]
    if fault.root and os.geteuid() != 0:
        pytest.skip("only root mounts a disk and makes a control group")
    if fault.make is clock_wrong and shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")
    sandbox.await_health()
    with for_seconds(fault.make(sandbox), LASTS_S):
        found = noticed(sandbox)
        named = [suspect["runbook"] for suspect in found["suspects"] if suspect["verdict"] == "matches"]
        assert named[:1] == [] or named[0] in fault.first, told(found)
        if not named:
            assert found["causes"] or found["ailing"], f"an unknown failure comes with its evidence: {found}"
        assert re.search(fault.why, told(found), re.DOTALL), told(found)
        before = len(Store(sandbox.home).runs())
        code, said = sandbox.k2run("recover", "--auto")
    assert code == 0, said
    assert in_time(sandbox, before), said
    assert "did not help" not in said
    code, said = sandbox.k2run("diagnose")
    assert code == 0, said
    reconciled(sandbox)


def noticed(sandbox: Sandbox) -> dict[str, Any]:
    """The first diagnosis that finds something and names it, or the last of the time that there is."""
    ends = time.monotonic() + NOTICED_S
    while True:
        found = sandbox.look()
        ill = found["ailing"] or any(suspect["verdict"] in {"matches", "unseen"} for suspect in found["suspects"])
        matches = any(suspect["verdict"] == "matches" for suspect in found["suspects"])
        if matches or time.monotonic() > ends:
            assert ill, f"not noticed within {NOTICED_S:.0f} s"
            return found


def in_time(sandbox: Sandbox, before: int) -> bool:
    """Whether the recovery clock of the last recovery, which counts from the diagnosis, was met."""
    runs = [read_journal(folder) for folder in Store(sandbox.home).runs()[before:]]
    clocks = [event for events in runs for event in events if isinstance(event, ClockStopped)]
    return clocks[-1].objective is Bound.MET


def told(found: dict[str, Any]) -> str:
    """What a diagnosis says."""
    seen = [
        f"{suspect['runbook']}: {one['symptom']}: {one['evidence']}"
        for suspect in found["suspects"]
        if suspect["verdict"] == "matches"
        for one in suspect["sightings"]
    ]
    whys = [f"{why['service']}: {why['kind']} ({why['source']}): {why['says']}" for why in found["causes"]]
    return "\n".join([*seen, *whys, *(f"{one['service']} {one['state']} {one['detail']}" for one in found["ailing"])])


def reconciled(sandbox: Sandbox) -> None:
    """Nothing that the broker has is lost, and nothing is there twice."""
    runbook = sandbox.folder / "reconciled.yaml"
    runbook.write_text(RECONCILE)
    code, said = sandbox.k2run("run", str(runbook), "--stack", "sandbox", "--plain")
    assert code == 0, said


def test_a_service_that_flaps_every_five_seconds_is_noticed_in_a_look_of_twenty(sandbox: Sandbox) -> None:
    sandbox.await_health()
    with flapping("api")(sandbox):
        code, said = sandbox.k2run("diagnose", "--for", "25s")
    assert code == 1
    assert "flapping: " in said


def test_a_topic_that_is_deleted_and_made_again_costs_nothing_that_the_broker_has(sandbox: Sandbox) -> None:
    sandbox.await_health()
    with topic_deleted(held=False)(sandbox):
        sandbox.await_health()
    reconciled(sandbox)


@pytest.mark.parametrize("load", [0, 8])
def test_a_healthy_stack_is_healthy_twenty_times_of_twenty(sandbox: Sandbox, load: int) -> None:
    sandbox.await_health()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
    try:
        answers = [sandbox.k2run("diagnose") for _ in range(20)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert [said for code, said in answers if code] == []

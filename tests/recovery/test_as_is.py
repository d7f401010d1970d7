"""What each built-in runbook finds, or cannot say, on the platform with the defects of the original."""

from __future__ import annotations

import csv
import re
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from shipped_stacks import running, settle

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.engine.dispatch import Caller
from k2run.engine.events import Outcome
from k2run.engine.outline import steps_within
from k2run.engine.prompts import Nobody
from k2run.engine.request import Request
from k2run.engine.run import run, run_inside
from k2run.engine.steps import StepRunner
from k2run.engine.store import Store
from k2run.language.expressions import roles_in
from k2run.language.loader import load_runbook
from k2run.language.model import Kind, Section
from k2run.recovery.diagnosis import Verdict
from k2run.recovery.drill import DETECT_S, Choice, choose
from k2run.recovery.looks import diagnose, diagnose_settled, suspicion
from k2run.stack.backend import readiness
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from k2run.actions.action import Undo
    from k2run.engine.events import RunFinished
    from k2run.engine.execution import Execution
    from k2run.engine.safeguards import StopRequest
    from k2run.language.model import Runbook, Step
    from k2run.stack.stack import Stack

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("as_is.csv")
STACKS = ROOT / "runbooks" / "stacks"
PROMETHEUS = shutil.which("prometheus") is not None
SHIPPED = sorted(
    file for file in (ROOT / "runbooks").rglob("*.yaml") if file.parent != STACKS and file.name != "data-path.yaml"
)


def expected() -> dict[str, dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {row["runbook"]: row for row in csv.DictReader(file)}


def as_is(home: Path) -> Stack:
    return load_stack(str(STACKS / "as-is.yaml"), near=None, home=home, overrides={})


def outcome(runbook: Runbook, stack: Stack) -> tuple[str, str]:
    """What the stack file alone says about a runbook: whether it applies, and whether it can see what decides it."""
    absent = next(filter(None, map(stack.absent, runbook.requires)), "")
    if absent:
        return "not applicable", absent
    if runbook.kind is Kind.RECOVERY:
        decide = [step for step in runbook.symptoms if step.severity.value == "critical" and _asked(step, stack)]
        hidden = [_hidden(step, stack) for step in decide]
        if decide and all(hidden):  # one that is seen, and not there on a healthy platform, rules the failure out
            return "cannot say", hidden[0]
    return "applies", ""


def _asked(step: Step, stack: Stack) -> bool:
    return step.when is None or bool(step.when.evaluate({"stack": stack.facts(), "roles": stack.roles}))


def _hidden(step: Step, stack: Stack) -> str:
    absent = next(filter(None, map(stack.absent, step.requires)), "")
    undeclared = [stack.absent(f"roles.{role}") for role in sorted(roles_in(step.args)) if role not in stack.roles]
    service = step.args.get("service")
    blind = (
        step.action == "service.probe"
        and isinstance(service, str)
        and service in stack.services
        and readiness(stack.services[service]) is None
    )
    return next(filter(None, [absent, *undeclared, f"{service} has no probe" if blind else ""]), "")


def _steps(runbook: Runbook) -> Iterator[Step]:
    yield from (*runbook.preconditions, *runbook.symptoms, *runbook.steady_state)
    for section in runbook.sections:
        yield from steps_within(section.steps)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_the_table_says_what_becomes_of_each_runbook_and_why(file: Path, tmp_path: Path) -> None:
    runbook, stack = load_runbook(file, Catalogue()), as_is(tmp_path)
    row = expected()[str(file.relative_to(ROOT / "runbooks"))]
    wanted = (row["outcome"], row["why"])
    if "prometheus" in runbook.requires and not PROMETHEUS:  # the one program that no wheel brings
        wanted = ("not applicable", stack.absent("prometheus"))
    assert outcome(runbook, stack) == wanted


def test_the_table_has_no_runbook_that_does_not_ship() -> None:
    assert expected().keys() == {str(file.relative_to(ROOT / "runbooks")) for file in SHIPPED}


NAMES = ("market.crypto", "market_data.", "k2-iceberg-writer", "k2_")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_no_runbook_knows_a_topic_a_table_a_group_or_a_metric_by_name(file: Path) -> None:
    runbook = load_runbook(file, Catalogue())
    known = {name for step in _steps(runbook) for name in NAMES if name in _texts(step.args)}
    known |= {name for entry in runbook.inputs for name in NAMES if name in str(entry.default)}
    assert known <= ({"k2_"} if file.stem == "backup" else set())  # a picture of the metrics page


BOUND_BY_HEART = re.compile(r"\| age\)(?: \| abs)? *[<>]=? *[\d.]")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_no_runbook_knows_by_heart_how_fresh_rows_are_or_where_a_platform_tells_its_health(file: Path) -> None:
    """Rows come every second on one platform and every 15 s on another; one's `/health` is never healthy."""
    runbook = load_runbook(file, Catalogue())
    asked = [each.text for step in _steps(runbook) for each in (*step.expect, step.until) if each]
    assert [text for text in asked if BOUND_BY_HEART.search(text)] == []
    paths = [step.args.get("path") for step in _steps(runbook) if step.action.startswith("http.")]
    assert "/health" not in paths


def _texts(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(map(_texts, value.values()))
    if isinstance(value, list | tuple):
        return " ".join(map(_texts, value))
    return str(value)


def test_every_stack_of_the_platform_says_which_runbooks_it_cannot_serve(tmp_path: Path) -> None:
    """The original's own stack file lacks nothing that the profile with its defects has."""
    original = load_stack(str(STACKS / "k2.yaml"), near=None, home=tmp_path, overrides={})
    assert original.roles.keys() == as_is(tmp_path).roles.keys()


@pytest.fixture(scope="module")
def as_is_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The platform with the defects, up on free ports, with its first rows in the table."""
    with running("as-is", tmp_path_factory.mktemp("as-is")) as stack:
        yield stack


def verdicts(found: Any) -> Mapping[str, Verdict]:
    return {suspect.runbook: suspect.verdict for suspect in found.suspects}


def played(runbook: Runbook, stack: Stack, home: Path) -> tuple[str, list[str]]:
    """How a run of it ends: the word of its verdict, and what speaks against it."""
    return ending(run(Request(runbook=runbook, stack=stack, store=Store(home))))


def ending(finished: RunFinished) -> tuple[str, list[str]]:
    """The word of a verdict, and what speaks against the run, without what was measured: that differs each time."""
    reasons = [re.sub(r" \([^()]*\)$", "", reason) for reason in finished.reasons]
    return re.split(r"[:;,]", finished.verdict)[0], sorted(reasons)


def against(row: Mapping[str, str]) -> list[str]:
    return sorted(filter(None, row["against"].split("; ")))


NEED_NONE = [
    file for file in SHIPPED if expected()[str(file.relative_to(ROOT / "runbooks"))]["outcome"] == "not applicable"
]


@pytest.mark.parametrize("file", NEED_NONE, ids=lambda file: file.stem)
def test_a_runbook_that_needs_what_the_platform_does_not_show_is_not_applicable(file: Path, tmp_path: Path) -> None:
    row = expected()[str(file.relative_to(ROOT / "runbooks"))]
    said = played(load_runbook(file, Catalogue()), as_is(tmp_path), tmp_path / "home")
    assert said == (row["verdict"], against(row)) == ("not applicable", [row["why"]])


JUDGED = [
    file for file in SHIPPED if file not in NEED_NONE and (file.parent.name == "scenarios" or file.stem == "demo-day")
]
"""Benchmarks measure the machine that they run on, and what a rehearsal or a backup comes to is said by people."""


@pytest.mark.slow
@pytest.mark.parametrize("file", JUDGED, ids=lambda file: file.stem)
def test_a_run_there_finds_the_defects_that_it_meets_and_no_other(
    as_is_platform: Stack, file: Path, tmp_path: Path
) -> None:
    row = expected()[str(file.relative_to(ROOT / "runbooks"))]
    settle(as_is_platform)
    assert played(load_runbook(file, Catalogue()), as_is_platform, tmp_path) == (row["verdict"], against(row))


RECOVERED = [file for file in SHIPPED if file not in NEED_NONE and file.parent.name == "recovery"]


@pytest.mark.slow
@pytest.mark.parametrize("file", RECOVERED, ids=lambda file: file.stem)
def test_a_recovery_there_repairs_what_is_broken_or_says_that_it_changed_nothing(
    as_is_platform: Stack, file: Path, tmp_path: Path
) -> None:
    row = expected()[str(file.relative_to(ROOT / "runbooks"))]
    recovery = load_runbook(file, Catalogue())
    if "prometheus" in recovery.requires and not PROMETHEUS:
        pytest.skip("prometheus is not installed")
    settle(as_is_platform)
    if row["broken"]:
        seen, *said = recovered(recovery, row["broken"].split("; "), as_is_platform, tmp_path)
        assert seen is (Verdict.CANNOT_SAY if "declares no role" in row["why"] else Verdict.MATCHES)
    else:
        said = [*played(recovery, as_is_platform, tmp_path)]
    assert said == [row["verdict"], against(row)]


def recovered(recovery: Runbook, faults: list[str], stack: Stack, home: Path) -> tuple[Verdict, str, list[str]]:
    """What its symptoms say while faults of the drill are in force, and how a run of it ends then."""
    pool = load_runbook(ROOT / "runbooks" / "recovery" / "drill.yaml", Catalogue())
    named = {step.name: step for step in choose(pool, Choice(every=True))}
    request = Request(runbook=replace(pool, sections=()), stack=stack, store=Store(home))
    found: list[tuple[Verdict, str, list[str]]] = []

    def inside(execution: Execution, signals: StopRequest) -> None:
        section = Section(path="broken", name="Break it", place=named[faults[0]].place, steps=())
        for number, name in enumerate(faults):
            step = replace(small(named[name]), path=f"broken.steps[{number}]", recovery="", on_failure="")
            assert StepRunner(execution, section).run(step) is Outcome.PASSED, f"{name}: not broken"
        seen = recognised(recovery, stack)
        finished = run_inside(replace(request, runbook=recovery), signals)
        found.append((seen, *ending(finished)))

    broken = run(replace(request, inside=inside))
    assert broken.pending_undos == []
    assert found, broken.verdict
    return found[0]


BACKLOG = 100_000
"""Messages: twice what counts as far behind. The drill's 600,000 say how fast the machine is."""


def small(step: Step) -> Step:
    """The same fault; a backlog is a small one."""
    args = {**step.args, "count": BACKLOG} if "count" in step.args else step.args
    return replace(step, args=args, block=tuple(map(small, step.block)))


def recognised(recovery: Runbook, stack: Stack) -> Verdict:
    """What the symptoms of a failure say: once they match, or cannot."""
    ends = time.monotonic() + DETECT_S
    while True:
        seen = suspicion(recovery, stack, Catalogue(), threading.Event()).verdict
        if seen in {Verdict.MATCHES, Verdict.CANNOT_SAY} or time.monotonic() > ends:
            return seen
        time.sleep(0.5)


SAID = {"not applicable": Verdict.NOT_APPLICABLE, "cannot say": Verdict.CANNOT_SAY, "ruled out": Verdict.RULED_OUT}


@pytest.mark.slow
def test_a_healthy_platform_with_the_defects_has_no_failure_and_is_healthy_as_far_as_seen(
    as_is_platform: Stack,
) -> None:
    recoveries = [load_runbook(file, Catalogue()) for file in SHIPPED if file.parent.name == "recovery"]
    found = diagnose_settled(recoveries, as_is_platform, Catalogue(), threading.Event())
    table = {Path(name).stem: row for name, row in expected().items() if name.startswith("recovery/")}
    assert {
        name: verdict for name, verdict in verdicts(found).items() if verdict is not SAID[table[name]["diagnosis"]]
    } == {}
    assert found.word == "HEALTHY AS FAR AS SEEN"


FAULTS = {
    "broker-down": ("service.pause", "broker"),
    "stream-down": ("service.kill", "stream"),
    "consumer-crashed": ("service.kill", "consumer"),
    "consumer-stuck": ("service.pause", "consumer"),
    "api-down": ("service.kill", "api"),
    "network-proxy-down": ("service.kill", "network"),
}


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAULTS)
def test_a_failure_that_can_be_seen_there_is_found(as_is_platform: Stack, failure: str) -> None:
    recoveries = [load_runbook(file, Catalogue()) for file in SHIPPED if file.parent.name == "recovery"]
    caller = Caller(Catalogue(), as_is_platform, lambda _step: Nobody())
    action, service = FAULTS[failure]
    undos: list[Undo] = []
    try:
        caller.call(action, {"service": service}, Deadline(60), plan=undos.append)
        found = diagnose(recoveries, as_is_platform, Catalogue())
    finally:
        for undo in undos:
            caller.call(undo.action, dict(undo.args), Deadline(120))
    assert failure in {suspect.runbook for suspect in found.matches}
    assert found.word == "UNHEALTHY"

"""A working platform none of whose services k2run runs: it writes no message, and judges nothing that it cannot see."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import yaml
from shipped_stacks import RUNBOOKS, STACKS, running

from k2run.actions.action import Effect
from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import offsets
from k2run.adapters.kafka import transfer as reading
from k2run.adapters.kafka.client import Kafka, Link
from k2run.engine.events import Outcome
from k2run.engine.judge import NOT_APPLICABLE_CODE
from k2run.engine.outline import all_steps
from k2run.engine.request import Request, check_allowed
from k2run.engine.run import run
from k2run.engine.store import Store
from k2run.errors import Protected
from k2run.language.loader import load_runbook
from k2run.language.model import Kind
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from k2run.language.model import Runbook
    from k2run.stack.stack import Stack

SHIPPED = sorted(file.relative_to(RUNBOOKS).as_posix() for file in RUNBOOKS.rglob("*.yaml") if file.parent != STACKS)
BENCHMARKS = [name for name in SHIPPED if name.startswith("benchmarks/")]
JUDGING = [name for name in SHIPPED if name not in {*BENCHMARKS, "backup.yaml", "rehearsal.yaml"}]
"""What breaks, repairs, or says GO: a benchmark measures, and the others are said by people."""
WRITE_ON_PURPOSE = {"benchmarks/ingest.yaml", "benchmarks/pipeline.yaml"}
"""They measure messages of their own."""
MARK = b"K2RUN-"
"""What the ids of all messages that k2run makes up begin with."""


def theirs(stack: Stack, folder: Path, *, probe: bool, **more: object) -> Stack:
    """The same platform by the file of one that others run; without `probe` no recovery may write a message to it."""
    text = stack.path.read_text(encoding="utf-8").replace("{{ here }}", str(stack.path.parent))
    data = yaml.safe_load(text)
    kept = ("title", "url", "metrics", "headers", "ready", "needs")
    data["services"] = {
        name: {"run": "external", **{key: form[key] for key in kept if key in form}}
        for name, form in data["services"].items()
    }
    if not probe:
        del data["roles"]["probe"]
    # Its proxy, its topics and its database could be broken from outside: they are not ours to break.
    data |= {"name": "theirs", "faults": ["service.*", "settings.*"], "data_path": str(stack.data_path), **more}
    file = folder / "theirs.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    ports = {name: str(stack.facts()["vars"][name]) for name in data["vars"] if name.endswith("port")}
    return load_stack(str(file), near=None, home=folder / "home", overrides=ports)


def ends_of_topics(stack: Stack) -> dict[str, dict[int, int]]:
    """The end of each partition of each topic."""
    link = Link(Kafka(bootstrap=str(stack.settings("kafka")["bootstrap"])), Deadline(60))
    return {
        topic: {number: span.high for number, span in offsets.spans(link, topic).items()}
        for topic in offsets.topic_names(link)
        if not topic.startswith("__")
    }


def written_since(stack: Stack, before: dict[str, dict[int, int]]) -> tuple[int, list[str]]:
    """How many messages came to the live topic since then; which topics are new, and what else is in any of them."""
    link = Link(Kafka(bootstrap=str(stack.settings("kafka")["bootstrap"])), Deadline(60))
    after = ends_of_topics(stack)
    count, wrong = 0, sorted({*after} - {*before})
    for topic, ends in before.items():
        new = {
            number: span._replace(low=ends[number])
            for number, span in offsets.spans(link, topic).items()
            if ends[number] < span.high
        }
        values = [raw.value() or b"" for raw in reading.between(link, topic, new)] if new else []
        count += len(values) if topic == stack.roles["topic"] else 0
        wrong += [f"{topic}: {value[:80]!r}" for value in values if not value.startswith(b"\0") or MARK in value]
    return count, wrong


REFUSED = "is not allowed: the stack 'theirs'"
NOT_JUDGED = "not applicable"
UNCHANGED = "changed nothing"


def outcome_of(runbook: Runbook, stack: Stack, store: Store) -> str:
    """How a run ended, or that it was refused."""
    try:
        finished = run(Request(runbook=runbook, stack=stack, store=store))
    except Protected as refused:
        return REFUSED if REFUSED in refused.message else refused.message
    if finished.outcome is Outcome.NOT_APPLICABLE and finished.exit_code == NOT_APPLICABLE_CODE:
        return NOT_JUDGED
    return UNCHANGED if finished.unchanged else finished.verdict


@pytest.fixture(scope="module")
def their_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running("sandbox", tmp_path_factory.mktemp("theirs")) as stack:
        yield stack


def changes(runbook: Runbook) -> bool:
    """Whether a recovery repairs anything itself, beside writing its probe."""
    return any(step.effect is Effect.CHANGES and step.action != "kafka.produce" for step in all_steps(runbook))


@pytest.mark.slow
@pytest.mark.parametrize("name", JUDGING)
def test_no_message_is_written_and_what_cannot_be_broken_or_repaired_is_not_judged(
    their_platform: Stack, name: str, tmp_path: Path
) -> None:
    runbook = load_runbook(RUNBOOKS / name, Catalogue())
    stack = theirs(their_platform, tmp_path, probe=runbook.kind is not Kind.RECOVERY)
    before = ends_of_topics(stack)
    ended = outcome_of(runbook, stack, Store(tmp_path / "home"))
    if runbook.kind is Kind.RECOVERY and not changes(runbook):
        assert ended in {NOT_JUDGED, UNCHANGED}  # all it does is look, and that it can do
    elif runbook.kind is not Kind.READINESS:
        assert ended in {REFUSED, NOT_JUDGED}
    deadline = Deadline(30)
    count, ours = written_since(stack, before)
    while not count and not deadline.has_passed():  # what is refused ends before the next batch of trades comes
        time.sleep(0.1)
        count, ours = written_since(stack, before)
    assert count, "the platform works"
    assert ours == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_protected_platform_refuses_the_benchmarks_that_write(name: str, tmp_path: Path) -> None:
    sandbox = load_stack(str(STACKS / "sandbox.yaml"), near=None, home=tmp_path, overrides={})
    stack = theirs(sandbox, tmp_path, probe=True, protected=True)
    request = Request(runbook=load_runbook(RUNBOOKS / name, Catalogue()), stack=stack, store=Store(tmp_path / "home"))
    refused = pytest.raises(Protected, match="changes data") if name in WRITE_ON_PURPOSE else nullcontext()
    with refused:
        check_allowed(request)

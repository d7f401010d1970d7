"""Objectives over what could not be seen: they are not met, and not missed either."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from k2run.engine.events import NOT_ALL_SEEN, Bound, SectionFinished

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.engine.conftest import Bench

TEXT = """\
runbook: 1
kind: readiness
name: seen
stack: ./stack.yaml
objective: {within: 1m}
sections:
  - name: Look
    within: 30s
    steps: [STEP, {name: Up, assert: {that: true}}]
"""
UNSEEN = "service.status: {service: api}, expect: result.restarts == 0"


@pytest.fixture
def far(bench: Bench) -> Iterator[Bench]:
    """A bench whose stack has a service on which restarts cannot be seen."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        ready = f"ready: {{tcp: '127.0.0.1:{server.getsockname()[1]}'}}"
        bench.stack_text = f"stack: 1\nname: far\nservices: {{api: {{run: external, {ready}}}}}\n"
        yield bench


def told(bench: Bench, step: str) -> tuple[Any, Any]:
    """Whether the section and the whole run met their times."""
    bench.run(TEXT.replace("STEP", step))
    [section] = [event for event in bench.seen if isinstance(event, SectionFinished)]
    [whole] = [event for event in bench.journal() if type(event).__name__ == "Objected"]
    return section.objective, (whole.bound, whole.value)


def bounds(bench: Bench, step: str) -> tuple[Any, Any]:
    section, (whole, _) = told(bench, step)
    return section, whole


@pytest.mark.parametrize(
    "step",
    [
        f"{{name: A, severity: warning, {UNSEEN}}}",
        f"{{name: A, {UNSEEN}}}",
        f"{{name: A, block: [{{name: B, severity: warning, {UNSEEN}}}]}}",
        f"{{name: A, loop: [1, 2], severity: info, {UNSEEN}}}",
    ],
    ids=["warning", "critical", "in a block", "in a loop"],
)
def test_a_time_with_a_step_that_is_unknown_is_not_measured(far: Bench, step: str) -> None:
    assert told(far, step) == (Bound.NOT_MEASURED, (Bound.NOT_MEASURED, NOT_ALL_SEEN))


def test_a_block_with_a_step_that_is_unknown_has_not_met_its_time(far: Bench) -> None:
    told(far, f"{{name: A, within: 20s, block: [{{name: B, severity: warning, {UNSEEN}}}]}}")
    assert far.steps()["A"].objective is Bound.NOT_MEASURED


def test_an_unknown_that_is_ignored_or_rescued_leaves_the_time_of_its_section(far: Bench) -> None:
    met = (Bound.MET, Bound.MET)
    assert bounds(far, f"{{name: A, ignore_failure: true, {UNSEEN}}}") == met
    rescue = "rescue: [{name: C, assert: {that: true}}]"
    assert bounds(far, f"{{name: A, block: [{{name: B, {UNSEEN}}}], {rescue}}}") == met


def test_a_run_is_not_failed_because_its_length_says_nothing(far: Bench) -> None:
    finished = far.run(TEXT.replace("STEP", f"{{name: A, severity: warning, {UNSEEN}}}"))
    assert (finished.exit_code, finished.reasons) == (0, [])

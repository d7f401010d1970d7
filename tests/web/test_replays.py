"""A run as it was at a moment, and its charts alone."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def run(served: Any) -> str:
    """A run of ten short steps that has ended."""
    started: str = served.start_run("short")
    served.ended(started)
    return started


def test_the_presenters_view_shows_what_was_known_at_a_moment_and_nothing_later(served: Any, run: str) -> None:
    events = served.events(run)
    [end] = [event for event in events if type(event).__name__ == "RunFinished"]
    middle = [event.t for event in events if type(event).__name__ == "StepFinished"][4]
    with served.anonymous() as client:
        then = client.get(f"/runs/{run}/replay?at={middle}").text
        after = client.get(f"/runs/{run}/replay?at={end.t + 100}").text
    assert "Replay of the run on none: 20" in then
    assert "PASSED" not in then
    assert "PASSED" in after
    assert "data-stream" not in then  # nothing on it goes on


def test_a_moment_that_is_no_number_or_before_the_run_is_told(served: Any, run: str) -> None:
    with served.anonymous() as client:
        assert client.get(f"/runs/{run}/replay?at=soon").status_code == 400
        assert client.get(f"/runs/{run}/replay?at=-5").status_code in {200, 404}
        assert client.get("/runs/20200101-000000-no-00000/replay?at=1").status_code == 404


def test_charts_of_a_run_that_measured_nothing_say_so(served: Any, run: str) -> None:
    with served.anonymous() as client:
        assert "Nothing was measured often enough" in client.get(f"/runs/{run}/charts?far").text

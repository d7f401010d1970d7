"""The page of a diagnosis goes on checking for a while: what comes and goes is seen there too."""

from __future__ import annotations

import json
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def flapping(pid: int) -> Iterator[None]:
    """A process that is held and continued again and again."""
    over = threading.Event()
    process = psutil.Process(pid)

    def flap() -> None:
        while not over.wait(1.2):
            process.send_signal(signal.SIGSTOP)
            over.wait(1.2)
            process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=flap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        process.send_signal(signal.SIGCONT)


def drawings(served: Any, seconds: float = 40.0) -> Iterator[tuple[str, str]]:
    """State and drawing of each look that the page is told of."""
    end = time.monotonic() + seconds
    with served.client() as client, client.stream("GET", "/diagnosis/sleepers/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            assert time.monotonic() < end, "what was waited for did not come"
            if line.startswith("data: "):
                told = json.loads(line[6:])
                yield told["state"], told["parts"]["p-diagnosis"]


@pytest.mark.slow  # it takes the 20 s of a diagnosis
def test_a_failure_that_comes_and_goes_is_named_as_flapping_on_the_page(served: Any) -> None:
    file = served.folder / "runbooks" / "stacks" / "sleepers.yaml"
    stack = load_stack(str(file), near=None, home=served.home, overrides={})
    lifecycle.start(stack, None, Deadline(10))
    [look] = lifecycle.status(stack, ["two"])
    assert look.status.pid is not None
    with flapping(look.status.pid), served.client() as client:
        page = client.get("/diagnosis/sleepers").text
        assert 'data-stream="/diagnosis/sleepers/events"' in page
        seen = next(drawing for _, drawing in drawings(served) if "flapping: two (service)" in drawing)
        assert "UNHEALTHY" in seen
    ended = next(drawing for state, drawing in drawings(served) if state == "ended")
    assert "flapping: two (service)" in ended, "what was seen stays seen"
    lifecycle.stop(stack)


def test_only_the_page_begins_a_diagnosis_not_the_stream_that_follows_it(lay_out: Any, tmp_path: Any) -> None:
    served = lay_out(tmp_path)
    served.start()
    try:
        with served.client() as client:
            client.timeout = 3.0
            with client.stream("GET", "/diagnosis/none/events") as answer:
                assert answer.status_code == 200
                lines = answer.iter_lines()
                with pytest.raises(httpx.ReadTimeout):
                    next(lines)
    finally:
        served.stop()

"""Programs that an action runs: they end with the step's deadline and with the run, and leave nothing behind."""

from __future__ import annotations

import threading
import time

import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters._command import run
from k2run.errors import Interrupted, TimedOut


def test_a_program_tells_its_exit_code_and_what_it_printed():
    ended = run(["sh", "-c", "echo out; echo err >&2; exit 3"], Deadline(10))
    assert ended == (3, "out\n", "err\n")
    with pytest.raises(FileNotFoundError):
        run(["there-is-no-such-program"], Deadline(10))


@pytest.mark.parametrize(("after_s", "error"), [(None, TimedOut), (0.3, Interrupted)], ids=["deadline", "end of run"])
def test_a_program_and_all_that_it_started_end_at_the_deadline_or_with_the_run(after_s, error):
    stop = threading.Event()
    if after_s is not None:
        threading.Timer(after_s, stop.set).start()
    mark, began = f"{time.time_ns() % 10**7}.5", time.monotonic()
    with pytest.raises(error):
        run(["sh", "-c", f"setsid sleep {mark} & sleep {mark}"], Deadline(0.5 if after_s is None else 30, stop))
    assert time.monotonic() - began < 10
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])]

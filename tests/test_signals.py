"""Signals that come while the main thread holds the very lock that they need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from k2run.signals import listen

ENGINE = "from k2run.engine.safeguards import StopRequest; stop = StopRequest().__enter__().run"
SANDBOX = "from k2run.k2.platform.program import stop_signal; stop = stop_signal()"
AT_THE_WORST_MOMENT = """
with stop._cond:  # as `wait` does, before it sleeps
    os.kill(os.getpid(), signal.SIGTERM)
print(stop.wait(5))
"""


@pytest.mark.parametrize("listener", [ENGINE, SANDBOX])
def test_a_request_to_stop_that_comes_while_its_event_is_looked_at_hangs_nothing(listener: str) -> None:
    code = f"import os, signal\n{listener}\n{AT_THE_WORST_MOMENT}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "True\n"


def test_every_signal_is_dealt_with_in_order_and_the_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    heard: list[tuple[signal.Signals, bool]] = []
    end = listen(
        [signal.SIGUSR1, signal.SIGUSR2],
        lambda number: heard.append((number, threading.current_thread() is threading.main_thread())),
    )
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    end()
    assert heard == [(number, False) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1)]
    assert signal.getsignal(signal.SIGUSR1) is before

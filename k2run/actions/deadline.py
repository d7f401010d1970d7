"""The deadline of a step, as the action sees it."""

from __future__ import annotations

import threading
import time

from k2run.errors import Interrupted, TimedOut


class Deadline:
    """How long an action may still take, and whether it has been asked to stop.

    Args:
        seconds: Time allowed from now.
        stop: Set when the run is asked to end; waits return at once.
        objective: Seconds from now until the objective of the step is missed; None when it has none.
    """

    __slots__ = ("_at", "_due", "seconds", "stop")

    def __init__(self, seconds: float, stop: threading.Event | None = None, objective: float | None = None) -> None:
        self.seconds = seconds
        self._due = None if objective is None else time.monotonic() + objective
        self.stop = stop or threading.Event()
        self._at = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, always above zero.

        Raises:
            TimedOut: Nothing is left.
            Interrupted: The run was asked to end.
        """
        if self.stop.is_set():
            raise Interrupted("the run was asked to end")
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimedOut(f"not done within {self.seconds:g}s", hint="raise the step's timeout, or find what is slow")
        return left

    def has_passed(self, within: float = 0.0) -> bool:
        """Whether nothing is left, or nothing will be in `within` seconds."""
        return self._at - time.monotonic() <= within

    def to_objective(self) -> float | None:
        """Seconds left until the objective is missed, below zero when it is; None when the step has none."""
        return None if self._due is None else self._due - time.monotonic()

    def at_most(self, seconds: float) -> float:
        """The smaller of `seconds` and what is left; for a client library's own timeout."""
        return min(seconds, self.remaining())

    def sleep(self, seconds: float) -> None:
        """Wait, but not past the deadline and not past a request to stop.

        Raises:
            TimedOut: The deadline passed first.
            Interrupted: The run was asked to end.
        """
        self.stop.wait(min(seconds, self.remaining()))
        self.remaining()

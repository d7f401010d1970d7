"""Signals, heard by a thread of their own.

A handler runs between any two instructions of the main thread, also where that thread holds the lock of an event. A
handler that sets the event then waits for this lock for ever, and so does the process. A handler here only passes the
number on, through a queue made for that; a thread does what is to be done.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def listen(numbers: Iterable[signal.Signals], do: Callable[[signal.Signals], None]) -> Callable[..., None]:
    """Have something done with each of these signals; in the main thread only.

    Args:
        numbers: Which signals.
        do: What to do with one; in another thread than the caller's.

    Returns:
        What ends it: signals that came before are dealt with, and the handlers are again what they were; those that it
        is given are ignored from then on.

    Raises:
        ValueError: This is not the main thread.
    """
    heard: SimpleQueue[int | None] = SimpleQueue()

    def hear() -> None:
        while (number := heard.get()) is not None:
            do(signal.Signals(number))

    before = {number: signal.signal(number, lambda number, _: heard.put(number)) for number in numbers}
    thread = threading.Thread(target=hear, name="signals", daemon=True)
    thread.start()

    def end(ignoring: Iterable[signal.Signals] = ()) -> None:
        for number, handler in (before | dict.fromkeys(ignoring, signal.SIG_IGN)).items():
            signal.signal(number, handler)
        heard.put(None)
        thread.join()

    return end


def has_terminal() -> bool:
    """Whether this process has a terminal that controls it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def leave_the_group_of_the_terminal() -> None:
    """Go into a group of its own, once the terminal is gone: it may hang up its group again, up to three times.

    Each time, a command that was just started for `always` or for an undo could still be in that group, and would end.
    The leader of a session cannot leave its group, and need not: it is who else would hang up.
    """
    with suppress(OSError), subprocess.Popen(["cat"], stdin=subprocess.PIPE, process_group=0) as leader:
        os.setpgid(0, leader.pid)

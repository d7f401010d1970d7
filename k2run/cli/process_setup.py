"""How the process starts and ends: its standard streams, its signals, and the exit code of its command."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper

from k2run.ascii_signs import PLAIN_SIGNS

COLLECTED_AFTER = 50_000
"""New objects between two searches for cycles; Python's own 700 means seventy searches before a run has begun."""


def set_up_process() -> None:
    """Undo what Invoke or the parent process set up and k2run cannot use.

    Invoke forbids Python to write compiled modules, a third of the time of a short run; a tenth is spent on searches
    for cycles while modules are loaded. A parent may have k2run ignore the end of its children: then the system keeps
    no exit codes, and every failed command would look like a successful one.
    """
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
    gc.set_threshold(COLLECTED_AFTER)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent: no other file may take its number
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        elif mode == "w" and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=PLAIN_SIGNS)


def leave(code: int) -> None:
    """End at once when a call was left behind; otherwise skip Python's last search for cycles.

    A thread of a client library that is busy while Python shuts down can crash the process, and its exit code would be
    the crash's. The search covers all modules and takes longer than many a command; DuckDB needs it: it counts the
    objects that are left, and complains.

    Args:
        code: The exit code of the command.
    """
    dispatch = sys.modules.get("k2run.engine.dispatch")
    if dispatch is not None and dispatch.is_one_left_behind():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    if "_duckdb" not in sys.modules:
        gc.freeze()

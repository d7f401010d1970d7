"""A run as a process of its own that dies by SIGKILL at one of its events.

A fork of the test's own process will not do: it inherits what threads left half done there, and clients of libraries
without their threads, which hang or crash when they are collected.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 120.0
PROGRAM = """\
import os, signal, sys
from pathlib import Path
from k2run.actions.catalogue import Catalogue
from k2run.engine.request import Request
from k2run.engine.run import run
from k2run.engine.store import Store
from k2run.language.loader import load_runbook
from k2run.stack.stack import load_stack

class Killer:
    def see(self, event):
        if event.seq >= int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)

catalogue, store = Catalogue(), Store(Path(sys.argv[3]))
stack = load_stack(sys.argv[2], near=None, home=store.home, overrides={})
loaded = load_runbook(Path(sys.argv[1]), catalogue)
run(Request(runbook=loaded, stack=stack, store=store, catalogue=catalogue, observers=(Killer(),)))
"""


def killed_at(event: int, runbook: Path, *, stack_file: Path, home: Path) -> bool:
    """Whether a run was killed at an event, rather than having ended before; it may end in no other way."""
    words = [sys.executable, "-c", PROGRAM, str(runbook), str(stack_file), str(home), str(event)]
    died = subprocess.run(words, cwd=runbook.parent, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert died.returncode in {0, -signal.SIGKILL}, (died.returncode, died.stdout + died.stderr)
    return died.returncode != 0

"""A k2run command on a terminal of its own, with an operator at the keyboard."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.engine.journal import read_journal
from k2run.engine.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k2run.engine.events import AnyEvent

LIMIT_S = 40


class Session:
    """A k2run command on a terminal of its own, with an operator at the keyboard.

    Args:
        folder: Where it runs.
        more: Environment variables.
    """

    def __init__(self, folder: Path, more: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.screen = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {**os.environ, "K2RUN_HOME": str(folder / "home"), "TERM": "xterm", "COLUMNS": "100"}
        self.environment |= more or {}
        (folder / "stack.yaml").write_text("stack: 1\nname: none\n")

    def write(self, text: str) -> None:
        (self.folder / "it.yaml").write_text(text)

    def start(self, *words: str) -> None:
        """Start a command; what it shows is kept."""
        self.keyboard, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [str(Path(sys.executable).parent / "k2run"), *words],
            cwd=self.folder,
            env=self.environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        self.screen = ""
        self.reader = threading.Thread(target=self._look, daemon=True)
        self.reader.start()

    def _look(self) -> None:
        try:
            while data := os.read(self.keyboard, 4096):
                self.screen += data.decode(errors="replace")
        except OSError:
            pass  # the command ended

    def sees(self, text: str, within: float = LIMIT_S) -> None:
        """Wait until something is on the screen, and forget what stands before it."""
        until = time.monotonic() + within
        while text not in self.screen:
            assert time.monotonic() < until, f"no {text!r} in {self.screen}"
            time.sleep(0.02)
        self.screen = self.screen.partition(text)[2]

    def types(self, line: str) -> None:
        os.write(self.keyboard, f"{line}\n".encode())

    def ends(self, within: float = LIMIT_S) -> int:
        assert self.process is not None
        code = self.process.wait(within)
        self.reader.join(LIMIT_S)
        return code

    def events(self, kind: type[Any]) -> list[Any]:
        found: list[AnyEvent] = read_journal(self.home.find_run("last"))
        return [event for event in found if isinstance(event, kind)]

    @property
    def home(self) -> Store:
        return Store(self.folder / "home")

    def lose_power(self) -> None:
        """Make the journal of the last run end after its first events."""
        journal = self.home.find_run("last") / "journal.jsonl"
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

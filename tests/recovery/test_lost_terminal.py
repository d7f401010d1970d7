"""Guided runs that end at a prompt, by whatever ends them: undone at once, and told to the last line."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.engine.events import RunFinished, StepFinished
from k2run.engine.journal import read_journal
from k2run.engine.replay import pending_undos
from k2run.engine.store import Store
from k2run.errors import UsageError
from k2run.stack import lifecycle
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k2run.engine.events import AnyEvent

K2RUN = str(Path(sys.executable).parent / "k2run")
UNDONE_S = 5.0
STACK = """\
stack: 1
name: pair
services:
  one: {run: process, command: [sleep, "600"]}
  two: {run: process, command: [sleep, "600"]}
"""
LED = """\
runbook: 1
kind: KIND
name: led
title: Led by hand
sections:
  - name: Break
    steps:
      - {name: Pause one, service.pause: {service: one}}
      - {name: Kill two, service.kill: {service: two}}
      - {name: Look, shell.run: {command: "false"}, ignore_failure: true}
      - {name: Question, manual.confirm: {that: It is dark}, timeout: 10m}
      - {name: Approved, shell.run: {command: "true"}, approve: true}
always:
  - {name: Tidy up, shell.run: {command: "echo done >> always"}}
  - {name: Last question, manual.confirm: {that: It is tidy}, timeout: 10m, ignore_failure: true}
"""
PROMPTS = {
    "before the first fault": [],
    "with faults in force": [("step 1: Pause one", ""), ("step 2: Kill two", "")],
    "after a step that failed": [("step 1", ""), ("step 2", ""), ("step 3: Look", ""), ("Look: FAILED", None)],
    "a question": [("step 1", ""), ("step 2", ""), ("step 3", ""), ("Look: FAILED", ""), ("It is dark", None)],
    "an approval": [
        ("step 1", ""), ("step 2", ""), ("step 3", ""), ("Look: FAILED", ""), ("It is dark", "y"), ("Go on?", None),
    ],
    "a step of always": [
        ("step 1", ""), ("step 2", ""), ("step 3", ""), ("Look: FAILED", ""), ("It is dark", "y"), ("Go on?", "y"),
        ("step 5", ""), ("step 6: Tidy up", None),
    ],
    "a question in always": [
        ("step 1", ""), ("step 2", ""), ("step 3", ""), ("Look: FAILED", ""), ("It is dark", "y"), ("Go on?", "y"),
        ("step 5", ""), ("step 6: Tidy up", ""), ("It is tidy", None),
    ],
}  # fmt: skip
"""How each prompt is reached: what is waited for, and what is typed then."""


class Pair:
    """Two real processes, and a k2run that an operator guides at a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "home")
        self.screen = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.keyboard = -1
        (folder / "stack.yaml").write_text(STACK)

    def stack(self):
        return load_stack(str(self.folder / "stack.yaml"), near=None, home=self.store.home, overrides={})

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "K2RUN_HOME": str(self.store.home), "TERM": "xterm", "COLUMNS": "100"}

    def write(self, kind: str = "scenario") -> None:
        (self.folder / "led.yaml").write_text(LED.replace("KIND", kind))

    def start(self, *words: str) -> None:
        """Start a command on a terminal that controls it, as a shell does."""
        self.keyboard, terminal = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", K2RUN, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        try:
            while data := os.read(self.keyboard, 4096):
                self.screen += data.decode(errors="replace")
        except OSError:
            pass  # the command has ended, or the terminal was closed

    def sees(self, text: str) -> None:
        _wait(lambda: text in self.screen, f"no {text!r} in", lambda: self.screen)
        self.screen = self.screen.partition(text)[2]

    def types(self, text: str) -> None:
        os.write(self.keyboard, text.encode())

    def reach(self, prompt: str) -> None:
        """Go on to a prompt, and stay there."""
        self.start("run", "led.yaml", "--stack", "stack.yaml", "--step")
        for text, key in PROMPTS[prompt]:
            self.sees(text)
            self.sees("> ")
            if key is not None:
                self.types(f"{key}\n")
        if not PROMPTS[prompt] or PROMPTS[prompt][-1][1] is not None:
            self.sees("> ")

    def events(self) -> list[AnyEvent]:
        return read_journal(self.store.find_run("last"))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [K2RUN, *words], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, timeout=60,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def runs_as_before(self) -> bool:
        looks = lifecycle.status(self.stack())
        states = [psutil.Process(look.status.pid).status() for look in looks if look.status.pid]
        return len(states) == 2 and psutil.STATUS_STOPPED not in states

    def finished(self) -> RunFinished | None:
        """How the run ended, once it says so."""
        try:
            last = self.events()[-1]
        except (IndexError, UsageError):
            return None
        return last if isinstance(last, RunFinished) else None

    def check(self, began: float) -> None:
        """The run has ended as one that was asked to: everything undone in time, and everything told."""
        _wait(lambda: self.finished() is not None, "the run has not ended:", self.events, UNDONE_S)
        assert self.runs_as_before()
        assert time.monotonic() - began < UNDONE_S
        finished, events = self.finished(), self.events()
        assert finished is not None
        assert (finished.exit_code, finished.outcome.value) == (3, "interrupted"), finished
        assert not pending_undos(events)
        assert (self.folder / "always").read_text() == "done\n"
        report = self.store.find_run("last") / "report.html"
        _wait(report.exists, "no report beside", lambda: list(report.parent.iterdir()))

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        lifecycle.stop(self.stack(), ["one", "two"])


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    pair.write()
    lifecycle.start(pair.stack(), None, Deadline(10))
    yield pair
    pair.close()


def _hang_up(pair: Pair) -> None:
    os.close(pair.keyboard)


def _sends(number: signal.Signals) -> Callable[[Pair], None]:
    def send(pair: Pair) -> None:
        assert pair.process is not None
        pair.process.send_signal(number)

    return send


def _abort(pair: Pair) -> None:
    done = pair.command("abort")
    assert done.returncode == 0, done.stdout + done.stderr


ENDS: dict[str, Callable[[Pair], None]] = {
    "terminal closed": _hang_up,
    "SIGHUP": _sends(signal.SIGHUP),
    "SIGTERM": _sends(signal.SIGTERM),
    "SIGQUIT": _sends(signal.SIGQUIT),
    "SIGUSR1": _sends(signal.SIGUSR1),
    "Ctrl-C": lambda pair: pair.types("\x03"),
    "Ctrl-D": lambda pair: pair.types("\x04"),
    "abort": _abort,
}
CHOSEN = [("terminal closed", "with faults in force"), ("SIGTERM", "a question in always"), ("Ctrl-C", "an approval")]
"""Always tried; all the others belong to the slow tests."""
MATRIX = [
    pytest.param(end, prompt, marks=() if (end, prompt) in CHOSEN else pytest.mark.slow)
    for prompt in PROMPTS
    for end in ENDS
    if not (end == "Ctrl-D" and "question" in prompt)  # there it is no answer, and the run goes on
    if not (end == "Ctrl-D" and prompt == "an approval")
]


@pytest.mark.parametrize(("end", "prompt"), MATRIX)
def test_a_guided_run_that_ends_at_a_prompt_is_undone_at_once(pair: Pair, end: str, prompt: str) -> None:
    pair.reach(prompt)
    began = time.monotonic()
    ENDS[end](pair)
    pair.check(began)
    assert pair.process is not None
    assert pair.process.wait(10) == 3


def test_a_guided_run_whose_pane_is_killed_is_undone_at_once(pair: Pair) -> None:
    _in_tmux(pair, f"{K2RUN} run led.yaml --stack stack.yaml --step", ["step 1", "step 2", "step 3"])


def test_a_live_run_whose_pane_is_killed_is_undone_and_reported(pair: Pair) -> None:
    text = LED.partition("      - {name: Look")[0] + '      - {name: Work, shell.run: {command: "sleep 60"}}\n'
    always = LED.partition("always:\n")[2].partition("  - {name: Last")[0]
    (pair.folder / "led.yaml").write_text(text.replace("KIND", "scenario") + "always:\n" + always)
    _in_tmux(pair, f"{K2RUN} run led.yaml --stack stack.yaml", ["2 of"])


def _in_tmux(pair: Pair, command: str, sees: list[str]) -> None:
    """A command in a shell in a pane, and the pane killed; each of `sees` but the last is answered with Enter."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    tmux = ["tmux", "-S", str(pair.folder / "tmux"), "-f", os.devnull]
    environment = {**pair.environment, "TERM": "screen"}
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", "120", "-y", "40", "bash", "--norc"],
        cwd=pair.folder, env=environment, check=True,
    )  # fmt: skip
    try:
        line = f"{command}; echo ended with $? > {shlex.quote(str(pair.folder / 'ended'))}"
        subprocess.run([*tmux, "send-keys", line, "Enter"], check=True)
        for number, text in enumerate(sees):
            _wait(lambda text=text: text in _pane(tmux), f"no {text!r} in", lambda: _pane(tmux))
            if number < len(sees) - 1:
                time.sleep(0.3)
                subprocess.run([*tmux, "send-keys", "Enter"], check=True)
        time.sleep(0.3)
        began = time.monotonic()
        subprocess.run([*tmux, "kill-pane"], check=True)
        pair.check(began)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)


def _pane(tmux: list[str]) -> str:
    return subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout


def test_a_recovery_whose_terminal_is_closed_ends_in_good_order_and_writes_its_timeline(pair: Pair) -> None:
    recoveries = pair.folder / "runbooks" / "recovery"
    recoveries.mkdir(parents=True)
    (recoveries / "led.yaml").write_text(LED.replace("KIND", "recovery"))
    pair.start("recover", "--runbook", "led", "--stack", "stack.yaml")
    for step in ("step 1", "step 2", "step 3"):
        pair.sees(step)
        pair.sees("> ")
        if step != "step 3":
            pair.types("\n")
    began = time.monotonic()
    _hang_up(pair)
    pair.check(began)
    timeline = pair.store.find_run("last") / "timeline.md"
    _wait(timeline.exists, "no timeline beside", lambda: list(timeline.parent.iterdir()))
    assert pair.process is not None
    assert pair.process.wait(10) == 3
    said = pair.command("status", "--stack", "stack.yaml").stdout
    assert "the recovery led that began at" in said
    assert "was interrupted at" in said
    assert "last step done: Kill two" in said
    assert f"`k2run resume {timeline.parent.name} --step` resumes it" in said
    pair.start("resume", "last", "--step")
    pair.sees("step 1: Pause one")
    pair.sees("> ")
    pair.types("a\n")
    assert pair.process.wait(10) == 3


def test_a_terminal_that_stands_still_keeps_nothing_from_being_undone(pair: Pair) -> None:
    pair.reach("with faults in force")
    pair.types("\x13")  # Ctrl-S: whatever is written waits
    time.sleep(0.3)
    began = time.monotonic()
    _sends(signal.SIGTERM)(pair)
    pair.check(began)
    pair.types("\x11")
    assert pair.process is not None
    assert pair.process.wait(10) == 3


def test_keys_that_mean_nothing_do_no_harm_and_a_note_is_kept_at_once(pair: Pair) -> None:
    pair.start("run", "led.yaml", "--stack", "stack.yaml", "--step")
    pair.sees("step 1: Pause one")
    pair.sees("> ")
    for wrong in ("\x1b[A", "\x1b[B\x1b[C", "?", "x", "\x1b"):
        pair.types(f"{wrong}\n")
        pair.sees("a abort · ? help")
        pair.sees("> ")
    assert not [event for event in pair.events() if isinstance(event, StepFinished)]
    pair.types("n the disk was full\n")
    pair.sees("noted")
    assert any("the disk was full" in getattr(event, "message", "") for event in pair.events())
    pair.sees("> ")
    pair.types("\n")
    pair.sees("undoes what this run broke, then ends: resume one")
    pair.sees("> ")
    pair.types("a\n")
    pair.sees("undoing 1 fault, then ending")
    assert pair.process is not None
    assert pair.process.wait(10) == 3


def _wait(holds: Callable[[], bool], says: str, what: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{says} {what()}"
        time.sleep(0.02)

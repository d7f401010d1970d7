"""Runs as processes of their own: started, on several stacks, aborted; a run continues when its starter dies."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
from msgspec import Struct

from k2run.engine.events import RunFinished, RunResumed, RunStarted
from k2run.engine.journal import ends_of, read_journal
from k2run.engine.judge import NOT_APPLICABLE_CODE
from k2run.engine.replay import ended, pending_undos, started
from k2run.engine.safeguards import sign_request
from k2run.engine.store import holder, running
from k2run.errors import Interrupted, K2runError, UsageError
from k2run.signals import listen
from k2run.stack.redactor import unsecret
from k2run.stack.secrets import Reference
from k2run.terminal.safe_stream import SafeStream, say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import TextIO

    from k2run.engine.events import AnyEvent
    from k2run.engine.store import Store

GIVEN = "--given"
"""The option with which a run takes its inputs from standard input."""
WATCH_S = 120.0
"""Seconds after which the end of a run is no longer followed; the run continues undoing."""
POLL_S = 0.1
_HOLDER = re.compile(r"(?P<run>\S+) \(pid (?P<pid>\d+)\)")


class Order(Struct, frozen=True, kw_only=True):
    """A run that is to be started.

    Attributes:
        by: Who asks for it, for its journal.
        inputs: Values, and what the author of a schedule wrote as a `Reference`.
        inbox: Questions are answered through the run's inbox; otherwise there are no prompts.
    """

    runbook: Path
    stack: str
    by: str
    inputs: Mapping[str, Any] = {}
    tags: tuple[str, ...] = ()
    inbox: bool = False


def command_of(order: Order) -> list[str]:
    """The command line for the run; values are passed on standard input."""
    words = [sys.executable, "-m", "k2run", "run", str(order.runbook), "--json", f"--by={order.by}"]
    words += [f"--stack={order.stack}"] if order.stack else []
    words += [f"--tags={','.join(order.tags)}"] if order.tags else []
    words += ["--inbox" if order.inbox else "--unattended"]
    return [*words, *(f"-e={name}={value}" for name, value in order.inputs.items() if isinstance(value, Reference))]


def start_detached(order: Order, home: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a run in a session of its own; signals for this process do not reach it."""
    values = {name: as_word(value) for name, value in order.inputs.items() if not isinstance(value, Reference)}
    return spawn(command_of(order), home, log, values)


def spawn(
    command: Sequence[str], home: Path, log: Path, values: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; what it prints goes into a log.

    Inputs of the run are not on the command line, which everybody on the machine can read, and where a text could
    name a place to read a secret from.
    """
    import os

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output, TemporaryFile() as given:
        given.write(msgspec.json.encode(values or {}))
        given.seek(0)
        return subprocess.Popen(
            [*command, *([GIVEN] if values else [])],
            stdin=given,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "K2RUN_HOME": str(home)},
            start_new_session=True,
        )


def read_given(reads: TextIO) -> dict[str, str]:
    """The values that `spawn` hands to a run: texts, each of them the value itself.

    Raises:
        UsageError: They are something else.
    """
    try:
        return msgspec.json.decode(reads.read(), type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{GIVEN}: no values on standard input: {error}", hint='pass a JSON object: {"name": "value"}'
        ) from error


def last_words(log: Path, lines: int = 4) -> str:
    """The end of the log of a run that never started."""
    try:
        return "; ".join(log.read_text(errors="replace", encoding="utf-8").strip().splitlines()[-lines:])
    except OSError:
        return ""


def as_word(value: Any) -> str:
    """A value in the form that an input accepts."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def one_after_the_other(stacks: Sequence[str], launch: Callable[[str], RunFinished]) -> int:
    """Run on each stack in turn; a run that cannot start does not keep the others from it, an interrupted one does.

    Returns:
        The worst exit code.
    """
    told: list[tuple[str, int, str]] = []
    for stack in stacks:
        say(f"=== {stack}")
        try:
            finished = launch(stack)
            told.append((stack, finished.exit_code, finished.verdict))
        except K2runError as error:
            told.append((stack, error.exit_code, unsecret(str(error))))
        if told[-1][1] == Interrupted.exit_code:
            told += [(left, Interrupted.exit_code, "not run") for left in stacks[len(told) :]]
            break
    return _summary(told)


def at_the_same_time(stacks: Sequence[str]) -> int:
    """Run on all stacks at once, each in a process of its own, told line by line with the stack's name before it.

    Returns:
        The worst exit code.
    """
    runs = [_started(stack, "--plain", stderr=subprocess.STDOUT) for stack in stacks]
    last = [""] * len(runs)

    def tell(number: int) -> None:
        width = max(map(len, stacks))
        for line in runs[number].stdout or ():
            say(f"{stacks[number]:<{width}} | {line.rstrip()}")
            if line.strip() and not line.startswith("report"):
                last[number] = line.strip()

    return _summary(list(zip(stacks, _all_told(runs, tell), last, strict=True)))


def as_json_lines(stacks: Sequence[str], *, at_once: bool) -> int:
    """Run on each stack, in turn or all at once; every line is one event as JSON, with its stack before its fields.

    Returns:
        The worst exit code.
    """
    worst = 0
    out = SafeStream(sys.stdout)  # the run of each has taken out what is secret
    for together in [list(stacks)] if at_once else [[stack] for stack in stacks]:
        runs = [_started(stack, "--json", stderr=None) for stack in together]

        def tell(number: int, names: Sequence[str] = together, runs: Sequence[subprocess.Popen[str]] = runs) -> None:
            for line in runs[number].stdout or ():
                if line.startswith("{"):
                    out.write(f'{{"stack":{json.dumps(names[number])},{line[1:].rstrip()}')

        codes = _all_told(runs, tell)
        worst = max(worst, *codes, key=_weight)
        if Interrupted.exit_code in codes:
            break
    return worst


def _started(stack: str, form: str, *, stderr: int | None) -> subprocess.Popen[str]:
    """This command in a process of its own, on one stack."""
    return subprocess.Popen(
        [sys.executable, sys.argv[0], *_without_stacks(sys.argv[1:]), "--stack", stack, form, "--unattended"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def _all_told(runs: Sequence[subprocess.Popen[str]], tell: Callable[[int], None]) -> list[int]:
    """Pass on what each run prints until all have ended; returns their exit codes."""
    threads = [threading.Thread(target=tell, args=(number,), daemon=True) for number in range(len(runs))]
    heed_no_more = listen((signal.SIGINT, signal.SIGTERM), lambda number: _pass_on(number, runs))
    try:
        for thread in threads:
            thread.start()
        codes = [run.wait() for run in runs]
        for thread in threads:
            thread.join()
    finally:
        heed_no_more()
    return codes


def _pass_on(number: signal.Signals, runs: Sequence[subprocess.Popen[str]]) -> None:
    """Pass a signal on to every run, so that each undoes its faults and ends."""
    for run in runs:
        if run.poll() is None:
            run.send_signal(number)


def _without_stacks(words: Sequence[str]) -> list[str]:
    """The command line without the options that each run gets itself."""
    kept: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word == "--stack":
            next(waiting, None)
        elif word not in {"--at-once", "--plain", "--json", "--unattended"} and not word.startswith("--stack="):
            kept.append(word)
    return kept


def _summary(told: Sequence[tuple[str, int, str]]) -> int:
    """Print how each run ended; the worst exit code."""
    width = max(len(stack) for stack, _, _ in told)
    say("\n=== all stacks")
    for stack, code, verdict in told:
        say(f"{stack:<{width}}  exit {code}  {verdict}")
    return max((code for _, code, _ in told), key=_weight)


def _weight(code: int) -> int:
    """Rank of an exit code: not applicable is worse than passed, and every failure is worse still."""
    return 0 if code == 0 else 1 if code == NOT_APPLICABLE_CODE else code + 1


def abort(store: Store, folder: Path, by: str) -> None:
    """Ask a run to end, in the name of who wants that; it undoes its faults first.

    Raises:
        UsageError: The run has ended, or its process is gone.
    """
    events = read_journal(folder)
    over = ended(events)
    if over is not None:
        raise UsageError(f"{folder.name} has ended: {over.verdict}")
    process = process_of(store, folder.name, events)
    if process is None:
        raise UsageError(
            f"{folder.name} is no longer running", hint="`k2run undo` undoes what it left, `k2run resume` continues it"
        )
    with suppress(OSError):  # only a name for its journal
        sign_request(folder, by)
    with suppress(psutil.NoSuchProcess):
        process.terminate()
        process.resume()  # one that stands still (SIGSTOP, Ctrl-Z) takes no other signal


def abort_and_watch(store: Store, reference: str, by: str) -> bool:
    """Ask a run to end, by default the one that runs, and show how it undoes its faults.

    Returns:
        Whether it has ended and left nothing broken.

    Raises:
        UsageError: There is no such run, or it has ended; without a reference: no run is in progress, or several are.
    """
    from k2run.terminal.mode import open_face

    folder = store.find_run(reference) if reference else _running(store)
    before = read_journal(folder)
    process = process_of(store, folder.name, before)
    abort(store, folder, by)
    say(f"{folder.name} was asked to end; it undoes its faults first")
    with open_face("plain", sys.stdout) as face:
        face.recall(before)
        shown = len(before)
        ends = time.monotonic() + WATCH_S
        while True:
            over = process is None or not process.is_running() or time.monotonic() > ends
            events = read_journal(folder)
            for event in events[shown:]:
                face.see(event)
            shown = len(events)
            if over or isinstance(events[-1], RunFinished):
                return isinstance(events[-1], RunFinished) and not pending_undos(events)
            time.sleep(POLL_S)


def _running(store: Store) -> Path:
    """The one run in progress: it holds the lock of its stack.

    Raises:
        UsageError: There is none, or several.
    """
    names = running(store.home)
    if len(names) == 1:
        return store.home / "runs" / names[0]
    if not names:
        raise UsageError("no run is in progress", hint="`k2run undo` undoes what an interrupted one left")
    raise UsageError(f"{len(names)} runs are in progress", hint=f"choose one: {', '.join(names)}")


def run_by(store: Store, by: str, earliest: str) -> tuple[Path, RunFinished | None] | None:
    """The newest run that was started under that name since `earliest`, such as `20261121-090312`; and its end."""
    for folder in reversed(store.runs()):
        if folder.name[: len(earliest)] < earliest:
            return None
        begun, over = ends_of(folder)
        if begun is not None and begun.by == by:
            return folder, over
    return None


def process_of(store: Store, run: str, events: Sequence[AnyEvent]) -> psutil.Process | None:
    """The process that does a run now: it holds the lock of the stack in the name of the run, and the journal names it.

    The lock is only probed while its text names the run and that process lives: a probe of a free lock could get in the
    way of a process that is about to take it.
    """
    folder = store.stack_folder(started(events).stack)
    pid = next((event.pid for event in reversed(events) if isinstance(event, RunStarted | RunResumed)), 0)
    try:
        said = _HOLDER.match((folder / "lock").read_text(encoding="utf-8"))
        if said is None or (said["run"], int(said["pid"])) != (run, pid):
            return None
        process = psutil.Process(pid)
        return process if _HOLDER.match(holder(folder)) else None
    except (OSError, psutil.NoSuchProcess):
        return None

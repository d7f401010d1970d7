"""One runbook on several stacks: each run has a journal of its own, and one summary tells how they ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from k2run.errors import Interrupted, K2runError
from k2run.heard_signals import listen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from k2run.engine.events import RunFinished


def one_after_the_other(stacks: Sequence[str], launch: Callable[[str], RunFinished]) -> int:
    """Run on each stack in turn; a run that cannot start does not keep the others from it, an interrupted one does.

    Returns:
        The worst exit code.
    """
    told: list[tuple[str, int, str]] = []
    for stack in stacks:
        print(f"=== {stack}")
        try:
            finished = launch(stack)
            told.append((stack, finished.exit_code, finished.verdict))
        except K2runError as error:
            told.append((stack, error.exit_code, str(error)))
        if told[-1][1] == Interrupted.exit_code:
            told += [(left, Interrupted.exit_code, "not run") for left in stacks[len(told) :]]
            break
    return _summary(told)


def at_the_same_time(stacks: Sequence[str]) -> int:
    """Run on all stacks at once, each in a process of its own, told line by line with the stack's name before it.

    Returns:
        The worst exit code.
    """
    rest = _without_stacks(sys.argv[1:])
    runs = [
        subprocess.Popen(
            [sys.executable, sys.argv[0], *rest, "--stack", stack, "--plain", "--unattended"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for stack in stacks
    ]
    last = [""] * len(runs)

    def tell(number: int) -> None:
        width = max(map(len, stacks))
        for line in runs[number].stdout or ():
            print(f"{stacks[number]:<{width}} | {line}", end="", flush=True)
            if line.strip() and not line.startswith("report"):
                last[number] = line.strip()

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
    return _summary(list(zip(stacks, codes, last, strict=True)))


def _pass_on(number: signal.Signals, runs: Sequence[subprocess.Popen[str]]) -> None:
    """A signal ends every run in its own good order."""
    for run in runs:
        if run.poll() is None:
            run.send_signal(number)


def _without_stacks(words: Sequence[str]) -> list[str]:
    """The command line without what each run is given anew."""
    kept: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word == "--stack":
            next(waiting, None)
        elif word not in {"--at-once", "--plain", "--unattended"} and not word.startswith("--stack="):
            kept.append(word)
    return kept


def _summary(told: Sequence[tuple[str, int, str]]) -> int:
    """Print how each run ended; the worst exit code."""
    width = max(len(stack) for stack, _, _ in told)
    print("\n=== all stacks")
    for stack, code, verdict in told:
        print(f"{stack:<{width}}  exit {code}  {verdict}")
    return max(code for _, code, _ in told)

"""One runbook on several stacks: each run has a journal of its own, and one summary tells how they ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from k2run.engine.outcomes import NOT_APPLICABLE_CODE
from k2run.errors import Interrupted, K2runError
from k2run.signals import listen
from k2run.stack.redactor import unsecret
from k2run.terminal.safe_stream import SafeStream, say

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
    """Tell what each run prints until all have ended; their exit codes."""
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
    """A signal ends every run in its own good order."""
    for run in runs:
        if run.poll() is None:
            run.send_signal(number)


def _without_stacks(words: Sequence[str]) -> list[str]:
    """The command line without what each run is given itself."""
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
    """How bad an exit code is: a run that does not apply has not passed, and every failure is worse."""
    return 0 if code == 0 else 1 if code == NOT_APPLICABLE_CODE else code + 1

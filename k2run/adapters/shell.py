"""Shell commands, each in a process group of its own that ends with its step."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.actions.action import Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.errors import Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

SLICE = 0.1
"""Seconds of one wait; a request to stop is noticed within it."""
SLICE_BLIND = 0.01
"""Seconds of one wait where the system does not tell that a process has ended."""
HEAD_START = 0.005
"""Seconds in which a command's output waits in its pipes."""
CHUNK = 64 * 1024
PIPE = 2**20
"""Bytes that a pipe holds at most (Linux)."""
GRACE = 0.2
"""Seconds between SIGTERM and SIGKILL."""
KEPT = 32 * 1024
"""Bytes kept of the beginning, and again of the end, of each output."""
QUOTED = 300
"""Characters of an output that an error quotes."""
_WORDS = re.compile(r"[\w./:@%+,-]+( +[\w./:@%+,=-]+)*", re.ASCII)
"""A line in which no character means anything to a shell."""
_SHELLS_OWN = frozenset(
    (
        *(".", ":", "alias", "bg", "break", "builtin", "case", "cd", "chdir", "command", "continue", "declare", "do"),
        *(
            "done",
            "echo",
            "elif",
            "else",
            "esac",
            "eval",
            "exec",
            "exit",
            "export",
            "fc",
            "fg",
            "fi",
            "for",
            "function",
        ),
        *("getopts", "hash", "if", "in", "jobs", "kill", "let", "local", "login", "logout", "printf", "pwd", "read"),
        *("readonly", "return", "select", "set", "shift", "source", "test", "then", "time", "times", "trap", "type"),
        *("typeset", "ulimit", "umask", "unalias", "unset", "until", "wait", "while"),
    )
)
"""First words that a shell does not look for on PATH."""


class Finished(Result, frozen=True, kw_only=True):
    """A command that ended by itself.

    Attributes:
        exit_code: Its exit code; minus the number of the signal that ended it.
        stdout: What it printed, without the last line break; of very long output the beginning and the end.
        stderr: Its complaints, likewise.
        stdout_bytes: How much it printed.
        stderr_bytes: How much it complained.
        elapsed_ms: From the start to the end of the process.
    """

    exit_code: int
    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int
    elapsed_ms: float

    def headline(self) -> str:
        """The exit code and the last line printed."""
        last = self.stdout.rsplit("\n", 1)[-1][:80]
        return f"exit {self.exit_code}" + (f", {last}" if last else "")


@action("shell.run", effect=Effect.CHANGES, punctual=True)
def run(
    deadline: Deadline,
    command: str | list[str],
    env: dict[str, str] = {},
    cwd: str = "",
    stdin: str = "",
    ok_codes: list[int] = [0],
) -> Finished:
    """Run a command and keep what it prints; it, and all that it started, ends at the step's deadline.

    Args:
        command: A line for `/bin/sh`, or a list of a program and its arguments. The shell is left out, as `make` does,
            where the line is nothing but a program and plain words.
        env: Environment variables, beside those of k2run itself.
        cwd: Directory to run in.
        stdin: Text for its standard input.
        ok_codes: Exit codes that count as success.
    """
    deadline.remaining()
    started = time.perf_counter()
    process = _start(command, env, cwd, with_input=bool(stdin))
    talk = _Talk(process, stdin.encode())
    try:
        talk.until_exit(deadline)
    except BaseException:
        _end(process)
        raise
    finally:
        talk.close()
    elapsed = time.perf_counter() - started
    if process.returncode not in ok_codes:
        raise Refused(f"{_shown(command)} {_ending(process.returncode)}{talk.last_words()}")
    return Finished(
        exit_code=process.returncode,
        stdout=talk.stdout.text(),
        stderr=talk.stderr.text(),
        stdout_bytes=talk.stdout.size,
        stderr_bytes=talk.stderr.size,
        elapsed_ms=round(elapsed * 1000, 3),
    )


def _start(command: str | list[str], env: Mapping[str, str], cwd: str, *, with_input: bool) -> subprocess.Popen[bytes]:
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    if not argv:
        raise Refused("the command is empty")

    def popen(words: list[str], program: str | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            executable=program,
            env={**os.environ, **env} if env else None,
            cwd=cwd or None,
            stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )

    try:
        program = _without_shell(command, env.get("PATH")) if isinstance(command, str) else None
        if program is not None:
            with contextlib.suppress(OSError):  # then the shell says what is wrong with it
                return popen(str(command).split(), program)
        return popen(argv)
    except OSError as error:
        what = cwd if cwd and not Path(cwd).is_dir() else argv[0]
        raise Unreachable(f"{what} cannot be run: {error.strerror}", hint="is it installed, and on PATH?") from error
    except ValueError as error:
        raise Refused(f"{_shown(command)} cannot be run: {error}") from error


@lru_cache(256)
def _without_shell(line: str, path: str | None) -> str | None:
    """The file of the program of a line to which a shell would add nothing; None when it would add something."""
    if not _WORDS.fullmatch(line):
        return None
    program = line.split(maxsplit=1)[0]
    if "/" in program or program in _SHELLS_OWN:
        return None
    found = shutil.which(program, path=path)
    return found if found is not None and Path(found).is_absolute() else None


@dataclass(slots=True)
class _Kept:
    """An output in bounded memory: its beginning and its end."""

    size: int = 0
    _head: bytearray = field(default_factory=bytearray)
    _tail: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        room = KEPT - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * KEPT:
            del self._tail[:-KEPT]

    def text(self) -> str:
        tail = bytes(self._tail[-KEPT:])
        left_out = self.size - len(self._head) - len(tail)
        between = f"\n… {left_out:,} bytes left out …\n" if left_out else ""
        return (self._head.decode("utf-8", "replace") + between + tail.decode("utf-8", "replace")).rstrip("\r\n")


class _Talk:
    """Feeds a process and hears it, until it ends.

    Its end is the end of the process, not of its pipes: a server that it left behind may hold them open for ever.
    """

    def __init__(self, process: subprocess.Popen[bytes], stdin: bytes) -> None:
        self.stdout = _Kept()
        self.stderr = _Kept()
        self._process = process
        self._unsent = memoryview(stdin)
        self._poll = select.poll()
        self._heard: dict[int, _Kept] = {}
        for pipe, kept in ((process.stdout, self.stdout), (process.stderr, self.stderr)):
            if pipe is not None:
                self._heard[pipe.fileno()] = kept
                self._poll.register(pipe.fileno(), select.POLLIN)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._poll.register(process.stdin.fileno(), select.POLLOUT)
        self._exit = _exit_of(process.pid)
        self._slice = SLICE
        if self._exit is None:
            self._slice = SLICE_BLIND
        else:
            self._poll.register(self._exit, select.POLLIN)

    def until_exit(self, deadline: Deadline) -> None:
        if self._exit is not None and not self._unsent:
            # A short command is over before its pipes matter: one wake-up instead of three.
            only_exit = select.poll()
            only_exit.register(self._exit, select.POLLIN)
            only_exit.poll(deadline.at_most(HEAD_START) * 1000)
        while self._process.poll() is None:
            if self._exit is None and not self._heard:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(deadline.at_most(SLICE))
            else:
                self._turn(self._poll.poll(deadline.at_most(self._slice) * 1000))
        self._drain()

    def _drain(self) -> None:
        """What the process itself printed is in the pipes by now; what others go on printing is not waited for."""
        for _ in range(2 * PIPE // CHUNK):
            if not self._turn(self._poll.poll(0)):
                return

    def _turn(self, ready: list[tuple[int, int]]) -> bool:
        """Whether anything was heard."""
        heard = False
        for pipe, _ in ready:
            if pipe in self._heard:
                heard = True
                self._hear(pipe)
            elif pipe != self._exit:
                self._feed()
        return heard

    def _hear(self, pipe: int) -> None:
        if data := os.read(pipe, CHUNK):
            self._heard[pipe].add(data)
        else:
            self._poll.unregister(pipe)
            del self._heard[pipe]

    def _feed(self) -> None:
        pipe = self._process.stdin
        if pipe is None:
            return
        try:
            self._unsent = self._unsent[os.write(pipe.fileno(), self._unsent[:CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not want to hear more
            self._unsent = self._unsent[:0]
        if not self._unsent:
            self._poll.unregister(pipe.fileno())
            pipe.close()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        if self._exit is not None:
            os.close(self._exit)

    def last_words(self) -> str:
        said = (self.stderr.text() or self.stdout.text()).strip()
        return f": {said[-QUOTED:]}" if said else ""


def _exit_of(pid: int) -> int | None:
    """A file descriptor that is readable once the process has ended, where the system has such (Linux)."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group, and descendants that left it; politely first, then for good."""
    others = _descendants(process.pid)
    _signal(process.pid, others, signal.SIGTERM)
    patience = time.monotonic() + GRACE
    while time.monotonic() < patience and (process.poll() is None or _group_lives(process.pid)):
        time.sleep(0.01)
    _signal(process.pid, others, signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> list[int]:
    """Processes below `pid` that made a session of their own and so left the group."""
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True) if os.getpgid(child.pid) != pid]
    except (psutil.Error, OSError):
        return []


def _signal(group: int, others: list[int], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
    for pid in others:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _shown(command: str | list[str]) -> str:
    import shlex

    text = command if isinstance(command, str) else shlex.join(command)
    line = " ".join(text.split())
    return f"`{line[:100]}…`" if len(line) > 100 else f"`{line}`"  # noqa: PLR2004 - characters that fit a line


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"

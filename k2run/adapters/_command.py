"""A command that belongs to one step: fed, heard in bounded memory, and ended with all that it started."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from msgspec import Struct, field

from k2run.actions.action import Result
from k2run.errors import Unknown
from k2run.language.expressions import gap
from k2run.signals import has_terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k2run.actions.deadline import Deadline

SLICE = 0.1
"""Seconds of one wait; a request to stop is noticed within it."""
SLICE_BLIND = 0.01
"""Seconds of one wait where the system does not tell that a process has ended."""
HEAD_START = 0.003
"""Seconds in which nothing is done but to look whether it has ended; its output waits in its pipes."""
CHUNK = 64 * 1024
PIPE = 2**20
"""Bytes that a pipe holds at most (Linux)."""
GRACE = 0.2
"""Seconds between SIGTERM and SIGKILL."""
WHOLE = 8 * 2**20
"""Bytes of an output that are kept whole."""
KEPT = 32 * 1024
"""Bytes kept of the beginning, and again of the end, of a longer output, and of any in the journal."""

_looking = threading.Lock()
"""Held by the one command whose end is looked for without sleeping."""


class Kept(Struct):
    """An output in bounded memory: all of it, or its beginning and its end."""

    size: int = 0
    _head: bytearray = field(default_factory=bytearray)
    _tail: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        room = WHOLE - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * KEPT:
            del self._tail[:-KEPT]

    @property
    def truncated(self) -> bool:
        """Whether a part of it was not kept."""
        return self.size > WHOLE

    def text(self) -> str:
        """What is kept, without the last line break."""
        return self.as_printed().rstrip("\r\n")

    def as_printed(self) -> str:
        """What is kept, to its last character."""
        if not self.truncated:
            return self._head.decode("utf-8", "replace")
        tail = (self._head + self._tail)[-KEPT:]
        return _joined(bytes(self._head[:KEPT]), self.size - KEPT - len(tail), bytes(tail))


def shortened(text: str) -> str:
    """A text as the journal keeps it: of a long one the beginning and the end."""
    if len(text) <= KEPT:  # no character takes fewer bytes than one
        return text
    content = text.encode("utf-8", "replace")
    if len(content) <= 2 * KEPT:
        return text
    return _joined(content[:KEPT], len(content) - 2 * KEPT, content[-KEPT:])


def _joined(head: bytes, left_out: int, tail: bytes) -> str:
    return head.decode("utf-8", "replace") + gap(left_out) + tail.decode("utf-8", "replace")


class Child:
    """A process in a group of its own, with pipes to hear it by.

    On a terminal it is in a session of its own too: it finds no terminal there, where else it would stop at the first
    question and wait for an answer that cannot come.

    Its end is the end of the process, not of its pipes: a server that it left behind may hold them open for ever.
    As a block it is ended by whatever error leaves the block.

    Args:
        words: The program and its arguments.
        program: The program's file, where that is known already.
        env: Its environment; None for the one of k2run.
        cwd: Directory to run in; "" for the one of k2run.
        stdin: What it is fed.

    Attributes:
        stdout: What it printed.
        stderr: What it complained.

    Raises:
        OSError: It cannot be run.
        ValueError: A word or a name of the environment has a character that the system does not take.
    """

    def __init__(
        self, words: Sequence[str], *, program: str | None, env: Mapping[str, str] | None, cwd: str, stdin: bytes
    ) -> None:
        (out, its_out), (err, its_err) = self._pipes = _pipes()
        try:
            alone = has_terminal()
            self._process = subprocess.Popen(
                words,
                executable=program,
                env=env,
                cwd=cwd or None,
                stdin=subprocess.PIPE if stdin else _nothing(),
                stdout=its_out,
                stderr=its_err,
                bufsize=0,
                start_new_session=alone,
                process_group=None if alone else 0,
            )
        except BaseException:
            os.close(out)
            os.close(err)
            raise
        finally:
            os.close(its_out)
            os.close(its_err)
        # From here on it runs: what is made now costs no time of its own.
        self.stdout = Kept()
        self.stderr = Kept()
        self._unsent = memoryview(stdin)
        self._exit: int | None = None
        self._poll = select.poll()
        self._heard = {out: self.stdout, err: self.stderr}
        for pipe in self._heard:
            self._poll.register(pipe, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _at: object) -> None:
        try:
            if error is not None:
                self.end()
        finally:
            self.close()

    def until_exit(self, deadline: Deadline) -> int:
        """Feed it and hear it until it ends; its exit code, or minus the number of the signal that ended it.

        Raises:
            TimedOut: It did not end in time.
            Interrupted: The run was asked to end.
            Unknown: It has ended, and something else took its exit code.
        """
        if self._unsent or not self._ends_at_once(deadline):
            self._converse(deadline)
        self._drain()
        return self._process.returncode

    def _ends_at_once(self, deadline: Deadline) -> bool:
        """Whether it has ended before its pipes matter.

        A processor that went to sleep for so short a time would wake up late, and with all that it knew forgotten: that
        costs a command that does nothing a twentieth of its time. One command at a time is watched so, and whoever
        else wants the processor has it meanwhile.
        """
        over = time.monotonic() + deadline.at_most(HEAD_START)
        if not _looking.acquire(blocking=False):
            return False
        try:
            while not self._has_ended():
                if time.monotonic() > over:
                    return False
                _give_way()
        finally:
            _looking.release()
        return True

    def _converse(self, deadline: Deadline) -> None:
        self._exit = _exit_of(self._process.pid)
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)
            self._poll.register(self._process.stdin, select.POLLOUT)
        if self._exit is not None:
            self._poll.register(self._exit, select.POLLIN)
        wait = SLICE_BLIND if self._exit is None else SLICE
        while not self._has_ended():
            for pipe, _ in self._poll.poll(deadline.at_most(wait) * 1000):
                if pipe in self._heard:
                    self._hear(pipe)
                elif pipe != self._exit:
                    self._feed()

    def _has_ended(self) -> bool:
        """Whether it has ended; if so, its exit code is known.

        `Popen.poll` would take an exit code that the system has not kept for 0.
        """
        process = self._process
        if process.returncode is None:
            try:
                pid, status = os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError as error:
                raise Unknown(
                    "the command has ended, and how is not known: something else took its exit code",
                    hint="is SIGCHLD ignored, or does another part of this process wait for all children?",
                ) from error
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode is not None

    def _drain(self) -> None:
        """What the process itself printed is in the pipes by now; what others go on printing is not waited for."""
        for _ in range(2 * PIPE // CHUNK):
            said = False
            for pipe, state in self._poll.poll(0):
                if state & select.POLLIN and pipe in self._heard:
                    self._hear(pipe)
                    said = True
            if not said:
                return

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

    def end(self) -> None:
        """End the whole group, and descendants that left it; politely first, then for good."""
        from k2run.stack.process_group import end_group

        end_group(self._process, GRACE)

    def close(self) -> None:
        """Give its pipes back."""
        for mine, _ in self._pipes:
            os.close(mine)
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._exit is not None:
            os.close(self._exit)

    def last_words(self) -> str:
        """What it complained of at the end, or printed."""
        return (self.stderr.text() or self.stdout.text()).strip()


def _pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """Two pipes, or none."""
    first = os.pipe()
    try:
        return first, os.pipe()
    except OSError:
        for each in first:
            os.close(each)
        raise


@cache
def _give_way() -> None:
    """Let others have the processor."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()
    else:
        time.sleep(0)


@cache
def _nothing() -> int:
    """What a process reads that is fed nothing; opened once."""
    return os.open(os.devnull, os.O_RDONLY)


def _exit_of(pid: int) -> int | None:
    """A file descriptor that is readable once the process has ended, where the system has such (Linux)."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


class Ended(NamedTuple):
    """A command that ended by itself."""

    exit_code: int
    stdout: str
    stderr: str


def run(words: Sequence[str], deadline: Deadline) -> Ended:
    """Run a program to its end; it, and all that it started, ends at the deadline or with the run.

    Raises:
        OSError: It cannot be run.
        TimedOut: It did not end in time.
        Interrupted: The run was asked to end.
    """
    with Child(words, program=None, env=None, cwd="", stdin=b"") as child:
        return Ended(child.until_exit(deadline), child.stdout.as_printed(), child.stderr.as_printed())


OUTPUTS = ("stdout", "stderr")


class Printed(Result, frozen=True, kw_only=True):
    """A command that printed something.

    Attributes:
        stdout: What it printed; of more than 8 MiB the beginning and the end.
        stderr: Its complaints, likewise.
        truncated: Only the beginning and the end of one of them are here; what an expression would find is unknown.
    """

    stdout: str
    stderr: str
    truncated: bool = False

    def plain(self) -> dict[str, Any]:
        """For the journal: of a long output the beginning and the end."""
        built = super().plain()
        for name in OUTPUTS:
            short = shortened(built[name])
            built["truncated"] |= short is not built[name]
            built[name] = short
        return built

    def beside(self) -> dict[str, str]:
        """Outputs that the journal does not keep whole."""
        return {name: text for name in OUTPUTS if shortened(text := getattr(self, name)) is not text}

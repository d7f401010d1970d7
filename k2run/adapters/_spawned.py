"""A process started by `posix_spawn`: the short way, for what needs nothing that only `subprocess` can do.

`subprocess.Popen` costs a command that ends at once some 5 % of its time more.
"""

from __future__ import annotations

import os
import signal
from functools import cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CLOSE_RANGE_CLOEXEC = 1 << 2
"""From `linux/close_range.h`: the descriptors are not closed now, but by whatever program is started."""
LAST = 2**31 - 1
IGNORED_BY_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""Signals that the interpreter ignores, and that other programs expect to end them."""


def spawn(
    program: str, words: Sequence[str], *, env: Mapping[str, str] | None, streams: tuple[int, int, int], alone: bool
) -> Spawned | None:
    """Start a program in a process group of its own; None where this system has no short way to do so.

    Args:
        program: Its file.
        words: Its name and its arguments.
        env: Its environment; None for the one that k2run was started with.
        streams: Its standard input, output and error.
        alone: In a session of its own too.

    Raises:
        OSError: It cannot be run.
        ValueError: A word or a name of the environment has a character that the system does not take.
    """
    close_range = _close_range()
    if close_range is None or min(streams) <= 2:  # noqa: PLR2004 - one that stands in another one's place
        return None
    if close_range(3, LAST, CLOSE_RANGE_CLOEXEC):  # some libraries open their files for everybody
        return None
    pid = os.posix_spawn(
        program,
        list(words),
        _environment() if env is None else env,
        file_actions=[(os.POSIX_SPAWN_DUP2, mine, its) for its, mine in enumerate(streams)],
        setsigdef=_not_ignored(),
        **({"setsid": True} if alone else {"setpgroup": 0}),
    )
    return Spawned(pid)


class Spawned(Struct):
    """A process of which `subprocess` knows nothing, asked in the same words.

    Attributes:
        pid: Its number.
        returncode: Its exit code, or minus the number of the signal that ended it; None as long as it runs.
        stdin: Nothing: it is not fed.
    """

    pid: int
    returncode: int | Any = None
    stdin: None = None

    def wait(self) -> int:
        """Its exit code, as soon as it has ended.

        Raises:
            Unknown: It has ended, and its exit code went to somebody else.
        """
        self.poll(0)
        return self.returncode

    def poll(self, flags: int = os.WNOHANG) -> int | None:
        """Its exit code, if it has ended.

        Raises:
            Unknown: It has ended, and its exit code went to somebody else.
        """
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, flags)
            except ChildProcessError as error:
                raise Unknown(
                    "the command has ended, and how is not known: its exit code went to somebody else",
                    hint="is SIGCHLD ignored, or does another part of this process wait for all children?",
                ) from error
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


@cache
def _close_range() -> Callable[[int, int, int], int] | None:
    """The C library's `close_range` (Linux 5.11, glibc 2.34), which Python does not offer."""
    import ctypes

    return getattr(ctypes.CDLL(None), "close_range", None)


@cache
def _not_ignored() -> list[int]:
    """The signals that a program is to find as they are by default: all that k2run was not started to ignore.

    A program finds those with handlers so anyway; but about each that is not named the C library asks the system first.
    """
    ignored = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
    return sorted(signal.valid_signals() - (ignored - IGNORED_BY_PYTHON))


@cache
def _environment() -> dict[bytes, bytes]:
    """The environment of k2run; asking for it anew would cost as much as is saved."""
    return dict(os.environb)

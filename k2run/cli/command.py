"""How a function becomes a command: an Invoke task whose errors are messages and whose result is the exit code."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

from invoke import Exit, Task

from k2run.errors import ActionError, K2runError, NotApplicable, OperatorError, RunbookInvalid, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STACK = "path or name of the stack (the only one here by default, else the sandbox)"
RUN = "the run's id, a unique part of it, or `last`"

_PLACES = {
    errno.EACCES: "choose a path that this account may write to",
    errno.EPERM: "choose a path that this account may write to",
    errno.EROFS: "choose a path on a writable file system",
    errno.ENOENT: "its folder does not exist",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EISDIR: "this is a folder; give a file name",
    errno.ENOSPC: "the disk is full; free some space or choose another path",
}
"""Errors about a path to write to, and what to do next."""


def command(
    *,
    help: dict[str, str] | None = None,  # noqa: A002 - as Invoke calls it
    positional: tuple[str, ...] = (),
    **options: Any,
) -> Callable[[Callable[..., int | None]], Task[Any]]:
    """Make an Invoke task of a function that returns its exit code."""

    def make(body: Callable[..., int | None]) -> Task[Any]:
        @wraps(body)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with _errors_as_messages():
                code = body(*args, **kwargs)
            if code:
                raise Exit(code=code)

        return Task(guarded, auto_shortflags=False, positional=positional, help=help or {}, **options)

    return make


@contextmanager
def _errors_as_messages() -> Iterator[None]:
    """Print every expected error as a message with its exit code, never as a traceback."""
    try:
        yield
    except RunbookInvalid as invalid:
        from k2run.language.problems import render

        _say(f"{render(invalid.problems)}\n\n{invalid}")
        raise Exit(code=invalid.exit_code) from None
    except K2runError as error:
        say_error(error.message, error.hint)
        raise Exit(code=_code(error)) from None
    except BrokenPipeError:
        raise Exit(code=1) from None
    except OSError as error:
        if error.filename is None or error.errno not in _PLACES:
            raise
        say_error(f"{os.fsdecode(error.filename)}: {os.strerror(error.errno)}", _PLACES[error.errno])
        raise Exit(code=UsageError.exit_code) from None


def _code(error: K2runError) -> int:
    """The exit code of a command; an action that no run called failed by the stack, or there is nothing to call."""
    if isinstance(error, NotApplicable):
        return UsageError.exit_code
    return OperatorError.exit_code if isinstance(error, ActionError) else error.exit_code


def say_error(message: str, hint: str) -> None:
    """Print an error and its hint on stderr, without secrets."""
    from k2run.stack.redactor import unsecret

    _say(f"error: {unsecret(message)}" + (f"\n  hint: {unsecret(hint)}" if hint else ""))


def _say(text: str) -> None:
    """Print on stderr; the exit code does not depend on whether anyone reads it."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON, without secrets."""
    from k2run.terminal.safe_stream import say_json

    say_json(value)


def say(*lines: str) -> None:
    """Print lines about a stack or a run, without secrets."""
    from k2run.terminal import safe_stream

    safe_stream.say(*lines)

"""Shell commands, each in a process group of its own that ends with its step."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.actions.action import Effect, action, beginning, ending
from k2run.actions.deadline import Deadline
from k2run.adapters._command import Child, Printed
from k2run.errors import Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

QUOTED = 300
"""Characters of an output that an error quotes."""
_WORDS = re.compile(r"[\w./:@%+,-]+( +[\w./:@%+,=-]+)*", re.ASCII)
"""A line in which no character means anything to a shell."""
_SHELLS_OWN = frozenset(
    (
        *(".", ":", "alias", "bg", "break", "builtin", "case", "cd", "chdir", "command", "continue", "declare", "do"),
        *("done", "echo", "elif", "else", "esac", "eval", "exec", "exit", "export", "fc", "fg", "fi", "for"),
        *("function", "getopts", "hash", "if", "in", "jobs", "kill", "let", "local", "login", "logout", "printf"),
        *("pwd", "read", "readonly", "return", "select", "set", "shift", "source", "test", "then", "time", "times"),
        *("trap", "type", "typeset", "ulimit", "umask", "unalias", "unset", "until", "wait", "while"),
    )
)
"""First words that a shell does not look for on PATH."""


class Finished(Printed, frozen=True, kw_only=True):
    """A command that ended by itself.

    Attributes:
        exit_code: Its exit code; minus the number of the signal that ended it.
        stdout: What it printed, without the last line break; of more than 8 MiB the beginning and the end.
        stderr: Its complaints, likewise.
        stdout_bytes: How much it printed.
        stderr_bytes: How much it complained.
        elapsed_ms: From the start to the end of the process.
        truncated: Only the beginning and the end of one of them are here; what an expression would find is unknown.
    """

    exit_code: int
    stdout_bytes: int
    stderr_bytes: int
    elapsed_ms: float

    def headline(self) -> str:
        """The exit code and the last line printed."""
        last = beginning(self.stdout.rsplit("\n", 1)[-1], 80)
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
        env: Environment variables, beside those that k2run was started with.
        cwd: Directory to run in.
        stdin: Text for its standard input.
        ok_codes: Exit codes that count as success.
    """
    return _finished(deadline, command, env, cwd, stdin, ok_codes)


@action("shell.probe", punctual=True)
def probe(
    deadline: Deadline,
    command: str | list[str],
    env: dict[str, str] = {},
    cwd: str = "",
    stdin: str = "",
    ok_codes: list[int] = [0],
) -> Finished:
    """Run a command that only observes, so it may be a symptom; that it changes nothing is its author's promise.

    Its exit code is an answer where `ok_codes` lists it, and `expect` says which answer is wanted: `ok_codes: [0, 1]`
    and `expect: result.exit_code == 1` for "grep finds no such line". With any other exit code the step fails; as a
    symptom it is unseen then.

    Args:
        command: A line for `/bin/sh`, or a list of a program and its arguments.
        env: Environment variables, beside those that k2run was started with.
        cwd: Directory to run in.
        stdin: Text for its standard input.
        ok_codes: Exit codes that are an answer.
    """
    return _finished(deadline, command, env, cwd, stdin, ok_codes)


def _finished(
    deadline: Deadline, command: str | list[str], env: Mapping[str, str], cwd: str, stdin: str, ok_codes: Sequence[int]
) -> Finished:
    deadline.remaining()
    started = time.perf_counter()
    with _start(command, env, cwd, stdin.encode()) as child:
        exit_code = child.until_exit(deadline)
    elapsed = time.perf_counter() - started
    finished = Finished(
        exit_code=exit_code,
        stdout=child.stdout.text(),
        stderr=child.stderr.text(),
        stdout_bytes=child.stdout.size,
        stderr_bytes=child.stderr.size,
        elapsed_ms=round(elapsed * 1000, 3),
        truncated=child.stdout.truncated or child.stderr.truncated,
    )
    if exit_code not in ok_codes:
        raise Refused(f"{_shown(command)} {_ending(exit_code)}{_quoted(child.last_words())}", result=finished)
    return finished


def _start(command: str | list[str], extra: Mapping[str, str], cwd: str, stdin: bytes) -> Child:
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    if not argv or not argv[0]:
        raise Refused("the command has no program", hint="check what gives its name: a template may be empty")
    env = {**os.environ, **extra} if extra else None
    try:
        program = _without_shell(command, extra.get("PATH")) if isinstance(command, str) else None
        if program is not None:
            try:
                return Child(str(command).split(), program=program, env=env, cwd=cwd, stdin=stdin)
            except OSError:  # the shell says what is wrong with it
                pass
        return Child(argv, program=None, env=env, cwd=cwd, stdin=stdin)
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


def _shown(command: str | list[str]) -> str:
    import shlex

    text = command if isinstance(command, str) else shlex.join(command)
    line = " ".join(text.split())
    return f"`{beginning(line, 100)}`"


def _quoted(said: str) -> str:
    return f": {ending(said, QUOTED)}" if said else ""


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"

"""Reads secrets from where a stack file says they are: never from the file itself.

env:NAME            an environment variable
file:PATH           the content of a file, without the newline at its end
keyring:SERVICE/USER  the system's keyring, through the Python package `keyring`
cmd:COMMAND         what a command prints
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.errors import StackInvalid
from k2run.language.inputs import SECRET_SOURCES
from k2run.stack.redactor import SHORTEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.language.document import Trail

COMMAND_LIMIT_S = 20.0

_REFERENCE = re.compile(
    r"(?P<source>env):(?P<name>[A-Za-z_]\w*)"
    r"|(?P<source2>file):(?P<path>(?!//).+)"  # file:// is a URL, as warehouses have it
    r"|(?P<source3>keyring):(?P<entry>[^/]+/.+)"
    r"|(?P<source4>cmd):(?P<command>.+)",
    re.DOTALL,
)


class Reference(Struct, frozen=True):
    """Where a secret is, as an author or an operator wrote it down.

    The type is the permission to read it. A text that came in any other way (the page, an alert, a computed value)
    stays a text, whatever it looks like: to follow it would run a stranger's command.

    Attributes:
        text: `env:NAME`, `file:PATH`, `keyring:SERVICE/USER` or `cmd:COMMAND`.
    """

    text: str

    def __str__(self) -> str:
        return self.text


def as_written(value: Any) -> Any:
    """A value that an author or an operator wrote: a `Reference` where it says where a secret is."""
    return Reference(value) if isinstance(value, str) and is_secret(value) else value


def as_text(value: Any) -> Any:
    """A value where nothing is to be read: a reference is the text that it is."""
    return value.text if isinstance(value, Reference) else value


def is_secret(text: str) -> bool:
    """Whether a text says where a secret is, rather than being an ordinary value."""
    return text.startswith(SECRET_SOURCES) and _REFERENCE.fullmatch(text) is not None


def read_secret(reference: str, *, near: Path) -> str:
    """The secret that a reference names.

    Args:
        reference: `env:NAME`, `file:PATH`, `keyring:SERVICE/USER` or `cmd:COMMAND`.
        near: The folder that a relative PATH starts from, and that the command runs in.

    Raises:
        StackInvalid: It is not there, empty, or too short to be kept out of the records.
    """
    source, _, rest = reference.partition(":")
    secret = _SOURCES[source](rest, near)
    check_long_enough(secret, reference)
    return secret


class TooShort(StackInvalid):
    """A secret is too short to be kept out of the records."""


def check_long_enough(secret: str, source: str) -> None:
    """Refuse a secret that cannot be masked, wherever it comes from.

    Raises:
        TooShort: It is empty or too short.
    """
    if len(secret.strip()) < SHORTEST:
        raise TooShort(
            f"the secret {source} is {'empty' if not secret else f'shorter than {SHORTEST} characters'}",
            hint="a short one cannot be told from ordinary text, so it could not be kept out of the records",
        )


def _from_environment(name: str, near: Path) -> str:  # noqa: ARG001 - all sources have the same form
    if name not in os.environ:
        raise StackInvalid(f"the secret env:{name} is not set", hint=f"export {name}=… before the run")
    return os.environ[name]


def _from_file(path: str, near: Path) -> str:
    place = near / Path(path).expanduser()
    try:
        return place.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise StackInvalid(f"the secret file:{path} cannot be read: {reason}", hint=f"checked {place}") from error


def _from_keyring(entry: str, near: Path) -> str:  # noqa: ARG001 - all sources have the same form
    service, _, user = entry.partition("/")
    try:
        keyring = import_module("keyring")
    except ImportError:
        raise StackInvalid(
            f"the secret keyring:{entry} needs the package `keyring`", hint="install it beside k2run"
        ) from None
    secret: str | None = keyring.get_password(service, user)
    if secret is None:
        raise StackInvalid(f"the keyring has no entry {entry}", hint=f"`keyring set {service} {user}` makes it")
    return secret


def _from_command(command: str, near: Path) -> str:
    import subprocess

    try:
        done = subprocess.run(  # noqa: S602 - the stack's author wrote it as a shell command
            command, shell=True, cwd=near, capture_output=True, timeout=COMMAND_LIMIT_S, text=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StackInvalid(
            f"the secret cmd:{command} gave no value within {COMMAND_LIMIT_S:g}s", hint="does it wait for input?"
        ) from None
    if done.returncode != 0:
        raise StackInvalid(
            f"the secret cmd:{command} could not be read: it ended with {done.returncode}",
            hint=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it said nothing",
        )
    return done.stdout.rstrip("\r\n")


_SOURCES: dict[str, Callable[[str, Path], str]] = {
    "env": _from_environment,
    "file": _from_file,
    "keyring": _from_keyring,
    "cmd": _from_command,
}


def read_at_hand(read: Callable[..., str], reference: str, *, near: Path) -> str:
    """Read a secret for which nothing has to be run.

    Raises:
        StackInvalid: A command has to be run for it, or a keyring opened.
    """
    if not reference.startswith(("env:", "file:")):
        raise StackInvalid(f"the secret {reference} is not read before it is used")
    return read(reference, near=near)


def may_name_a_secret(trail: Trail) -> bool:
    """Whether a value at this place may name a secret; a command's arguments and URLs are what they look like."""
    return trail[0] in {"connections", "vars"} or (len(trail) > 2 and trail[2] in {"headers", "env", "ready"})  # noqa: PLR2004 - services, name, key

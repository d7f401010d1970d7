"""Who may do what: a file with a token for each person, and sessions that are signed with it."""

from __future__ import annotations

import getpass
import hmac
import os
import re
import stat
from enum import IntEnum
from hashlib import sha256
from secrets import token_hex, token_urlsafe
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.errors import OperatorError

if TYPE_CHECKING:
    from pathlib import Path

FILE = "tokens"
_NAME = re.compile(r"[\w.@+-]{1,64}")
_SHORTEST = 16
_HEAD = """\
# Who may use `k2run serve`: role, name, token. Roles: viewer (sees), operator (also starts, answers, aborts),
# approver (also confirms what only a person can vouch for). A line that is taken away ends its sessions at once.
"""


class Role(IntEnum):
    """What somebody may do; each role includes those before it."""

    NOBODY = 0
    VIEWER = 1
    OPERATOR = 2
    APPROVER = 3

    @property
    def word(self) -> str:
        """Its name as people write it."""
        return self.name.lower()


class Somebody(Struct, frozen=True, kw_only=True):
    """Who asks, as far as it is known.

    Attributes:
        csrf: What a form of this session must carry; empty for a bearer token, which no browser sends by itself.
    """

    name: str = ""
    role: Role = Role.NOBODY
    csrf: str = ""


class Entry(Struct, frozen=True, kw_only=True):
    """A line of the token file."""

    role: Role
    name: str
    token: str


class Tokens:
    """The token file of a k2run home; it is read again whenever it has changed.

    Args:
        home: The `.k2run` folder.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FILE
        self._seen: tuple[int, int] | None = None
        self._entries: tuple[Entry, ...] = ()

    def ensure(self) -> Entry:
        """The first entry of the file; when there is no file, one is made with an approver's token for this account.

        Raises:
            OperatorError: The file cannot be used, or everybody on this machine can read it.
        """
        if not self.path.exists():
            line = f"approver {getpass.getuser()} k2_{token_urlsafe(24)}\n"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w") as out:
                out.write(_HEAD + line)
        entries = self._read()
        if not entries:
            raise OperatorError(f"{self.path} names nobody", hint="delete it, and a new one is made")
        return entries[0]

    def by_token(self, token: str) -> Somebody:
        """Who has this token; nobody when it is unknown."""
        found = [entry for entry in self._read() if hmac.compare_digest(entry.token.encode(), token.encode())]
        return Somebody(name=found[0].name, role=found[0].role) if found else Somebody()

    def open_session(self, token: str) -> str:
        """The cookie of a new session for the person with this token; empty when nobody has it."""
        who = self.by_token(token)
        nonce = token_hex(16)
        return f"{who.name}:{nonce}:{_sign(token, 'session', who.name, nonce)}" if who.role else ""

    def by_session(self, cookie: str) -> Somebody:
        """Who holds this cookie; nobody when it is forged, or the token that signed it is gone."""
        name, _, rest = cookie.partition(":")
        nonce, _, signature = rest.partition(":")
        for entry in self._read():
            good = _sign(entry.token, "session", entry.name, nonce)
            if entry.name == name and hmac.compare_digest(good.encode(), signature.encode()):
                return Somebody(name=name, role=entry.role, csrf=_sign(entry.token, "form", name, nonce))
        return Somebody()

    def _read(self) -> tuple[Entry, ...]:
        try:
            found = self.path.stat()
        except OSError:
            return ()
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise OperatorError(f"{self.path} can be read by others", hint=f"chmod 600 {self.path}")
        if self._seen != (found.st_mtime_ns, found.st_size):
            self._entries = tuple(
                _entry(line, self.path, number)
                for number, line in enumerate(self.path.read_text().splitlines(), start=1)
                if line.strip() and not line.lstrip().startswith("#")
            )
            self._seen = (found.st_mtime_ns, found.st_size)
        return self._entries


def _entry(line: str, path: Path, number: int) -> Entry:
    words = line.split()
    roles = {role.word: role for role in Role if role}
    if len(words) != 3 or words[0] not in roles or not _NAME.fullmatch(words[1]):  # noqa: PLR2004 - role, name, token
        raise OperatorError(f"{path}:{number}: expected a role, a name and a token", hint=f"roles: {', '.join(roles)}")
    if len(words[2]) < _SHORTEST:
        raise OperatorError(f"{path}:{number}: a token has at least {_SHORTEST} characters")
    return Entry(role=roles[words[0]], name=words[1], token=words[2])


def _sign(token: str, *parts: str) -> str:
    return hmac.new(token.encode(), "\n".join(parts).encode(), sha256).hexdigest()

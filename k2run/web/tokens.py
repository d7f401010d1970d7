"""Who may do what: a file with a token for each person, and sessions that are signed with it."""

from __future__ import annotations

import hmac
import re
from enum import IntEnum
from hashlib import sha256
from secrets import token_hex, token_urlsafe
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.errors import OperatorError
from k2run.files import account_name, look_private, make_private
from k2run.used_once import Spent

if TYPE_CHECKING:
    from pathlib import Path

FILE = "tokens"
_NAME = re.compile(r"[\w.@+-]{1,64}")
_SHORTEST = 16
_DIGITS = 12
_SKEW_S = 60.0
"""Seconds by which a clock that was set back may make a session begin in the future."""
SESSION_S = 12 * 3600.0
"""Seconds after which a session ends, whatever the browser has kept."""
_HEAD = """\
# Who may use `k2run serve`: role, name, token. Roles: viewer (reads), operator (also starts, answers, aborts),
# approver (also confirms what only a person can vouch for). Removing a line ends its sessions at once.
"""


class Role(IntEnum):
    """What a user may do; each role includes those before it."""

    ANONYMOUS = 0
    VIEWER = 1
    OPERATOR = 2
    APPROVER = 3

    @property
    def word(self) -> str:
        """Its name as people write it."""
        return self.name.lower()


class User(Struct, frozen=True, kw_only=True):
    """The user of a request.

    Attributes:
        csrf: What a form of this session must carry; empty for a bearer token, which no browser sends by itself.
    """

    name: str = ""
    role: Role = Role.ANONYMOUS
    csrf: str = ""


class TokenEntry(Struct, frozen=True, kw_only=True):
    """A line of the token file."""

    role: Role
    name: str
    token: str


class Tokens:
    """The token file of a k2run home, which is read again whenever it has changed, and the sessions it has opened.

    Args:
        home: The `.k2run` folder.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FILE
        self._ended = Spent(home / "serve" / "ended-sessions", SESSION_S)
        self._seen: tuple[int, int] | None = None
        self._entries: tuple[TokenEntry, ...] = ()

    def ensure(self) -> TokenEntry:
        """The first entry of the file; when there is no file, one is made with an approver's token for this account.

        Raises:
            OperatorError: The file cannot be used, or other accounts can read it.
        """
        make_private(self.path, f"{_HEAD}approver {account_name()} k2_{token_urlsafe(24)}\n")
        entries = self._read()
        if not entries:
            raise OperatorError(f"{self.path} has no entries", hint="delete it; `k2run serve` makes a new one")
        return entries[0]

    def by_token(self, token: str) -> User:
        """The user of a token; anonymous when it is unknown."""
        found = [entry for entry in self._read() if hmac.compare_digest(entry.token.encode(), token.encode())]
        return User(name=found[0].name, role=found[0].role) if found else User()

    def open_session(self, token: str, now: float) -> str:
        """The cookie of a new session for the user of a token; empty when it is unknown."""
        who = self.by_token(token)
        mark = f"{int(now)}.{token_hex(16)}"
        return f"{who.name}:{mark}:{_sign(token, 'session', who.name, mark)}" if who.role else ""

    def by_session(self, cookie: str, now: float) -> User:
        """The user of a session; anonymous when it is forged, expired or signed out, or its token is gone."""
        name, _, rest = cookie.partition(":")
        mark, _, signature = rest.partition(":")
        if not _is_fresh(mark, now) or mark in self._ended:
            return User()
        for entry in self._read():
            good = _sign(entry.token, "session", entry.name, mark)
            if entry.name == name and hmac.compare_digest(good.encode(), signature.encode()):
                return User(name=name, role=entry.role, csrf=_sign(entry.token, "form", name, mark))
        return User()

    def end_session(self, cookie: str) -> None:
        """End a session, whatever the browser keeps."""
        mark = cookie.split(":")[1]
        if self._ended.take(mark):
            self._ended.keep(mark)

    def _read(self) -> tuple[TokenEntry, ...]:
        try:
            text, seen = look_private(self.path)
        except FileNotFoundError:
            return ()
        if self._seen != seen:
            self._entries = tuple(
                _entry(line, self.path, number)
                for number, line in enumerate(text.splitlines(), start=1)
                if line.strip() and not line.lstrip().startswith("#")
            )
            self._seen = seen
        return self._entries


def _is_fresh(mark: str, now: float) -> bool:
    """Whether a session was opened within the hours for which it lasts."""
    began = mark.partition(".")[0]
    return began.isdecimal() and began.isascii() and len(began) <= _DIGITS and -_SKEW_S <= now - int(began) < SESSION_S


def _entry(line: str, path: Path, number: int) -> TokenEntry:
    words = line.split()
    roles = {role.word: role for role in Role if role}
    if len(words) != 3 or words[0] not in roles or not _NAME.fullmatch(words[1]):  # noqa: PLR2004 - role, name, token
        raise OperatorError(f"{path}:{number}: expected a role, a name and a token", hint=f"roles: {', '.join(roles)}")
    if len(words[2]) < _SHORTEST:
        raise OperatorError(f"{path}:{number}: a token has at least {_SHORTEST} characters")
    return TokenEntry(role=roles[words[0]], name=words[1], token=words[2])


def _sign(token: str, *parts: str) -> str:
    return hmac.new(token.encode(), "\n".join(parts).encode(), sha256).hexdigest()

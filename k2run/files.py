"""Files that k2run writes and trusts: whole, of this account, no links; names in paths; marks that count once."""

from __future__ import annotations

import errno
import getpass
import os
import pwd
import re
import stat
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from k2run.errors import OperatorError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600
LONGEST, LONGEST_RUN = 128, 192
"""Bytes; a run's id adds its time to the name of its runbook, and most file systems end at 255."""
_NAME = re.compile(r"[^\W_][\w .,+@=~-]*(?<![ .])")
RUN = "a run"
KEPT_MARKS = 100_000
"""Marks in memory; far more than can come within their time, at the rate that the guard lets through."""


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A draft beside a file, which takes its place at the end; when anything goes wrong, the draft is thrown away.

    Raises:
        OSError: It cannot take its place.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def rewritten(path: Path, content: bytes) -> None:
    """Replace what is in a small file as a whole; on a full disk it is written over in its place: that takes no room.

    Raises:
        OSError: It cannot be written, or is not there yet and there is no room for it.
    """
    try:
        with drafted(path) as draft:
            draft.write_bytes(content)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        file = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(file, content, 0)
            os.ftruncate(file, len(content))
        finally:
            os.close(file)


def created(path: Path, content: bytes) -> bool:
    """Make a private file with its whole content at once, unless there is one; of several writers one does.

    Returns:
        Whether this one did.

    Raises:
        OSError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(content)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def own_folder(path: Path, within: Path) -> Path:
    """A private folder inside the k2run home, made when missing, as are those above it.

    Raises:
        UsageError: It, or a folder between it and the home, belongs to another account or is a link.
        OSError: It cannot be made.
    """
    if path != within:
        own_folder(path.parent, within)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=_PRIVATE_FOLDER)
    except FileExistsError:
        refuse_foreign(path)
    return path


def refuse_foreign(path: Path) -> None:
    """Refuse what another account has made, or could change; nothing happens when there is nothing.

    Raises:
        UsageError: It belongs to another account, is a link, or anybody may write it.
    """
    try:
        found = path.lstat()
    except OSError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise UsageError(f"{path} is a link to {path.readlink()}", hint="K2RUN_HOME names the folder itself")
    _refuse(path, found)


def open_own(path: Path, flags: int) -> int:
    """Open a file of this account; it is made private when the flags make it.

    Raises:
        UsageError: It belongs to another account, is a link or no plain file.
        OSError: It cannot be opened.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, _PRIVATE_FILE)
    except OSError:
        refuse_foreign(path)
        raise
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path} is no plain file", hint="move it away")  # noqa: TRY301 - closed like the others
        _refuse(path, found)
    except BaseException:
        os.close(file)
        raise
    return file


def read_own(path: Path) -> bytes:
    """What is in a file of this account.

    Raises:
        UsageError: It belongs to another account, is a link or no plain file.
        OSError: It cannot be read.
    """
    with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
        return file.read()


def _refuse(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        owner = name_of(found.st_uid)
        raise UsageError(
            f"{path} belongs to {owner}, and this is {name_of(os.geteuid())}: what stands in it is not trusted",
            hint=f"run k2run as {owner}, or choose a home of your own with K2RUN_HOME",
        )
    if found.st_mode & stat.S_IWOTH:
        raise UsageError(
            f"{path} can be changed by anybody: what stands in it is not trusted", hint=f"chmod o-w {path}"
        )


def make_private(path: Path, content: str) -> None:
    """Make a private file with its whole content at once, unless there is one; of several writers one does.

    Raises:
        OperatorError: It cannot be made.
    """
    try:
        own_folder(path.parent, path.parent)
        if not os.path.lexists(path):
            created(path, content.encode())
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be made: {error.strerror}", hint="K2RUN_HOME names another place"
        ) from error


def look_private(path: Path) -> tuple[str, tuple[int, int]]:
    """The text of a private file, and what differs when it has changed.

    Raises:
        FileNotFoundError: There is none.
        UsageError: It is a link, no plain file, or another account's.
        OperatorError: It can be read by others, or not by us, or is no text.
    """
    try:
        file = open_own(path, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}", hint=f"chmod 600 {path}") from error
    with os.fdopen(file, "rb") as opened:
        found = os.fstat(file)
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise OperatorError(f"{path} can be read by others", hint=f"chmod 600 {path}")
        try:
            return opened.read().decode(), (found.st_mtime_ns, found.st_size)
        except UnicodeDecodeError as error:
            raise OperatorError(f"{path} is no text", hint="delete it, and a new one is made") from error


def account_name() -> str:
    """The name of this account, as its environment or the system has it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return name_of(os.getuid())


def name_of(account: int) -> str:
    """The name of an account; its number, `uid-1000`, where the system has no name for it, as in containers."""
    try:
        return pwd.getpwuid(account).pw_name
    except KeyError:
        return f"uid-{account}"


def name_objection(name: str, longest: int = LONGEST) -> str:
    """Why a text can be no name; empty when it can."""
    if not name:
        return "it is empty"
    if not _NAME.fullmatch(name):
        return "it begins with a letter or a digit, holds letters, digits, spaces and `-_.,+@=~`, and ends in no dot"
    if len(name.encode("utf-8", "replace")) > longest:
        return f"it is longer than {longest} bytes"
    return ""


def checked_name(name: str, what: str) -> str:
    """A name, right before it becomes a part of a path.

    Args:
        name: The name.
        what: What it names: `a runbook`, `a run`, …

    Raises:
        UsageError: It cannot be one.
    """
    wrong = name_objection(name, LONGEST_RUN if what == RUN else LONGEST)
    if wrong:
        raise UsageError(f"{name!r} cannot be the name of {what}: {wrong}", hint="give it another name")
    return name


class Spent:
    """Remembers marks for as long as they could be used again; a restarted server knows them too.

    Args:
        path: Where they are kept.
        seconds: How long.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._lock = threading.Lock()
        self._known = _read(path, time.time() - seconds)

    def __contains__(self, mark: str) -> bool:
        with self._lock:
            return time.time() - self._known.get(mark, 0.0) < self._seconds

    def take(self, mark: str) -> bool:
        """Spend a mark for now; whether it was still good. What comes of it is told by `keep` or `give_back`."""
        with self._lock:
            now = time.time()
            if now - self._known.get(mark, 0.0) < self._seconds:
                return False
            self._known.pop(mark, None)
            self._known[mark] = now
            oldest = next(iter(self._known))
            if len(self._known) > KEPT_MARKS or now - self._known[oldest] > self._seconds:
                del self._known[oldest]
            return True

    def keep(self, mark: str) -> None:
        """Keep a spent mark beyond the life of this server; where nothing can be written, for as long as it lives."""
        with self._lock, suppress(OSError):
            own_folder(self._path.parent, self._path.parent.parent)
            with os.fdopen(open_own(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "w", encoding="utf-8") as out:
                out.write(f"{time.time():.0f} {mark}\n")

    def give_back(self, mark: str) -> None:
        """A mark with which nothing was done is good again."""
        with self._lock:
            self._known.pop(mark, None)


def _read(path: Path, since: float) -> dict[str, float]:
    """The marks that still matter; the others are taken out of the file."""
    try:
        lines = [line.split(" ", 1) for line in read_own(path).decode(errors="replace").splitlines()]
    except OSError:
        return {}
    whole = [line for line in lines if len(line) == 2 and line[0].isdecimal()]  # noqa: PLR2004 - a time and a mark
    fresh = {mark: float(at) for at, mark in whole if float(at) > since}
    if len(fresh) < len(lines):
        rewritten(path, "".join(f"{at:.0f} {mark}\n" for mark, at in fresh.items()).encode())
    return fresh

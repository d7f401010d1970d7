"""systemd: the state of units, restarting and stopping them, and their journal, through systemctl and journalctl."""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
from msgspec import Struct

from k2run.actions.action import Effect, Result, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters import _command
from k2run.errors import ActionError, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEN_MINUTES = Duration(600)
_ASKED = (
    *("Id", "Description", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts", "MainPID"),
    *("ExecMainStatus", "MemoryCurrent", "ActiveEnterTimestampMonotonic", "InactiveEnterTimestampMonotonic", "Type"),
)
_NO_SYSTEMD = ("not been booted with systemd", "Failed to connect to bus", "Failed to connect to system scope bus")
_DENIED = ("access denied", "authentication is required", "interactive authentication required", "permission denied")
_UNSET = 2**64 - 1
"""What systemd writes for a figure that it does not keep."""
_PAUSE_S = 0.2
Priority = Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]


class Unit(Result, frozen=True, kw_only=True):
    """A unit, as systemd knows it; what it does not keep is None.

    Attributes:
        unit: Its whole name, `nginx.service`.
        active: Whether it is active.
        state: `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
        detail: The finer state: `running`, `exited`, `dead`, `auto-restart`, ….
        enabled: Whether it is started with the machine: `enabled`, `disabled`, `static`, `masked`, ….
        kind: How a service runs, systemd's `Type`: `simple`, `notify`, `oneshot`, …; empty for other units.
        reason: Why it is in that state: `success`, `exit-code`, `signal`, `timeout`, `oom-kill`, ….
        exit_code: Of its main process, when it ended last; None while it runs.
        restarts: Automatic ones since it was started.
        pid: Of its main process; None when it has none.
        memory_bytes: What it uses.
        since_s: Seconds for which it has been active, or inactive.
    """

    unit: str
    description: str
    active: bool
    state: str
    detail: str
    enabled: str
    kind: str
    reason: str
    exit_code: int | None
    restarts: int | None
    pid: int | None
    memory_bytes: int | None
    since_s: float | None

    def headline(self) -> str:
        """Such as `nginx.service active (running), 0 restarts`."""
        restarts = "" if not self.restarts else f", {self.restarts} restarts"
        why = f", {self.reason}" if self.state == "failed" else ""
        return f"{self.unit} {self.state} ({self.detail}){why}{restarts}"


class Entry(Struct, frozen=True, kw_only=True):
    """A line of the journal.

    Attributes:
        time: ISO 8601, in UTC.
        priority: `err`, `warning`, `info`, ….
    """

    time: str
    priority: str
    message: str


class Journal(Result, frozen=True, kw_only=True):
    """Lines of a unit's journal, the newest last.

    Attributes:
        count: How many are in `entries`.
        newest: The message of the last one; empty without any.
    """

    entries: list[Entry]
    count: int
    newest: str

    def headline(self) -> str:
        """How many, and the newest."""
        return f"{self.count:,} lines" + (f", newest: {self.newest[:80]}" if self.newest else "")


class Started(Result, frozen=True, kw_only=True):
    """A unit that was started, restarted or stopped.

    Attributes:
        pid: Of its main process now; None when it has none.
    """

    unit: str
    state: str
    pid: int | None
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `nginx.service active`."""
        return f"{self.unit} {self.state}"


@action("systemd.unit")
def unit(deadline: Deadline, name: str, user: bool = False) -> Unit:
    """The state of a unit of this machine; one that systemd does not know is unknown.

    Args:
        name: `nginx`, `nginx.service`, `backup.timer`, ….
        user: Whether it is a unit of the user's own systemd.
    """
    said = _systemctl(deadline, ["show", f"--property={','.join(_ASKED)}", "--", name], user=user)
    found = dict(line.partition("=")[::2] for line in said.splitlines() if "=" in line)
    if found.get("LoadState") in {"not-found", None}:
        raise Unknown(
            f"systemd knows no unit {name}", hint="is it installed on this machine? `systemctl list-units --all`"
        )
    active = found["ActiveState"] == "active"
    pid = _whole(found, "MainPID")
    return Unit(
        unit=found["Id"],
        description=found.get("Description", ""),
        active=active,
        state=found["ActiveState"],
        detail=found.get("SubState", ""),
        enabled=found.get("UnitFileState", ""),
        kind=found.get("Type", ""),
        reason=found.get("Result", ""),
        exit_code=None if pid else _whole(found, "ExecMainStatus"),
        restarts=_whole(found, "NRestarts"),
        pid=pid or None,
        memory_bytes=_whole(found, "MemoryCurrent"),
        since_s=_since(found, f"{'Active' if active else 'Inactive'}EnterTimestampMonotonic"),
        source=f"systemd {found['Id']}",
    )


@action("systemd.journal")
def journal(
    deadline: Deadline,
    name: str,
    since: Duration = TEN_MINUTES,
    priority: Priority | None = None,
    contains: str = "",
    lines: int = 200,
    user: bool = False,
) -> Journal:
    """The journal of a unit; no lines are an answer, for a unit that systemd knows.

    Args:
        name: The unit.
        since: How far back to look.
        priority: Only lines of this priority or a more serious one.
        contains: Only lines with this text in them; a regular expression.
        lines: How many to fetch at most, the newest.
        user: Whether it is a unit of the user's own systemd.
    """
    known = unit(deadline, name, user)
    words = ["journalctl", "--no-pager", "--output=json", f"--lines={lines}", f"--since=-{max(1, int(since))}s"]
    words += [f"--user-unit={known.unit}" if user else f"--unit={known.unit}"]
    words += [f"--priority={priority}"] if priority else []
    words += [f"--grep={contains}"] if contains else []
    ended = _run(words, deadline)
    if ended.exit_code and ended.stderr.strip():  # without a match it exits 1 and says nothing
        raise _refusal("journalctl", ended.exit_code, ended.stderr)
    entries = [_entry(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    newest = entries[-1].message if entries else ""
    return Journal(entries=entries, count=len(entries), newest=newest, source=f"journal of {known.unit}")


@action("systemd.restart", effect=Effect.CHANGES)
def restart(deadline: Deadline, name: str, user: bool = False) -> Started:
    """Restart a unit, and wait until it is active.

    Args:
        name: The unit.
        user: Whether it is a unit of the user's own systemd.
    """
    return _brought(deadline, "restart", name, user=user)


@action("systemd.start", effect=Effect.CHANGES)
def start(deadline: Deadline, name: str, user: bool = False) -> Started:
    """Start a unit, and wait until it is active; one that runs is left alone.

    Args:
        name: The unit.
        user: Whether it is a unit of the user's own systemd.
    """
    return _brought(deadline, "start", name, user=user)


@fault("systemd.stop", undone_by="systemd.start")
def stop(deadline: Deadline, name: str, user: bool = False) -> Striking[Started]:
    """Stop a unit. Undone by starting it.

    Blast radius: the unit, and the units that require it.

    Args:
        name: The unit.
        user: Whether it is a unit of the user's own systemd.
    """
    before = unit(deadline, name, user)
    if not before.active:
        raise Refused(f"{before.unit} is {before.state}; it cannot be stopped", hint="start it first: systemd.start")
    yield Undo(action="systemd.start", args={"name": before.unit, "user": user}, says=f"start {before.unit}")
    began = time.monotonic()
    _systemctl(deadline, ["stop", "--", before.unit], user=user)
    after = unit(deadline, before.unit, user)
    elapsed_ms = (time.monotonic() - began) * 1000
    return Started(unit=after.unit, state=after.state, pid=after.pid, elapsed_ms=elapsed_ms, source=after.source)


def _brought(deadline: Deadline, verb: str, name: str, *, user: bool) -> Started:
    """A unit after `start` or `restart`, once it is active, or once a oneshot has done what it does."""
    known = unit(deadline, name, user).unit
    began = time.monotonic()
    _systemctl(deadline, [verb, "--", known], user=user)
    while not (after := unit(deadline, known, user)).active:
        if after.kind == "oneshot" and (after.state, after.reason) == ("inactive", "success"):
            break
        if after.state in {"failed", "inactive"}:
            why = f"{after.reason}, exit code {after.exit_code}"
            raise Refused(
                f"{known} is {after.state} after `systemctl {verb}`: {why}",
                hint=f"its journal: systemd.journal, {known}",
            )
        deadline.sleep(_PAUSE_S)
    elapsed_ms = (time.monotonic() - began) * 1000
    return Started(unit=known, state=after.state, pid=after.pid, elapsed_ms=elapsed_ms, source=after.source)


def _systemctl(deadline: Deadline, words: Sequence[str], *, user: bool) -> str:
    scope = ["--user"] if user else []
    ended = _run(["systemctl", *scope, "--no-pager", "--no-ask-password", *words], deadline)
    if ended.exit_code:
        raise _refusal(f"systemctl {words[0]}", ended.exit_code, ended.stderr or ended.stdout)
    return ended.stdout


def _run(words: Sequence[str], deadline: Deadline) -> _command.Ended:
    try:
        return _command.run(words, deadline)
    except OSError as error:
        raise Unreachable(
            f"{words[0]} cannot be run: {error.strerror}", hint="is this a machine with systemd?"
        ) from error
    except TimedOut as error:
        message = f"`{' '.join(words[:3])}` did not finish within {deadline.seconds:g}s"
        raise TimedOut(message, hint="`systemctl list-jobs` says what waits; or raise the step's timeout") from error


def _refusal(what: str, code: int, said: str) -> ActionError:
    cause = " ".join(said.split())[:300] or "no reason given"
    if any(text in cause for text in _NO_SYSTEMD):
        return Unreachable(
            f"systemd does not answer: {cause}", hint="is this a machine (or a container) that systemd runs?"
        )
    denied = any(text in cause.lower() for text in _DENIED)
    return Refused(
        f"{what} exited {code}: {cause}",
        hint="run k2run as a user with that permission" if denied else "its journal says why",
    )


def _whole(found: Mapping[str, str], name: str) -> int | None:
    value = found.get(name, "")
    return int(value) if value.isdecimal() and int(value) != _UNSET else None


def _since(found: Mapping[str, str], name: str) -> float | None:
    """Seconds since a moment of the monotonic clock, in microseconds; 0 stands for never."""
    at = _whole(found, name)
    return round(time.monotonic() - at / 1e6, 3) if at else None


def _entry(line: str) -> Entry:
    fields: dict[str, Any] = msgspec.json.decode(line)
    message = fields.get("MESSAGE")
    if isinstance(message, list):  # what is no text comes as bytes
        message = bytes(message).decode("utf-8", "replace")
    at = dt.datetime.fromtimestamp(int(fields["__REALTIME_TIMESTAMP"]) / 1e6, dt.UTC)
    level = get_args(Priority)[int(fields.get("PRIORITY", 6))]
    return Entry(time=at.isoformat(), priority=level, message=str(message or ""))

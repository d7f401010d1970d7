"""Services that are processes of this machine, started by k2run in a session of their own."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from k2run.actions.deadline import Deadline
from k2run.errors import Interrupted, Refused, StackUnavailable, TimedOut, Unknown
from k2run.files import account_name, rewritten
from k2run.stack.backend import LogLine, ServiceStatus, State, Usage, has_times, read_tail
from k2run.stack.model import missing_program
from k2run.stack.process_group import (
    MARK,
    Holder,
    Record,
    Stopped,
    busy_port,
    exit_code,
    fingerprint,
    has_remains,
    holder_for_sure,
    is_gone,
    is_stopped,
    living,
    signal_group,
    start_apart,
    usage_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psutil

    from k2run.stack.model import Service

LOG_LIMIT = 64 * 2**20
"""Bytes; a longer log is put aside when the service is started again."""
LOG_FILE = "K2RUN_LOG"
"""Variable by which a service knows the file that its output goes to, so that it can keep it short by itself."""
_POLL_S = 0.01
_KILL_S = 5.0
_OURS = frozenset({"k2run", "invoke", "inv"})


class ProcessBackend:
    """Runs one service as a process."""

    def __init__(self, service: Service, state: Path) -> None:
        self._service = service
        self._state = state
        self.log_file = state / "logs" / f"{service.name}.log"
        self._record_file = state / "services" / f"{service.name}.json"
        self._stopped_file = state / "services" / f"{service.name}.stopped"
        self._mark = f"{state}:{service.name}"

    # --- looking ----------------------------------------------------------------------------------

    def status(self) -> ServiceStatus:
        """What the process is doing."""
        name = self._service.name
        record = self.record()
        absent = missing_program(self._service)
        if absent and not self.runs():  # one that runs is there, wherever its program is found
            return ServiceStatus(service=name, state=State.ABSENT, detail=absent)
        stopped = self.stopped()
        if record is None:
            return ServiceStatus(
                service=name,
                state=State.STOPPED,
                detail=stopped.says if stopped else "not started",
                ended_at=_time_of(stopped),
                ended_by_us=stopped.says if stopped else "",
            )
        started = datetime.fromtimestamp(record.created, UTC)
        process = living(record)
        if process is None:
            meant = stopped if stopped is not None and stopped.pid == record.pid else None
            return ServiceStatus(
                service=name,
                state=State.STOPPED,
                started_at=started,
                restarts=record.restarts,
                detail=_ending(record),
                last_pid=record.pid,
                ended_at=_time_of(meant),
                ended_by_us=meant.says if meant else "",
            )
        return ServiceStatus(
            service=name,
            state=State.PAUSED if is_stopped(process) else State.RUNNING,
            pid=record.pid,
            started_at=started,
            uptime_s=round(max(0.0, time.time() - record.created), 3),
            restarts=record.restarts,
        )

    def runs(self) -> bool:
        """Whether the process that was started last lives."""
        record = self.record()
        return record is not None and living(record) is not None

    def record(self) -> Record | None:
        """What was noted when it was started; None when it was not, or was taken down since."""
        try:
            return msgspec.json.decode(self._record_file.read_bytes(), type=Record)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return None

    def stopped(self) -> Stopped | None:
        """When k2run ended it on purpose, and which command did; None when none did, or it was started again since."""
        try:
            return msgspec.json.decode(self._stopped_file.read_bytes(), type=Stopped)
        except (OSError, msgspec.DecodeError):
            return None

    def forget(self, *, who: bool = False) -> None:
        """Take away the note of a process that has ended: the next start is the first.

        Args:
            who: The note of who stopped it too: it was stopped because it failed, and its log says why.
        """
        for note in (self._record_file, *((self._stopped_file,) if who else ())):
            with suppress(FileNotFoundError, NotADirectoryError):
                note.unlink()

    def log(self, *, lines: int, since: datetime | None, deadline: Deadline) -> list[LogLine]:  # noqa: ARG002 - a file answers
        """The newest lines of its log.

        Raises:
            Unknown: There is no log; or `since` was asked, and the lines do not say when they were written.
        """
        if not self.log_file.exists():
            raise Unknown(f"{self._service.name} has no log", hint="it was never started by k2run")
        if since is not None and self.log_file.stat().st_size and not has_times(self.log_file):
            raise Unknown(
                f"the log of {self._service.name} does not say when its lines were written",
                hint="leave `since` out, or let the program log the time",
            )
        return read_tail(self.log_file, lines=lines, since=since)

    def last_words(self, lines: int = 12) -> str:
        """The end of what it logged since it was started last."""
        record = self.record()
        tail = read_tail(self.log_file, lines=lines, start=record.log_from if record else 0)
        return "\n".join(line.text for line in tail)

    def usage(self, over_s: float, deadline: Deadline) -> Usage:
        """What the process and its children use."""
        used = usage_of(self._running()[0], over_s, deadline)
        if used is None:
            raise Unknown(f"{self._service.name} ended while it was checked")
        return used

    # --- doing ------------------------------------------------------------------------------------

    def start(self, deadline: Deadline) -> bool:
        """Start the process unless it runs; one that is paused goes on.

        Raises:
            StackUnavailable: It cannot be started: its port is taken, there is no such program.
        """
        with self._alone():
            if self.runs():
                return self.resume(deadline)
            record = self.record()
            self._clear_remains(record)
            adopted = self._adopt_or_refuse()
            if not adopted:
                self._spawn(record)
            return not adopted

    def stop(self, deadline: Deadline) -> bool:
        """Its stop signal, and SIGKILL to what is left at the deadline (or when the run is asked to end meanwhile)."""
        record = self.record()
        if record is None or living(record) is None:
            self._clear_remains(record)
            return False
        signal_group(record, signal.Signals[self._service.stop_signal])
        signal_group(record, signal.SIGCONT)  # a paused process takes no other signal
        try:
            self._wait(lambda: is_gone(record), deadline)
        except (TimedOut, Interrupted) as error:
            self._strike_down(record)
            if isinstance(error, Interrupted):
                raise
        finally:
            self._note_stopped(record, "stopped")
        return True

    def kill(self, deadline: Deadline) -> None:  # noqa: ARG002 - SIGKILL takes no time that one could bound
        """SIGKILL to the whole process group.

        Raises:
            Refused: It does not run.
        """
        record = self._running()[1]
        self._strike_down(record)
        self._note_stopped(record, "killed")

    def pause(self, deadline: Deadline) -> None:
        """SIGSTOP to the whole process group.

        Raises:
            Refused: It does not run, or is paused already.
        """
        process, record = self._running()
        if is_stopped(process):
            raise Refused(f"{self._service.name} is paused already", hint="resume it first")
        signal_group(record, signal.SIGSTOP)
        self._wait(lambda: living(record) is None or is_stopped(process), deadline)

    def resume(self, deadline: Deadline) -> bool:
        """SIGCONT to the whole process group."""
        record = self.record()
        process = living(record) if record else None
        if record is None or process is None or not is_stopped(process):
            return False
        signal_group(record, signal.SIGCONT)
        self._wait(lambda: living(record) is None or not is_stopped(process), deadline)
        return True

    # --- starting ---------------------------------------------------------------------------------

    def _spawn(self, before: Record | None) -> None:
        service = self._service
        command = [sys.executable if service.command[0] == "python" else service.command[0], *service.command[1:]]
        try:
            log_from = self._make_room()
            with (self.log_file if _has_room(self._state) else Path(os.devnull)).open("ab") as log:
                child = start_apart(
                    command,
                    env={**os.environ, **service.env, MARK: self._mark, LOG_FILE: str(self.log_file)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=Path(service.cwd) if service.cwd else self._state,
                )
        except OSError as error:
            raise StackUnavailable(
                f"{service.name} cannot be started: {error.filename or command[0]}: {error.strerror}",
                hint=f"look at its `{'cwd' if error.filename == service.cwd else 'command'}` in the stack file",
            ) from error
        try:
            self._note(child.pid, before, log_from, fingerprint(service))
        except OSError as error:  # it could not be recognised again
            os.killpg(child.pid, signal.SIGKILL)
            raise StackUnavailable(
                f"{service.name} cannot be started: cannot write {self._record_file}: {error.strerror}",
                hint="make room on that disk",
            ) from error

    def _note(self, pid: int, before: Record | None, log_from: int, started_as: str = "") -> None:
        import psutil

        try:
            created = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:  # it ended at once; whoever waits for it will say so
            created = time.time()
        restarts = before.restarts + 1 if before else 0
        record = Record(pid=pid, created=created, restarts=restarts, log_from=log_from, started_as=started_as)
        rewritten(self._record_file, msgspec.json.encode(record))
        with suppress(OSError):
            self._stopped_file.unlink(missing_ok=True)

    def _note_stopped(self, record: Record, how: str) -> None:
        """Note that it ended on purpose; it is ended all the same where nothing can be written."""
        with suppress(OSError):
            note = Stopped(pid=record.pid, at=round(time.time(), 3), how=how, by=_somebody())
            rewritten(self._stopped_file, msgspec.json.encode(note))

    def _make_room(self) -> int:
        """The folders, and a log of bearable length; gives the size of the log."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._record_file.parent.mkdir(parents=True, exist_ok=True)
        size = self.log_file.stat().st_size if self.log_file.exists() else 0
        if size <= LOG_LIMIT:
            return size
        self.log_file.replace(self.log_file.with_suffix(".log.1"))
        return 0

    def _adopt_or_refuse(self) -> bool:
        """Look at the ports: free, or held by this very service from a k2run that died before it could note the pid.

        Raises:
            StackUnavailable: Another process has one.
        """
        for port in self._service.ports:
            if not busy_port(port):
                continue
            holder = holder_for_sure(port)
            if holder is not None and holder.environment.get(MARK) == self._mark:
                self._note(holder.group, self.record(), 0)
                return True
            if holder is None and not busy_port(port):
                continue
            raise self._port_taken(port, holder)
        return False

    def _port_taken(self, port: int, holder: Holder | None) -> StackUnavailable:
        who = f"by {holder.says}" if holder else "by a process that cannot be seen (another user's?)"
        owner = holder.environment.get(MARK, "") if holder else ""
        end = f"it belongs to the stack in {owner.rpartition(':')[0]}: take that down" if owner else "end that process"
        return StackUnavailable(
            f"{self._service.name} cannot be started: port {port} is taken {who}",
            hint=f"{end}, or give {self._service.name} another port in the stack's `vars`",
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process starts this service meanwhile."""
        path = self._record_file.with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise StackUnavailable(
                f"cannot write in {path.parent}: {error.strerror}", hint="choose another place with K2RUN_HOME"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    # --- its group -------------------------------------------------------------------------------

    def _running(self) -> tuple[psutil.Process, Record]:
        record = self.record()
        process = living(record) if record else None
        if process is None or record is None:
            raise Refused(f"{self._service.name} is not running", hint=self.status().detail)
        return process, record

    def _strike_down(self, record: Record) -> None:
        signal_group(record, signal.SIGKILL)
        with suppress(TimedOut):  # a process in the kernel's hands (uninterruptible) goes when the kernel lets it
            self._wait(lambda: is_gone(record), Deadline(_KILL_S))

    def _clear_remains(self, record: Record | None) -> None:
        if record is not None and has_remains(record):
            self._strike_down(record)

    @staticmethod
    def _wait(done: Callable[[], bool], deadline: Deadline) -> None:
        while not done():
            deadline.sleep(_POLL_S)


def _has_room(folder: Path) -> bool:
    """Whether anything can be written there; a service whose log cannot be written may end of it."""
    disk = os.statvfs(folder)
    return disk.f_bavail > 0 or not disk.f_blocks


def _time_of(stopped: Stopped | None) -> datetime | None:
    return None if stopped is None else datetime.fromtimestamp(stopped.at, UTC)


def _somebody() -> str:
    """The command that does it and its account; of its words only the first, and only of our own commands."""
    program, *words = Path(sys.argv[0]).name or "python", *sys.argv[1:]
    task = next((word for word in words if not word.startswith("-")), "") if program in _OURS else ""
    return f"{f'{program} {task}'.strip()} of {account_name()}"


def _ending(record: Record) -> str:
    """How it ended, as far as this process can know."""
    code = exit_code(record)
    if code is None:
        return "ended"
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

"""The journal: the append-only record of one run, without its secrets; the single source of truth about it."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
from msgspec.structs import force_setattr, replace

from k2run.engine.events import AnyEvent, Event, Noted, RunFinished, RunStarted, UndoPlanned, decode_event
from k2run.engine.safeguards import Wall
from k2run.errors import AuthorError, JournalLost, UsageError
from k2run.files import open_own
from k2run.language.quantities import encode_quantity
from k2run.stack.redactor import FORMS, Redactor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

RESERVE = ".reserve"
SIZE = 128 * 1024
"""Bytes: the events of `always`, of some hundred undos and of the verdict, and what a started service writes."""
E = TypeVar("E", bound="Event")


class Reserve:
    """A file in a run's folder that is nothing but room."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE

    def keep(self) -> None:
        """Take the room; where there is too little, nothing is kept."""
        try:
            file = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600)
        except OSError:
            return
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, SIZE)
            else:
                os.write(file, bytes(SIZE))
        except OSError:
            self.release()
        finally:
            os.close(file)

    def release(self) -> None:
        """Give the room back; nothing happens when there is none."""
        with suppress(OSError):
            self._path.unlink()


JOURNAL = "journal.jsonl"
_BLOCK = 16 * 1024
"""Bytes that are read first from the end of a journal."""

_encoder = msgspec.json.Encoder(enc_hook=encode_quantity)


class Observer(Protocol):
    """Sees every event after it is on disk. Must be quick; what it raises is kept from the run."""

    def see(self, event: AnyEvent) -> None:
        """Take note of an event."""
        ...


class Journal:
    """Numbers, stamps, redacts and writes the events of one run, then shows them to the observers.

    Args:
        folder: The run's folder; must exist.
        observers: Told of every event, in order.
        redact: Takes secrets out of the texts of an event.
        after: The events already in the file, when a run is resumed.
        wall: Between the run and the observers.
        copy: Where what is durable (what has to be undone) is kept a second time.

    Attributes:
        lost: Why the run may not go on: an event could not be written, or only with the room that was kept for the end.
        wall: Keeps what is done for people from ending the run.
        reserve: The room that is kept for the end.

    Raises:
        JournalLost: The file cannot be opened.
    """

    def __init__(  # noqa: PLR0913 - where it is written, and who sees it
        self,
        folder: Path,
        observers: Sequence[Observer] = (),
        *,
        redact: Redactor | None = None,
        after: Sequence[AnyEvent] = (),
        wall: Wall | None = None,
        copy: Path | None = None,
    ) -> None:
        self.path = folder / JOURNAL
        self.lost: JournalLost | None = None
        self.wall = wall or Wall(folder)
        self.reserve = Reserve(folder)
        self._copy = copy
        self._gone = False
        self._unbound = 0
        self._observers = observers
        self._redact = redact or Redactor()
        self._lock = threading.RLock()
        self._seq = after[-1].seq if after else 0
        self._began = time.monotonic() - (after[-1].t if after else 0.0)
        try:
            self._file = open_own(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        self.reserve.keep()

    @contextmanager
    def unbound(self) -> Iterator[None]:
        """Meanwhile nothing is kept from being done by a journal that is lost: what ends a run goes on without it."""
        with self._lock:
            self._unbound += 1
        try:
            yield
        finally:
            with self._lock:
                self._unbound -= 1

    def elapsed(self) -> float:
        """Seconds since the run started."""
        return time.monotonic() - self._began

    def record(self, event: Event, *, durable: bool = False, ours: bool = False) -> None:
        """Append an event; when this returns, the event is with the operating system.

        Args:
            event: What happened.
            durable: Also wait until it is on the disk itself (for undos: they must outlive a power cut).
            ours: Its words are k2run's own, so an ordinary word of them stays although it is a secret.

        Raises:
            JournalLost: It, or one before it, could not be written, so nothing more may be begun. The observers are
                shown the event nevertheless.
        """
        with self._lock:
            self._seq += 1
            force_setattr(event, "seq", self._seq)
            force_setattr(event, "at", _now())
            force_setattr(event, "t", round(self.elapsed(), 6))
            event, line = self._masked(event, ours=ours)
            if not self._gone:
                self._keep(line + b"\n", durable=durable)
            if durable and self._copy is not None:
                with (
                    suppress(OSError, UsageError),
                    os.fdopen(open_own(self._copy, os.O_CREAT | os.O_APPEND | os.O_WRONLY), "ab") as file,
                ):
                    file.write(line + b"\n")
            for observer in self._observers:
                try:
                    observer.see(event)  # type: ignore[arg-type]
                except BaseException as error:  # noqa: BLE001 - who looks on never ends a run, not even by an exit
                    self.wall.fell(type(observer).__name__, error)
            for remark in self._redact.take_remarks():
                self.record(Noted(message=remark, level="warning", hint="choose a longer secret"), ours=True)
            failure = None if self._unbound else self.lost
        if failure is not None:
            raise failure

    def same(self, one: Any, other: Any) -> bool:
        """Whether two plain values are the same but for secrets, which one of them may have lost in a journal."""
        return bool(self._redact.clean(one) == self._redact.clean(other))

    def _masked(self, event: Event, *, ours: bool) -> tuple[Event, bytes]:
        """An event without secrets, and its line."""
        line = _encoder.encode(event)
        if not self._redact.may_be_in(line):
            return event, line
        made = masked(event, self._redact, ours=ours)
        return made, (line if made is event else _encoder.encode(made))

    def _keep(self, line: bytes, *, durable: bool) -> None:
        """Write a whole line; when there is no room, with that which was kept for the end."""
        try:
            self._write(line, durable=durable)
        except OSError as error:
            self.lost = self.lost or _cannot_write(self.path, error)
            self.reserve.release()
            try:
                self._write(line, durable=durable)
            except OSError:
                self._gone = True

    def _write(self, line: bytes, *, durable: bool) -> None:
        """Write a whole line, or nothing.

        Raises:
            OSError: It could not be written.
        """
        written = 0
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(28, "No space left on device")  # noqa: TRY301 - the same way out as a full disk
            if durable:
                os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)
        except OSError:
            with suppress(OSError):  # the part of it would stand in the middle of the file
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise

    def close(self) -> None:
        """Close the file; the journal stays readable."""
        with self._lock:
            self._gone = True  # the number of the file may be another one's from here on
            self.reserve.release()
            os.close(self._file)


def _now() -> str:
    """UTC time, ISO 8601, to the millisecond."""
    second, millisecond = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_written(second)}.{millisecond:03}+00:00"


@lru_cache(1)
def _written(second: int) -> str:
    """A second since the epoch; most events share it with the one before."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _cannot_write(path: Path, error: OSError) -> JournalLost:
    return JournalLost(
        f"the journal {path} cannot be written: {error.strerror or error}",
        hint="make room or choose another place with K2RUN_HOME; without a journal nothing is done",
    )


def read_journal(path: Path) -> list[AnyEvent]:
    """All events of a journal file (or of the run folder that holds it), in order.

    A last line that was cut off by a crash is left out.

    Raises:
        UsageError: There is no such journal, or a line in its middle cannot be read.
    """
    file = path / JOURNAL if path.is_dir() else path
    events, unread = read_lines(path)
    if unread:
        raise UsageError(
            f"{file}:{unread[0]} is not an event: the file was damaged, or changed by hand",
            hint="`k2run undo` puts back what such a run left broken, as far as it can be known",
        )
    return events


def read_lines(path: Path) -> tuple[list[AnyEvent], list[int]]:
    """The events of a journal that can be read, and the numbers of the lines in its middle that cannot.

    Raises:
        UsageError: There is no such journal.
    """
    file = path / JOURNAL if path.is_dir() else path
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"no journal at {file}", hint="`k2run history` lists the runs") from error
    events: list[AnyEvent] = []
    unread: list[int] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            events.append(decode_event(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            if number < len(lines) - 1:
                unread.append(number)
    return events, unread


def ends_of(folder: Path) -> tuple[RunStarted | None, RunFinished | None]:
    """The first event of a run and, if it has ended, its last one; None for what is missing or cannot be read."""
    try:
        with (folder / JOURNAL).open("rb") as file:
            first = _decoded(file.readline())
        last = next(newest_first(folder), None)
    except OSError:
        return None, None
    return (first if isinstance(first, RunStarted) else None), (last if isinstance(last, RunFinished) else None)


def newest_first(folder: Path) -> Iterator[AnyEvent]:
    """The events of a run from the last one back, read as far as they are asked for; unreadable lines are left out.

    Raises:
        OSError: The journal cannot be read.
    """
    with (folder / JOURNAL).open("rb") as file:
        position, size, rest = file.seek(0, os.SEEK_END), _BLOCK, b""
        while position:
            position, end = max(0, position - size), position
            file.seek(position)
            first, *lines = (file.read(end - position) + rest).split(b"\n")
            yield from filter(None, map(_decoded, reversed(lines)))
            rest = first
            size *= 2  # a line longer than a block is not copied again and again
        yield from filter(None, [_decoded(rest)])


def _decoded(line: bytes) -> AnyEvent | None:
    try:
        return decode_event(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def cut_torn_tail(path: Path) -> None:
    """Remove a half-written last line, so that a resumed run appends to whole lines."""
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) != len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))


def masked(event: E, redact: Redactor, *, ours: bool = False) -> E:
    """An event without secrets; the same object when it holds none.

    Args:
        event: What happened.
        redact: Knows the secrets.
        ours: Its words are k2run's own: an ordinary word stays.

    Raises:
        AuthorError: An undo would be kept without its secret, so that it could not be played after a crash.
    """
    made: dict[str, Any] = {}
    secrets: dict[str, tuple[str, str]] = {}
    for field, names in event.said.items():
        if value := getattr(event, field):
            made[field] = redact.clean_names(value) if ours else redact.clean(value, names)
    for field in event.compared:
        if value := getattr(event, field):
            made[field] = redact.clean_names(value)
    for field, names in event.kept.items():
        if value := getattr(event, field):
            made[field] = redact.refer(value, secrets, names)
    changed = {field: value for field, value in made.items() if value != getattr(event, field)}
    if not changed:
        return event
    if isinstance(event, UndoPlanned):
        _check_kept(plain(event.args), made["args"], secrets, redact)
    return replace(event, **changed, secrets=secrets)


def plain(value: Any) -> Any:
    """A value as it is read from a journal."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=encode_quantity))


def _check_kept(args: Any, kept: Any, secrets: Mapping[str, tuple[str, str]], redact: Redactor) -> None:
    """Refuse a fault whose undo could be played from memory alone: after a crash it could not be."""
    texts = {secret.source: secret.text for secret in redact.secrets}
    if restored(kept, {stand_in: FORMS[form](texts[source]) for stand_in, (source, form) in secrets.items()}) != args:
        raise AuthorError(
            "the undo of this fault would hold a secret in a form that cannot be read again after a crash",
            hint="the fault was not injected; give it the secret as a whole value",
        )


def restored(value: Any, texts: Mapping[str, str]) -> Any:
    """A value with the secrets back in their places.

    Args:
        value: As a journal keeps it.
        texts: What is put back, by what stands for it.
    """
    if isinstance(value, str):
        for stand_in in sorted(texts, key=len, reverse=True):  # the first of ten is a part of the tenth
            value = value.replace(stand_in, texts[stand_in])
        return value
    if isinstance(value, dict):
        return {key: restored(entry, texts) for key, entry in value.items()}
    return [restored(entry, texts) for entry in value] if isinstance(value, list) else value

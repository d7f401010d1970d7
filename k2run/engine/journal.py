"""The journal: the append-only record of one run, and the single source of truth about it."""

from __future__ import annotations

import os
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec.structs import force_setattr

from k2run.engine.events import AnyEvent, Event
from k2run.errors import JournalLost, UsageError
from k2run.language.quantities import encode_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

JOURNAL = "journal.jsonl"

_encoder = msgspec.json.Encoder(enc_hook=encode_quantity)
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


class Observer(Protocol):
    """Sees every event after it is on disk. Must be quick and must not raise."""

    def see(self, event: AnyEvent) -> None:
        """Take note of an event."""
        ...


def no_redaction(text: str) -> str:
    """The redaction of a stack without secrets."""
    return text


class Journal:
    """Numbers, stamps, redacts and writes the events of one run, then shows them to the observers.

    Args:
        folder: The run's folder; must exist.
        observers: Told of every event, in order.
        redact: Takes secrets out of the text of an event.
        after: The events already in the file, when a run is resumed.

    Raises:
        JournalLost: The file cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        observers: Sequence[Observer] = (),
        *,
        redact: Callable[[str], str] = no_redaction,
        after: Sequence[AnyEvent] = (),
    ) -> None:
        self.path = folder / JOURNAL
        self.lost: JournalLost | None = None
        self._observers = observers
        self._redact = redact
        self._lock = threading.RLock()
        self._seq = after[-1].seq if after else 0
        self._began = time.monotonic() - (after[-1].t if after else 0.0)
        try:
            self._file = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def elapsed(self) -> float:
        """Seconds since the run started."""
        return time.monotonic() - self._began

    def record(self, event: Event, *, durable: bool = False) -> None:
        """Append an event; when this returns, the event is with the operating system.

        Args:
            event: What happened.
            durable: Also wait until it is on the disk itself (for undos: they must outlive a power cut).

        Raises:
            JournalLost: It could not be written. Later events are shown to the observers, but not kept.
        """
        with self._lock:
            self._seq += 1
            force_setattr(event, "seq", self._seq)
            force_setattr(event, "at", _now())
            force_setattr(event, "t", round(self.elapsed(), 6))
            line = _encoder.encode(event)
            if self._redact is not no_redaction:
                line = self._redact(line.decode()).encode()
                event = _decoder.decode(line)
            failure = self._write(line + b"\n", durable=durable)
            for observer in self._observers:
                observer.see(event)  # type: ignore[arg-type]
        if failure is not None:
            raise failure

    def _write(self, line: bytes, *, durable: bool) -> JournalLost | None:
        """Write a whole line; the first failure is returned, later ones are known already."""
        if self.lost is not None:
            return None
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(28, "only a part of the line fitted")  # noqa: TRY301 - the same way out as a full disk
            if durable:
                os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)
        except OSError as error:
            self.lost = _cannot_write(self.path, error)
        return self.lost

    def close(self) -> None:
        """Close the file; the journal stays readable."""
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
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"no journal at {file}", hint="`k2run history` lists the runs") from error
    events: list[AnyEvent] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            events.append(_decoder.decode(line))
        except msgspec.DecodeError as error:
            if number == len(lines) - 1:
                break
            raise UsageError(
                f"{file}:{number} is not an event: {error}", hint="the file was changed by hand"
            ) from error
    return events


def cut_torn_tail(path: Path) -> None:
    """Remove a half-written last line, so that a resumed run appends to whole lines."""
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) != len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))

"""All incidents: one append-only file each; several processes may read and write them."""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from k2run.daemon.alerts.incident import (
    Alerted,
    AnyEntry,
    Approved,
    Closed,
    Declined,
    Incident,
    Opened,
    Ordered,
    Resolved,
    incident_of,
    seconds_of,
)
from k2run.errors import JournalLost, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from k2run.daemon.alerts.delivery import Alert, Delivery

_decoder: msgspec.json.Decoder[AnyEntry] = msgspec.json.Decoder(AnyEntry)
_PLAIN = re.compile(r"[^a-z0-9]+")


class IncidentStore:
    """The incidents of one k2run home."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "incidents"
        self._known: dict[str, tuple[int, Incident]] = {}

    def receive(self, delivery: Delivery) -> Incident | None:
        """Keep a delivery; when this returns, it is with the operating system.

        A delivery opens an incident, or joins the open one with its key. When nothing fires any more, the incident is
        closed, unless a run is still to prove, or has failed to prove, that it is recovered: the worker closes those.
        An alert that began after the run of its incident has passed is another outage, and another incident. A delivery
        in which nothing fires opens none: it ends what began before this receiver did, and is no news.

        Raises:
            JournalLost: It could not be kept; the sender is to send it again.
        """
        with self._alone():
            incident = next(
                (one for one in self.all() if one.opened.key == delivery.group_key and not one.closed), None
            )
            if incident is not None and _is_another(incident, delivery):
                self._append(incident.id, [Closed(why="the alert began again: that is another incident")])
                incident = None
            entries: list[AnyEntry] = []
            if incident is None:
                if not any(alert.status == "firing" for alert in delivery.alerts):
                    return None
                opened = _opened(delivery)
                incident = Incident(opened)
                entries.append(opened)
            fired = bool(incident.firing)
            entries += [_alerted(alert) for alert in delivery.alerts]
            for entry in entries:
                incident.fold(entry)
            entries += _resolved(incident, fired=fired)
            self._append(incident.id, entries)
            return self.find(incident.id)

    def approve(self, reference: str, by: str) -> Incident:
        """Say that the runbook of an incident, named as `find` takes it, may be started.

        Raises:
            UsageError: There is nothing to approve.
        """
        return self._decide(reference, lambda runbook: Approved(by=by, runbook=runbook))

    def decline(self, reference: str, by: str) -> Incident:
        """Say that the runbook of an incident is not to be started.

        Raises:
            UsageError: There is nothing to decline.
        """
        return self._decide(reference, lambda _: Declined(by=by))

    def add(self, incident: Incident, entry: AnyEntry) -> Incident:
        """Add an event to an incident."""
        with self._alone():
            self._append(incident.id, [entry])
        return self.find(incident.id)

    def order(self, incident: Incident, entry: Ordered) -> bool:
        """Note that the run of an incident is being started; False when that is not wanted any more.

        Whoever resolves or declines at this moment does so before or after it, never between the question and the note.
        """
        with self._alone():
            if not self.find(incident.id).may_start:
                return False
            self._append(incident.id, [entry])
        return True

    def mark(self) -> frozenset[tuple[str, int]]:
        """What differs as soon as any incident has changed."""
        try:
            return frozenset((entry.name, entry.stat().st_size) for entry in os.scandir(self.folder) if _is_one(entry))
        except OSError:
            return frozenset()

    def entries(self, incident: Incident) -> list[AnyEntry]:
        """All that has happened in an incident."""
        return list(_entries((self.folder / f"{incident.id}.jsonl").read_bytes()))

    def all(self) -> list[Incident]:
        """Every incident, oldest first; those that have not changed are not read again."""
        try:
            files = sorted(filter(_is_one, os.scandir(self.folder)), key=_name)
        except OSError:
            return []
        found = (self._read(file.name.removesuffix(".jsonl"), file.stat().st_size) for file in files)
        return sorted((one for one in found if one is not None), key=lambda one: one.opened.at)

    def find(self, reference: str) -> Incident:
        """An incident by its id, a unique part of it, or `last`.

        Raises:
            UsageError: None or several fit.
        """
        incidents = self.all()
        fitting = incidents[-1:] if reference == "last" else [one for one in incidents if reference in one.id]
        exact = [one for one in fitting if one.id == reference]
        if len(exact or fitting) != 1:
            number = len(fitting) or "no"
            hint = "`k2run incidents` lists them"
            raise UsageError(f"{number} incidents fit {reference!r}", hint=hint)
        return (exact or fitting)[0]

    def _decide(self, reference: str, decision: Callable[[str], Approved | Declined]) -> Incident:
        with self._alone():
            incident = self.find(reference)
            if not incident.waits_for_approval:
                raise UsageError(f"{incident.id} waits for no approval: {incident.state}")
            runbook = incident.chosen.runbook if incident.chosen is not None else ""
            self._append(incident.id, [decision(runbook)])
        return self.find(incident.id)

    def _read(self, name: str, size: int) -> Incident | None:
        known = self._known.get(name)
        if known is not None and known[0] == size:
            return known[1]
        raw = (self.folder / f"{name}.jsonl").read_bytes()
        incident = incident_of(_entries(raw))
        if incident is not None:
            self._known[name] = (len(raw), incident)
        return incident

    def _append(self, incident: str, entries: list[AnyEntry]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = b"".join(msgspec.json.encode(replace(entry, at=now)) + b"\n" for entry in entries)
        path = self.folder / f"{incident}.jsonl"
        try:
            file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
            try:
                if os.write(file, lines) != len(lines):
                    raise OSError(28, "only a part of the lines fitted")
            finally:
                os.close(file)
        except OSError as error:
            raise JournalLost(f"{path} cannot be written: {error.strerror or error}", hint="make room") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def _is_one(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".jsonl")


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _entries(raw: bytes) -> Iterator[AnyEntry]:
    """The events of a file; what a full disk cut off is passed over."""
    for line in raw.split(b"\n"):
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError:
            continue


def _opened(delivery: Delivery) -> Opened:
    first = delivery.alerts[0]
    labels = delivery.common_labels or first.labels
    name = _PLAIN.sub("-", (labels.get("alertname") or first.title).lower()).strip("-")[:40]
    drawn = sha256(f"{delivery.group_key} {os.urandom(8).hex()}".encode()).hexdigest()[:6]
    return Opened(
        incident=f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name or 'alert'}-{drawn}",
        key=delivery.group_key,
        title=delivery.common_annotations.get("summary") or first.title,
        began=_time_of(min((alert.began for alert in delivery.alerts if alert.is_firing and alert.began), default=0.0)),
        labels=labels,
        annotations=delivery.common_annotations or first.annotations,
    )


def _time_of(seconds: float) -> str:
    """Seconds since 1970 as UTC, ISO 8601; empty for none, and for a time that is still to come."""
    if not 0 < seconds <= time.time():
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _is_another(incident: Incident, delivery: Delivery) -> bool:
    """Whether an alert of a delivery began after the run of the incident had passed, or was not needed any more."""
    over = incident.ended if incident.recovered else incident.dropped
    if over is None:
        return False
    ended = seconds_of(over.at)
    return any(alert.is_firing and alert.started > ended for alert in delivery.alerts)


def _resolved(incident: Incident, *, fired: bool) -> list[AnyEntry]:
    """What it means that nothing fires any more; nothing while an alert still fires."""
    if incident.firing:
        return []
    if incident.ended is not None:
        return [Closed(why="its run passed, and every alert is resolved")] if incident.recovered else []
    if incident.ordered is not None or incident.joined is not None:
        return [Resolved()] if fired else []
    put_off = incident.put_off
    ours = f": {put_off.why}" if put_off is not None and put_off.ours else ""
    return [Closed(why=f"every alert is resolved; nothing was started{ours}")]


def _alerted(alert: Alert) -> Alerted:
    return Alerted(alert=alert.mark, status=alert.status, title=alert.title, labels=alert.labels)

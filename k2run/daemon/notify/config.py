"""What people are told of runs and incidents, and who is told what: the settings in `k2run.yaml`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from k2run.engine.events import (
    Asked,
    Bound,
    ClockStopped,
    Objected,
    Outcome,
    RunFinished,
    RunStarted,
    SectionFinished,
    StepFinished,
    StepStarted,
)
from k2run.errors import UsageError
from k2run.language.document import read_file
from k2run.language.quantities import Duration
from k2run.stack.secrets import is_secret, read_secret
from k2run.stack.spellings import MASK

if TYPE_CHECKING:
    from k2run.engine.events import AnyEvent

FILE = "K2RUN_SETTINGS"
_KINDS = ("slack", "webhook", "email", "desktop", "apprise")


class Channel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to tell people; exactly one of `slack`, `webhook`, `email`, `desktop` and `apprise`.

    Attributes:
        slack: Address of a Slack-compatible webhook.
        webhook: Any other address; it gets the message as JSON.
        secret: Signs what a webhook gets.
        email: Addresses of people.
        server: `smtp://user@host:587`, or `smtps://`, for e-mail.
        password: Of the user in `server`.
        sender: Who writes the e-mails; `from` in the file.
        desktop: A notification on this machine's desktop.
        apprise: URL of any service that Apprise knows, such as `matrix://…`, `tgram://…`, `ntfy://…`.
        on: What is told; everything when empty.
    """

    slack: str = ""
    webhook: str = ""
    secret: str = ""
    email: list[str] = []
    server: str = "smtp://localhost:25"
    password: str = ""
    sender: str = field(default="k2run@localhost", name="from")
    desktop: bool = False
    apprise: str = ""
    on: list[Occasion] = []

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(kind for kind in _KINDS if getattr(self, kind))

    def wants(self, occasion: Occasion) -> bool:
        """Whether it is told of that."""
        return not self.on or occasion in self.on

    def masked(self, text: str) -> str:
        """A text without the addresses and passwords of this channel, which whoever has them may use."""
        for secret in filter(None, (self.slack, self.webhook, self.apprise, self.secret, self.password)):
            text = text.replace(secret, MASK)
        return text


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `k2run.yaml`.

    Attributes:
        link: Where `k2run serve` answers, for links in messages.
    """

    link: Annotated[str, Meta(pattern="^(https?://.*)?$")] = ""
    notifications: list[Channel] = []


def settings_file() -> Path:
    """The file with the settings: `k2run.yaml` in the working directory, or the one that the environment names."""
    return Path(os.environ.get(FILE) or "k2run.yaml").absolute()


def read_settings(path: Path | None = None) -> Settings:
    """Read the settings; without a file there are none.

    Raises:
        UsageError: They are wrong, or a secret that they name is not there.
    """
    path = path or settings_file()
    if not path.is_file():
        return Settings()
    data = read_file(path, path.name).data
    try:
        settings = msgspec.convert(data or {}, Settings)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}", hint="docs/notifications.md shows what it may say") from error
    for channel in settings.notifications:
        if sum(bool(getattr(channel, kind)) for kind in _KINDS) != 1:
            raise UsageError(f"{path}: a notification goes to one of {', '.join(_KINDS)}")
    return msgspec.structs.replace(
        settings, notifications=[_filled(channel, path.parent) for channel in settings.notifications]
    )


def _filled(channel: Channel, near: Path) -> Channel:
    """A channel with its secrets read."""
    values: dict[str, Any] = {
        name: getattr(channel, name) for name in ("slack", "webhook", "secret", "password", "apprise")
    }
    read = {name: read_secret(value, near=near) for name, value in values.items() if is_secret(value)}
    return msgspec.structs.replace(channel, **read)


class Occasion(StrEnum):
    """What a message is about."""

    START = "start"
    INCIDENT = "incident"
    FAILURE = "failure"
    OBJECTIVE_MISSED = "objective_missed"
    APPROVAL = "approval"
    RECOVERED = "recovered"
    ENDED = "ended"


class Moment(Struct, frozen=True, kw_only=True):
    """Something to be told.

    Attributes:
        key: Names it among the moments of its run or of all incidents, so that it is told once.
        title: In a line, with the cause.
        cause: Why, in a few lines; may be empty.
        next_step: What the reader is to do, in a line; empty when that is nothing.
    """

    occasion: Occasion
    key: str
    title: str
    cause: str = ""
    next_step: str = ""
    run: str = ""
    runbook: str = ""
    stack: str = ""
    link: str = ""

    @property
    def body(self) -> str:
        """What stands below the title, as plain text: the cause, the next step, the link."""
        next_step = f"Next: {self.next_step}" if self.next_step else ""
        return "\n".join(filter(None, (self.cause, next_step, self.link)))


class Telling:
    """Turns the events of one run into moments.

    Args:
        link: Where `k2run serve` answers; empty for no links.
        failed_before: The run before this one failed, so that a pass is worth a word.
    """

    def __init__(self, link: str, *, failed_before: bool = False) -> None:
        self._link = link.rstrip("/")
        self._failed_before = failed_before
        self._begun: RunStarted | None = None
        self._failed: list[str] = []
        self._missed: list[str] = []
        self._shown: set[str] = set()

    def hear(self, event: AnyEvent) -> Moment | None:
        """The moment that an event makes, if it makes one."""
        match event:
            case RunStarted():
                self._begun = event
                if self._is_incidents:
                    return None
                by = f" ({event.by})" if event.by else ""
                return self._moment(Occasion.START, "start", f"{event.title} starts on {event.stack}{by}")
            case StepStarted(action="manual.note"):
                self._shown.add(event.step)
            case Asked() if self._begun is not None and self._begun.attended and event.step not in self._shown:
                return self._moment(Occasion.APPROVAL, f"asked {event.seq}", f"{self._title}: {event.question}")
            case RunFinished():
                return None if self._is_incidents else self._end(event)
            case StepFinished() | SectionFinished() | Objected() | ClockStopped():
                self._note(event)
        return None

    def died(self, pending: int) -> Moment | None:
        """The run's process is gone, and it did not say how it ended."""
        if self._is_incidents:
            return None
        run = self._begun.run if self._begun is not None else "last"
        broken = f"{pending} undos are still to be played" if pending else ""
        next_step = "`k2run undo` puts back what it broke" if pending else f"`k2run resume {run}` continues it"
        return self._moment(Occasion.FAILURE, "died", f"{self._title} died", broken, next_step)

    @property
    def _is_incidents(self) -> bool:
        """Whether an incident has started the run: then the incident tells its outcome, and nothing is told twice."""
        return self._begun is not None and self._begun.by.startswith("incident ")

    @property
    def _title(self) -> str:
        return f"{self._begun.title} on {self._begun.stack}" if self._begun is not None else "a run"

    def _note(self, event: StepFinished | SectionFinished | Objected | ClockStopped) -> None:
        """Keep what the message at the end will say."""
        if isinstance(event, Objected):
            if event.bound is Bound.MISSED:
                self._missed.append(f"{event.objective}: {event.value}")
            return
        name = event.clock if isinstance(event, ClockStopped) else event.name
        if event.objective is Bound.MISSED and event.within is not None:
            self._missed.append(f"{name}: {Duration(event.seconds)}, promised within {Duration(event.within)}")
        if isinstance(event, StepFinished) and event.outcome is Outcome.FAILED and event.severity == "critical":
            self._failed.append(f"{name}: {event.message}" + (f" ({event.hint})" if event.hint else ""))

    def _end(self, event: RunFinished) -> Moment | None:
        if event.exit_code:
            cause = "\n".join([*self._failed, *event.reasons, *self._missed, *event.pending_undos][:10])
            run = self._begun.run if self._begun is not None else "last"
            next_step = "`k2run undo` puts back what is broken" if event.pending_undos else f"`k2run report {run}`"
            return self._moment(
                Occasion.FAILURE, f"end {event.seq}", f"{self._title}: {event.verdict}", cause, next_step
            )
        if self._missed:
            cause = "\n".join(self._missed[:10])
            title = f"{self._title} missed {len(self._missed)} objective{'s' if len(self._missed) > 1 else ''}"
            return self._moment(Occasion.OBJECTIVE_MISSED, f"end {event.seq}", title, cause)
        if self._failed_before or (self._begun is not None and self._begun.kind == "recovery"):
            did = "changed nothing, and its steady state holds" if event.unchanged else f"recovered: {event.verdict}"
            title = f"{self._title} {did} in {Duration(event.seconds)}"
            return self._moment(Occasion.RECOVERED, f"end {event.seq}", title)
        return None

    def _moment(self, occasion: Occasion, key: str, title: str, cause: str = "", next_step: str = "") -> Moment:
        begun = self._begun
        return Moment(
            occasion=occasion,
            key=key,
            title=title,
            cause=cause,
            next_step=next_step,
            run=begun.run if begun else "",
            runbook=begun.name if begun else "",
            stack=begun.stack if begun else "",
            link=f"{self._link}/runs/{begun.run}" if self._link and begun else "",
        )

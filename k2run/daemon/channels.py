"""Who is told what of runs and incidents, by the settings in `k2run.yaml`; how each channel sends."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from email.message import EmailMessage
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from k2run.daemon.alerts.delivery import SIGNATURE, TIME, signature_of
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
from k2run.errors import K2runError, OperatorError, UsageError
from k2run.language.document import read_file
from k2run.language.quantities import Duration
from k2run.stack.secrets import MASK, is_secret, read_secret
from k2run.terminal.safe_stream import complain

if TYPE_CHECKING:
    from collections.abc import Callable

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
        password: Of the user in `server`; sent over TLS alone, to a server whose certificate the system trusts.
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
    return replace(settings, notifications=[_filled(channel, path.parent) for channel in settings.notifications])


def usable_settings() -> Settings:
    """The settings; invalid ones are a warning, and as good as none."""
    try:
        return read_settings()
    except K2runError as error:
        complain(f"warning: no notifications will be sent:  {error}")
        return Settings()


def _filled(channel: Channel, near: Path) -> Channel:
    values: dict[str, Any] = {
        name: getattr(channel, name) for name in ("slack", "webhook", "secret", "password", "apprise")
    }
    read = {name: read_secret(value, near=near) for name, value in values.items() if is_secret(value)}
    return replace(channel, **read)


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


TIMEOUT_S = 10.0
_MARKS = {
    "start": "▶",
    "incident": "●",
    "failure": "✗",
    "objective_missed": "!",
    "approval": "?",
    "recovered": "✓",
    "ended": "○",
}
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def send(channel: Channel, moment: Moment) -> None:
    """Deliver a message.

    Raises:
        UsageError: It can never be delivered: the receiver refuses it, or a program is missing.
        Exception: It may be delivered later.
    """
    _SENDERS[channel.kind](channel, moment)


def _slack(channel: Channel, moment: Moment) -> None:
    text = f"{_MARKS[moment.occasion]} *{moment.title.translate(_ESCAPES)}*"
    below = replace(moment, link="").body
    text += f"\n{below.translate(_ESCAPES)}" if below else ""
    text += f"\n<{moment.link}>" if moment.link else ""
    _post(channel.slack, msgspec.json.encode({"text": text}))


def _webhook(channel: Channel, moment: Moment) -> None:
    body = msgspec.json.encode(moment)
    at = str(int(time.time()))
    headers = {TIME: at, SIGNATURE: signature_of(at, body, channel.secret)} if channel.secret else {}
    _post(channel.webhook, body, headers)


def _post(address: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    import httpx

    answer = httpx.post(
        address, content=body, headers={"content-type": "application/json", **(headers or {})}, timeout=TIMEOUT_S
    )
    host = urlsplit(address).hostname
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
        raise OperatorError(f"{host} answered {answer.status_code}")
    if not answer.is_success:
        raise UsageError(f"{host} answered {answer.status_code}: {answer.text[:200]}")


def _email(channel: Channel, moment: Moment) -> None:
    from smtplib import SMTPNotSupportedError, SMTPRecipientsRefused, SMTPSenderRefused

    from k2run.adapters.notify import Email, hand_over

    message = EmailMessage()
    message["Subject"] = f"{_MARKS[moment.occasion]} {' '.join(moment.title.split())}"
    message["From"], message["To"] = channel.sender, ", ".join(channel.email)
    message.set_content(moment.body or "There is nothing more to say.")
    server = urlsplit(channel.server)
    secure = server.scheme == "smtps"
    email = Email(
        host=server.hostname or "localhost",
        port=server.port or (465 if secure else 25),
        sender=channel.sender,
        user=server.username or "",
        password=channel.password,
        security="tls" if secure else "starttls" if channel.password else "none",
    )
    try:
        hand_over(email, TIMEOUT_S, message)
    except (SMTPRecipientsRefused, SMTPSenderRefused) as error:
        raise UsageError(f"{server.hostname} refused the message: {error}") from error
    except SMTPNotSupportedError as error:
        raise UsageError(f"{server.hostname} gets no password without TLS: {error}; try `smtps://`") from error


def _desktop(channel: Channel, moment: Moment) -> None:  # noqa: ARG001 - every sender has the same form
    program = shutil.which("notify-send")
    if program is None:
        raise UsageError("notify-send is not installed")
    urgency = "critical" if moment.occasion in {"failure", "approval", "incident"} else "normal"
    body = moment.body.translate(_ESCAPES)  # a body is markup, a title is not
    words = [program, "--app-name=k2run", f"--urgency={urgency}", "--", moment.title, body]
    subprocess.run(words, check=True, timeout=TIMEOUT_S)


def _apprise(channel: Channel, moment: Moment) -> None:
    """Through Apprise, which knows some 130 services by their URLs; it says why it failed in its log alone."""
    if find_spec("apprise") is None:
        raise UsageError("the package apprise is not installed; `pip install 'k2run[notify]'` brings it")
    import apprise

    service = apprise.Apprise()
    if not service.add(channel.apprise):
        raise UsageError("Apprise knows no such service; its URLs look like matrix://user:password@host/#room")
    body = moment.body or moment.title
    with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as log:  # type: ignore[no-untyped-call]
        if not service.notify(title=f"{_MARKS[moment.occasion]} {moment.title}", body=body):
            raise OperatorError(" ".join(log.getvalue().split()) or "Apprise could not deliver it")


_SENDERS: dict[str, Callable[[Channel, Moment], None]] = {
    "slack": _slack,
    "webhook": _webhook,
    "email": _email,
    "desktop": _desktop,
    "apprise": _apprise,
}

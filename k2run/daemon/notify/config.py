"""The settings in `k2run.yaml`: who is told what."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from k2run.daemon.notify.moment import Occasion  # noqa: TC001 - msgspec reads the types of fields
from k2run.errors import UsageError
from k2run.language.document import read_file
from k2run.stack.redactor import MASK
from k2run.stack.secrets import is_secret, read_secret

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

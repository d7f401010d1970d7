"""Telling people: a chat, any webhook, a mail. What the stack keeps as secret is masked before it leaves."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, Literal

from k2run.actions.action import Effect, Result, action, beginning
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._clients import apart, late
from k2run.adapters.http.client import Api
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls, trust
from k2run.errors import AuthorError, Refused, TimedOut, Unreachable
from k2run.stack.services import Services

_SETTING = "see connections.email in the stack file"


class Email(Connection, frozen=True, kw_only=True, key="email"):
    """A mail server, and who writes.

    Attributes:
        host: Its name or address.
        port: Its TCP port.
        sender: The address that mails come from.
        to: Who gets them when a step does not say.
        user: For servers that want to know; empty for none.
        password: Likewise.
        security: `starttls`, `tls` from the first byte, or `none`.
        tls: How the server is trusted.
    """

    host: str
    port: int = 587
    sender: str
    to: list[str] = []
    user: str = ""
    password: str = ""
    security: Literal["starttls", "tls", "none"] = "starttls"
    tls: Tls = TRUSTING_THE_SYSTEM

    @property
    def address(self) -> str:
        """Where it is."""
        return f"smtp://{self.host}:{self.port}"


def deliver(email: Email, deadline: Deadline, message: EmailMessage) -> None:
    """Hand a mail to the server, which must take it for every recipient.

    Raises:
        Unreachable: Nothing answers, or no mail server.
        Refused: It refuses the password, the sender or a recipient.
        TimedOut: The deadline passed first.
    """
    try:
        turned_away = apart(lambda: hand_over(email, deadline.remaining(), message), deadline)
    except (TimedOut, TimeoutError) as error:
        raise late(email.address, deadline, _SETTING) from error
    except (smtplib.SMTPServerDisconnected, smtplib.SMTPConnectError) as error:
        if isinstance(error.__context__, TimeoutError):  # its own clock was the first of the two
            raise late(email.address, deadline, _SETTING) from error
        raise Unreachable(f"{email.address} does not answer like a mail server: {error}", hint=_SETTING) from error
    except (smtplib.SMTPException, ValueError) as error:
        raise Refused(f"{email.address} refuses: {error}", hint=f"user, password, sender: {_SETTING}") from error
    except OSError as error:
        raise Unreachable(f"{email.address} does not answer: {error.strerror or error}", hint=_SETTING) from error
    if turned_away:
        raise Refused(f"{email.address} refuses the recipients {', '.join(turned_away)}")


def hand_over(email: Email, patience: float, message: EmailMessage) -> dict[str, tuple[int, bytes]]:
    """Hand a mail to a server that gets so many seconds for each answer; returns whom it refuses, with its reasons."""
    if email.security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(email.host, email.port, timeout=patience, context=trust(email.tls))
    else:
        server = smtplib.SMTP(email.host, email.port, timeout=patience)
    with server:
        if email.security == "starttls":
            server.starttls(context=trust(email.tls))
        if email.user:
            server.login(email.user, email.password)
        return server.send_message(message)


Mood = Literal["plain", "good", "warning", "bad"]
_COLOURS = {"good": "#2e7d32", "warning": "#f9a825", "bad": "#c62828"}
MOST_CHARACTERS = 4000
"""Of a text; chats cut off what is longer."""


class Slack(Connection, frozen=True, kw_only=True, key="slack"):
    """An incoming webhook of Slack (or of a chat that takes the same).

    Attributes:
        url: The webhook; whoever has it may write, so it belongs into a secret.
        tls: How the server is trusted.
    """

    url: str
    tls: Tls = TRUSTING_THE_SYSTEM


class Webhook(Connection, frozen=True, kw_only=True, key="webhook"):
    """A URL that takes JSON.

    Attributes:
        url: The whole URL.
        headers: Sent along, such as an authorization.
        tls: How the server is trusted.
    """

    url: str
    headers: dict[str, str] = {}
    tls: Tls = TRUSTING_THE_SYSTEM


class Told(Result, frozen=True, kw_only=True):
    """A message that was taken.

    Attributes:
        by: `slack`, `webhook` or `email`.
        text: What was said, secrets masked.
        to: Who gets a mail; otherwise empty.
    """

    by: str
    text: str
    to: list[str] = []

    def headline(self) -> str:
        """The beginning of what was said."""
        return f"{self.by}: {beginning(' '.join(self.text.split()), 60)}"


@action("notify.slack", effect=Effect.CHANGES)
def slack(
    slack: Slack, services: Services, deadline: Deadline, text: str, title: str = "", mood: Mood = "plain"
) -> Told:
    """Write to a chat through an incoming webhook; sent once, never repeated.

    Args:
        text: What to say, in the chat's own markup; templates fill in values.
        title: A line in bold above it.
        mood: The colour at its side.
    """
    said = _fit(services, f"*{title}*\n{text}" if title else text)
    body: dict[str, Any] = {"text": said}
    if mood != "plain":
        body = {"attachments": [{"color": _COLOURS[mood], "text": said, "fallback": said, "mrkdwn_in": ["text"]}]}
    _post(Api("the chat", slack.url, "connections.slack", {}, slack.tls), deadline, body)
    return Told(by="slack", text=said)


@action("notify.webhook", effect=Effect.CHANGES)
def webhook(webhook: Webhook, services: Services, deadline: Deadline, json: Any) -> Told:
    """Send a document to a URL with POST; sent once, never repeated.

    Args:
        json: The document; templates fill in values.
    """
    cleaned = services.stack.redact.clean(json)
    _post(Api("the webhook", webhook.url, "connections.webhook", webhook.headers, webhook.tls), deadline, cleaned)
    return Told(by="webhook", text=str(cleaned)[:MOST_CHARACTERS])


@action("notify.email", effect=Effect.CHANGES)
def email(email: Email, services: Services, deadline: Deadline, subject: str, text: str, to: list[str] = []) -> Told:
    """Send a mail as plain text.

    Args:
        subject: Its subject, one line.
        text: Its text; templates fill in values.
        to: Addresses of who gets it; without any those of the connection.
    """
    recipients = to or email.to
    if not recipients:
        raise AuthorError(
            "notify.email: it has no recipient", hint="give `to`, or connections.email.to in the stack file"
        )
    message = EmailMessage()
    said = services.stack.redact(text)
    message["Subject"] = " ".join(services.stack.redact(subject).split())
    message["From"], message["To"] = email.sender, ", ".join(recipients)
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="k2run.invalid")
    message.set_content(said)
    deliver(email, deadline, message)
    return Told(by="email", text=said, to=recipients, source=email.address)


def _fit(services: Services, text: str) -> str:
    clean = services.stack.redact(text)
    return clean if len(clean) <= MOST_CHARACTERS else clean[: MOST_CHARACTERS - 1] + "…"


def _post(api: Api, deadline: Deadline, body: Any) -> None:
    answer = api.ask(deadline, "", method="POST", sent=body)
    if not 200 <= answer.status < 300:  # noqa: PLR2004 - the 2xx
        raise api.refusal(answer, "take the message")

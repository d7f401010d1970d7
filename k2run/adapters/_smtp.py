"""Sending one mail under a deadline."""

from __future__ import annotations

import smtplib
from typing import TYPE_CHECKING, Literal

from k2run.actions.connection import Connection
from k2run.adapters._punctual import apart
from k2run.adapters._tls import TRUSTING_THE_SYSTEM, Tls, trust
from k2run.errors import Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from email.message import EmailMessage

    from k2run.actions.deadline import Deadline

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
        Unreachable: Nobody answers, or no mail server.
        Refused: It refuses the password, the sender or a recipient.
        TimedOut: The deadline passed first.
    """
    try:
        turned_away = apart(lambda: _hand_over(email, deadline, message), deadline)
    except (TimedOut, TimeoutError) as error:
        raise _timed_out(email, deadline) from error
    except (smtplib.SMTPServerDisconnected, smtplib.SMTPConnectError) as error:
        if isinstance(error.__context__, TimeoutError):  # its own clock was the first of the two
            raise _timed_out(email, deadline) from error
        raise Unreachable(f"{email.address} does not answer like a mail server: {error}", hint=_SETTING) from error
    except (smtplib.SMTPException, ValueError) as error:
        raise Refused(f"{email.address} refuses: {error}", hint=f"user, password, sender: {_SETTING}") from error
    except OSError as error:
        raise Unreachable(f"{email.address} does not answer: {error.strerror or error}", hint=_SETTING) from error
    if turned_away:
        raise Refused(f"{email.address} refuses the recipients {', '.join(turned_away)}")


def _timed_out(email: Email, deadline: Deadline) -> TimedOut:
    return TimedOut(f"{email.address} has not answered within {deadline.seconds:g}s", hint=_SETTING)


def _hand_over(email: Email, deadline: Deadline, message: EmailMessage) -> dict[str, tuple[int, bytes]]:
    """The recipients that the server refuses, with its reasons."""
    with _dialogue(email, deadline) as server:
        if email.security == "starttls":
            server.starttls(context=trust(email.tls))
        if email.user:
            server.login(email.user, email.password)
        return server.send_message(message)


def _dialogue(email: Email, deadline: Deadline) -> smtplib.SMTP:
    patience = deadline.remaining()
    if email.security == "tls":
        return smtplib.SMTP_SSL(email.host, email.port, timeout=patience, context=trust(email.tls))
    return smtplib.SMTP(email.host, email.port, timeout=patience)

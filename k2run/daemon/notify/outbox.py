"""Messages on their way: each channel has a queue and a thread, which sends, and tries again until it gives up."""

from __future__ import annotations

import logging
import queue
import shutil
import subprocess
import threading
import time
from datetime import UTC, datetime
from email.message import EmailMessage
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from k2run.daemon.alerts.delivery import SIGNATURE, TIME, signature_of
from k2run.errors import OperatorError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from k2run.daemon.notify.config import Channel, Moment

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
GIVE_UP_S = 900.0
LOG = "notified.jsonl"


class Outbox:
    """Sends moments through channels.

    Args:
        channels: The ways to people.
        log: What was sent, or given up; a moment that stands there is not sent again.
        give_up: Seconds after which a message is given up.
        first_pause: Seconds until the second attempt; doubled with each.
    """

    def __init__(
        self,
        channels: Iterable[Channel],
        log: Path,
        *,
        give_up: float = GIVE_UP_S,
        first_pause: float = FIRST_PAUSE_S,
    ) -> None:
        self._log = log
        self._give_up = give_up
        self._first_pause = first_pause
        self._sent = _settled(log)
        self._lock = threading.Lock()
        self._lanes: list[tuple[str, Channel, queue.SimpleQueue[Moment | None]]] = [
            (f"{number} {channel.kind}", channel, queue.SimpleQueue()) for number, channel in enumerate(channels)
        ]
        self._threads = [threading.Thread(target=self._work, args=lane, daemon=True) for lane in self._lanes]
        for thread in self._threads:
            thread.start()

    def put(self, moment: Moment) -> None:
        """Send a moment to everybody who wants it; returns at once."""
        for name, channel, lane in self._lanes:
            if channel.wants(moment.occasion) and (name, moment.key) not in self._sent:
                lane.put(moment)

    def close(self) -> None:
        """Wait until everything is sent or given up."""
        for _, _, lane in self._lanes:
            lane.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, name: str, channel: Channel, lane: queue.SimpleQueue[Moment | None]) -> None:
        while (moment := lane.get()) is not None:
            self._settle(name, channel, moment)

    def _settle(self, name: str, channel: Channel, moment: Moment) -> None:
        """Try until it is sent, or cannot be sent at all, or has taken too long."""
        end, pause, attempts = time.monotonic() + self._give_up, self._first_pause, 0
        while True:
            attempts += 1
            try:
                send(channel, moment)
            except UsageError as error:
                self._note(name, moment, attempts, error=channel.masked(error.message))
                return
            except Exception as error:  # noqa: BLE001 - whatever a network or a mail server does, it is tried again
                if time.monotonic() + pause > end:
                    self._note(name, moment, attempts, error=f"given up: {channel.masked(str(error))}")
                    return
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
            else:
                self._note(name, moment, attempts)
                return

    def _note(self, name: str, moment: Moment, attempts: int, error: str = "") -> None:
        line: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "channel": name,
            "key": moment.key,
            "occasion": moment.occasion,
            "attempts": attempts,
            "error": error,
        }
        with self._lock, self._log.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def _settled(log: Path) -> set[tuple[str, str]]:
    """What an earlier messenger has sent or given up."""
    try:
        lines = log.read_bytes().splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        try:
            entry = msgspec.json.decode(line)
            found.add((entry["channel"], entry["key"]))
        except (msgspec.DecodeError, KeyError, TypeError):
            continue  # a line that a crash has cut off
    return found


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
    import smtplib

    message = EmailMessage()
    message["Subject"] = f"{_MARKS[moment.occasion]} {' '.join(moment.title.split())}"
    message["From"], message["To"] = channel.sender, ", ".join(channel.email)
    message.set_content(moment.body or "There is nothing more to say.")
    server = urlsplit(channel.server)
    secure = server.scheme == "smtps"
    kind = smtplib.SMTP_SSL if secure else smtplib.SMTP
    with kind(server.hostname or "localhost", server.port or (465 if secure else 25), timeout=TIMEOUT_S) as smtp:
        if not secure and smtp.has_extn("starttls"):
            import ssl

            smtp.starttls(context=ssl.create_default_context())
        if server.username:
            smtp.login(server.username, channel.password)
        try:
            smtp.send_message(message)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused) as error:
            raise UsageError(f"{server.hostname} refused the message: {error}") from error


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

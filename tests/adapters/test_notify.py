"""The notify actions: mails to a real SMTP server, messages to a web server that takes them as Slack does."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from k2run.actions.deadline import Deadline
from k2run.adapters import notify
from k2run.adapters.notify import Email, Slack, Webhook
from k2run.errors import AuthorError, Refused, TimedOut, Unreachable

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiosmtpd.smtp import Envelope

TESTED_ON = {"notify": "aiosmtpd as the mail server; HTTP servers that receive the documents: see below"}


def soon(seconds: float = 10) -> Deadline:
    return Deadline(seconds)


class Mailbox:
    """Keeps what it is handed; takes nothing for nobody@."""

    def __init__(self) -> None:
        self.mails: list[Envelope] = []

    async def handle_RCPT(self, _server, _session, envelope, address, _options):  # noqa: N802 - aiosmtpd's name
        if address.startswith("nobody@"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 - aiosmtpd's name
        self.mails.append(envelope)
        return "250 OK"


@pytest.fixture
def mail() -> Iterator[tuple[Mailbox, Email]]:
    def known(server, session, envelope, mechanism, data):
        return AuthResult(success=data.password == b"right", handled=False)

    box = Mailbox()
    settings = {"authenticator": known, "auth_require_tls": False, "auth_required": True}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Controller(box, hostname="127.0.0.1", port=port, **settings)
    server.start()
    yield (
        box,
        Email(host="127.0.0.1", port=port, sender="k2run@example.org", user="k2", password="right", security="none"),
    )
    server.stop()


@pytest.fixture
def stack(services):
    """Services of a stack that knows one secret."""
    made = services("")
    made.stack.redact.add("hunter2-secret")
    return made


def test_a_mail_arrives_with_secrets_masked(mail, stack):
    box, server = mail
    told = notify.email(server, stack, soon(), "NO-GO", "The key is hunter2-secret ✗", to=["oncall@example.org"])
    (envelope,) = box.mails
    assert envelope.rcpt_tos == ["oncall@example.org"]
    assert b"hunter2-secret" not in envelope.content
    assert "•••" in told.text
    assert b"Subject: NO-GO" in envelope.content


def test_mails_go_to_the_connections_recipients_unless_a_step_names_others(mail, stack):
    box, server = mail
    both = Email(**{**_settings(server), "to": ["a@example.org", "b@example.org"]})
    notify.email(both, stack, soon(), "GO\nBcc: evil@example.org", "fine")
    assert box.mails[0].rcpt_tos == ["a@example.org", "b@example.org"]
    assert b"\nBcc:" not in box.mails[0].content
    with pytest.raises(AuthorError, match="has no recipient"):
        notify.email(server, stack, soon(), "GO", "fine")


def _settings(server: Email) -> dict:
    return {name: getattr(server, name) for name in server.__struct_fields__}


def test_a_wrong_password_an_unknown_recipient_a_closed_port_and_silence_are_each_told(mail, stack, speaker):
    _, server = mail
    wrong = Email(**{**_settings(server), "password": "wrong"})
    to = ["a@example.org"]
    with pytest.raises(Refused, match=r"smtp://127\.0\.0\.1.*connections\.email"):
        notify.email(wrong, stack, soon(), "GO", "fine", to=to)
    with pytest.raises(Refused, match="no such user"):
        notify.email(server, stack, soon(), "GO", "fine", to=["nobody@example.org"])
    with pytest.raises(Refused, match="STARTTLS"):
        notify.email(Email(**{**_settings(server), "security": "starttls"}), stack, soon(), "GO", "fine", to=to)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        notify.email(Email(**{**_settings(server), "port": 1}), stack, soon(), "GO", "fine", to=to)
    port = int(speaker(lambda _: time.sleep(20)).rpartition(":")[2])
    started = time.monotonic()
    with pytest.raises(TimedOut, match="has not answered"):
        notify.email(Email(**{**_settings(server), "port": port}), stack, soon(0.5), "GO", "fine", to=to)
    assert time.monotonic() - started < 1.0
    garbage = int(speaker(lambda link: link.sendall(b"HTTP/1.1 200 OK\r\n")).rpartition(":")[2])
    with pytest.raises((Unreachable, Refused)):
        notify.email(Email(**{**_settings(server), "port": garbage}), stack, soon(2), "GO", "fine", to=to)


def test_a_chat_gets_text_title_and_colour_once_and_no_secret(web, stack):
    url = web.page("/services/T0/B0/x", "ok")
    notify.slack(Slack(url=url), stack, soon(), "api key hunter2-secret", title="Demo day", mood="bad")
    (asked,) = web.asked
    body = json.loads(asked[3])
    assert body["attachments"][0]["color"] == "#c62828"
    assert body["attachments"][0]["text"] == "*Demo day*\napi key •••"
    notify.slack(Slack(url=url), stack, soon(), "x" * 9000)
    assert len(json.loads(web.asked[1][3])["text"]) == notify.MOST_CHARACTERS


def test_a_webhook_gets_the_document_and_a_refusal_is_told_without_a_second_try(web, stack):
    url = web.page("/hook", "")
    notify.webhook(
        Webhook(url=url, headers={"X-Token": "t"}), stack, soon(), {"verdict": "GO", "k": ["hunter2-secret"]}
    )
    assert json.loads(web.asked[0][3]) == {"verdict": "GO", "k": ["•••"]}
    assert web.asked[0][2]["X-Token"] == "t"
    refusing = web.page("/closed", "invalid_token", status=403)
    with pytest.raises(Refused, match=r"403 Forbidden: invalid_token .*connections\.slack"):
        notify.slack(Slack(url=refusing), stack, soon(), "hello")
    assert len(web.asked) == 2
    with pytest.raises(Unreachable, match=r"connections\.webhook"):
        notify.webhook(Webhook(url="http://127.0.0.1:1"), stack, soon(), {})

from __future__ import annotations

import hmac
import signal
import socket
import ssl
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import AuthResult

from k2run.adapters.http.endpoint import trust
from k2run.daemon.channels import Channel, Moment, Occasion, Telling, read_settings
from k2run.daemon.messenger import LOG, Outbox
from k2run.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

PASS = "- assert: {that: true}\n"
FAIL = "- name: It holds\n  assert: {that: 1 > 2}\n  on_failure: Look at the log\n"
MOMENT = Moment(occasion=Occasion.FAILURE, key="end 9", title="A test failed <b>", cause="why & where", run="r")


def texts(web: Any) -> list[str]:
    return [one["json"]["text"] for one in web.received]


def test_a_failed_run_tells_its_cause_and_where_to_look(place: Any, web: Any, until: Any) -> None:
    place.settings(f"link: https://ops.example\nnotifications: [{{slack: '{web.url}'}}]\n")
    assert place.run(FAIL) == 1
    until(lambda: len(web.received) == 2)
    started, failed = texts(web)
    run = place.store.find_run("last").name
    assert started == f"▶ *The test starts on nothing*\n<https://ops.example/runs/{run}>"
    assert "✗ *The test on nothing:" in failed
    assert "It holds" in failed
    assert "Look at the log" in failed


def test_only_what_is_wanted_is_told(place: Any, web: Any, until: Any) -> None:
    place.settings(f"notifications: [{{slack: '{web.url}', on: [failure, recovered]}}]\n")
    place.run(PASS)
    place.run(FAIL)
    place.run(PASS)
    until(lambda: len(web.received) == 2)
    failed, recovered = sorted(texts(web), reverse=True)
    assert failed.startswith("✗")
    assert "recovered" in recovered


def test_a_missed_objective_is_told(place: Any, web: Any, until: Any) -> None:
    place.settings(f"notifications: [{{slack: '{web.url}', on: [objective_missed]}}]\n")
    place.run("- {name: Slow, wait: {for: 300ms}, within: 10ms}\n")
    [text] = until(lambda: texts(web))
    assert "missed 1 objective" in text
    assert "Slow: 3" in text


def test_a_killed_run_is_told(place: Any, web: Any, until: Any) -> None:
    place.settings(f"notifications: [{{slack: '{web.url}', on: [start, failure]}}]\n")
    process = place.start("- wait: {for: 60s}\n")
    until(lambda: texts(web))
    process.send_signal(signal.SIGKILL)
    process.wait(5)
    until(lambda: len(texts(web)) == 2)
    run = place.store.find_run("last").name
    assert texts(web)[1] == f"✗ *The test on nothing died*\nNext: `k2run resume {run}` continues it"


def test_a_receiver_that_hangs_does_not_hold_up_the_run(place: Any, web: Any, until: Any) -> None:
    web.open.clear()
    place.settings(f"notifications: [{{slack: '{web.url}'}}]\n")
    assert place.run(PASS) == 0
    assert web.received == []
    web.open.set()
    until(lambda: texts(web))


def test_a_messenger_goes_on_when_the_run_is_over_and_its_receiver_is_gone(place: Any, until: Any) -> None:
    place.settings("notifications: [{slack: 'http://127.0.0.1:9/'}]\n")
    assert place.run(PASS) == 0
    [messenger] = until(place.messengers)
    assert messenger.is_running()
    place.end()
    assert place.messengers() == [], "a test leaves none behind"


def test_wrong_settings_do_not_keep_a_run_from_running(place: Any) -> None:
    place.settings("notifications: [{slakc: x}]\n")
    assert place.run(PASS) == 0


def test_a_message_is_sent_again_until_it_arrives_and_never_twice(tmp_path: Any, web: Any) -> None:
    web.statuses = [500, 503]
    channel = Channel(slack=web.url)
    for _ in range(2):
        outbox = Outbox([channel], tmp_path / LOG, first_pause=0.01)
        outbox.put(MOMENT)
        outbox.close()
    assert texts(web) == ["✗ *A test failed &lt;b&gt;*\nwhy &amp; where"]
    assert '"attempts":3' in (tmp_path / LOG).read_text()


def test_what_is_refused_or_never_arrives_is_given_up_and_noted(tmp_path: Any, web: Any) -> None:
    web.statuses = [404]
    nowhere = Channel(webhook="http://127.0.0.1:9/")
    outbox = Outbox([Channel(slack=web.url), nowhere], tmp_path / LOG, first_pause=0.01, give_up=0.1)
    outbox.put(MOMENT)
    outbox.close()
    log = (tmp_path / LOG).read_text()
    assert "answered 404" in log
    assert "given up" in log


def test_a_webhook_gets_the_message_signed(tmp_path: Any, web: Any) -> None:
    outbox = Outbox([Channel(webhook=web.url, secret="a secret word")], tmp_path / LOG)
    outbox.put(MOMENT)
    outbox.close()
    [one] = web.received
    signed = one["headers"]["x-k2run-time"].encode() + b"." + one["raw"]
    signature = hmac.new(b"a secret word", signed, sha256).hexdigest()
    assert one["headers"]["x-k2run-signature"] == f"sha256={signature}"
    assert one["json"] == {
        "occasion": "failure",
        "key": "end 9",
        "title": "A test failed <b>",
        "cause": "why & where",
        "next_step": "",
        "run": "r",
        "runbook": "",
        "stack": "",
        "link": "",
    }


def test_an_email_arrives(tmp_path: Any, mail: Any) -> None:
    server = f"smtp://127.0.0.1:{mail.server_address[1]}"
    outbox = Outbox([Channel(email=["ops@example.com"], server=server)], tmp_path / LOG)
    outbox.put(MOMENT)
    outbox.close()
    [message] = mail.messages
    assert "To: ops@example.com" in message
    assert "why & where" in message


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def looked_at(port: int) -> None:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as link, trusting.wrap_socket(link) as line:
        line.recv(100)


def mailed(folder: Path, tls: ssl.SSLContext | None, scheme: str) -> tuple[list[tuple[bool, bytes]], str]:
    """What reaches a mail server that asks for a password: whether over TLS, and the password; and the log."""
    heard: list[tuple[bool, bytes]] = []

    def known(_server: Any, session: Any, _envelope: Any, _mechanism: Any, data: Any) -> AuthResult:
        heard.append((scheme == "smtps" or session.ssl is not None, data.password))
        return AuthResult(success=True)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings: dict[str, Any] = {"authenticator": known, "auth_require_tls": False}
    if scheme == "smtps":
        settings["ssl_context"] = tls
    else:
        settings["tls_context"] = tls
    server = Controller(Sink(), hostname="127.0.0.1", port=port, **settings)
    if scheme == "smtps":  # its own first look trusts no certificate, and would not end
        server._trigger_server = lambda: looked_at(port)
    server.start()
    channel = Channel(email=["ops@example.com"], server=f"{scheme}://k2@127.0.0.1:{port}", password="hunter2")
    outbox = Outbox([channel], folder / LOG, first_pause=0.01, give_up=0.1)
    outbox.put(MOMENT)
    outbox.close()
    server.stop()
    return heard, (folder / LOG).read_text()


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_password_reaches_a_mail_server_over_tls_that_the_system_trusts(
    scheme: str, tmp_path: Path, tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, log = mailed(tmp_path, tls, scheme)
    assert heard == []
    assert "certificate" in log
    (tmp_path / LOG).unlink()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    trust.cache_clear()  # the trust of a process is read once
    heard, log = mailed(tmp_path, tls, scheme)
    trust.cache_clear()
    assert heard == [(True, b"hunter2")]
    assert '"error":""' in log


def test_a_password_is_not_sent_to_a_mail_server_without_tls(tmp_path: Path) -> None:
    heard, log = mailed(tmp_path, None, "smtp")
    assert heard == []
    assert "gets no password without TLS" in log


def test_any_service_of_apprise_gets_the_message(tmp_path: Any, web: Any) -> None:
    channel = Channel(apprise=web.url.replace("http://", "json://"))
    outbox = Outbox([channel], tmp_path / LOG)
    outbox.put(MOMENT)
    outbox.close()
    [one] = web.received
    assert one["json"]["title"] == "✗ A test failed <b>"
    assert one["json"]["message"] == "why & where"


@pytest.mark.parametrize(
    ("url", "says"),
    [("nonsense://x", "knows no such service"), ("json://127.0.0.1:9/", "A Connection error occurred")],
)
def test_what_apprise_cannot_deliver_is_noted_with_its_reason(tmp_path: Any, url: str, says: str) -> None:
    outbox = Outbox([Channel(apprise=url)], tmp_path / LOG, first_pause=0.01, give_up=0.1)
    outbox.put(MOMENT)
    outbox.close()
    log = (tmp_path / LOG).read_text()
    assert says in log
    assert '"outcome":"sent"' not in log


def test_the_address_of_a_channel_stands_in_no_record(tmp_path: Any) -> None:
    channel = Channel(slack="hptt://chat.example/T0/a-secret-path")
    outbox = Outbox([channel], tmp_path / LOG, first_pause=0.01, give_up=0.02)
    outbox.put(MOMENT)
    outbox.close()
    assert "given up" in (tmp_path / LOG).read_text()
    assert "a-secret-path" not in (tmp_path / LOG).read_text()


def test_secrets_of_channels_come_from_elsewhere(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, place: Any) -> None:
    monkeypatch.setenv("HOOK", "https://hooks.example/abcdef")
    place.settings("notifications: [{slack: 'env:HOOK'}]\n")
    [channel] = read_settings(tmp_path / "k2run.yaml").notifications
    assert channel.slack == "https://hooks.example/abcdef"


@pytest.mark.parametrize("text", ["notifications: [{}]", "links: x", "notifications: [{slack: a, desktop: true}]"])
def test_settings_that_make_no_sense_are_told(tmp_path: Any, text: str) -> None:
    (tmp_path / "k2run.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"k2run\.yaml"):
        read_settings(tmp_path / "k2run.yaml")


def test_a_question_is_told_only_when_somebody_is_to_answer() -> None:
    from k2run.engine.events import Asked, RunStarted, StepStarted

    def asked(attended: bool, action: str = "manual.confirm") -> Moment | None:
        telling = Telling("")
        telling.hear(
            RunStarted(
                run="r", runbook="x", name="x", title="X", kind="readiness", digest="", stack="s", attended=attended
            )
        )
        telling.hear(StepStarted(step="s", section="x", name="Ask", action=action))
        return telling.hear(Asked(step="s", question="Is it printed?"))

    moment = asked(attended=True)
    assert moment is not None
    assert moment.title == "X on s: Is it printed?"
    assert asked(attended=False) is None
    assert asked(attended=True, action="manual.note") is None, "a note sends no message"

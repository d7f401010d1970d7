"""Twenty incidents over four kinds of channel: opened, approval where one is asked, outcome; none twice, none false."""

from __future__ import annotations

import email
import email.policy
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from k2run.daemon.alerts.delivery import Alert, Delivery
from k2run.daemon.alerts.incident_messages import open_messages
from k2run.daemon.alerts.incident_store import IncidentStore
from k2run.daemon.alerts.worker import Worker
from k2run.daemon.messenger import LOG
from k2run.engine.events import Outcome
from k2run.engine.journal import read_journal
from k2run.evidence.view import view_of
from tests.daemon.notify.conftest import WebReceiver, _serve

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_S = 240.0
"""Seconds that a run may take on a machine that is busy."""
EXPECTED = {
    "mends": ("incident", "recovered"),
    "fails": ("incident", "failure"),
    "asks": ("incident", "approval", "recovered"),
    "asks, and is resolved": ("incident", "approval", "ended"),
    "unknown": ("incident", "failure", "ended"),
}
"""What is told of an incident, in order, by what becomes of it. Of the last, that a person is needed, then its end."""
SAYS = {
    "Incident: ": "incident",
    " waits for an approval: ": "approval",
    "Recovered after ": "recovered",
    " did not recover this: ": "failure",
    "Nothing recovers this by itself: ": "failure",
    "Ended after ": "ended",
}
CHANNELS = ("webhook", "slack", "apprise", "email")


@pytest.fixture
def receivers(mail: Any) -> Iterator[dict[str, Any]]:
    """A server for each channel."""
    made = [_serve(WebReceiver()) for _ in CHANNELS[:-1]]
    yield {**dict(zip(CHANNELS, map(next, made), strict=False)), "email": mail}
    for each in made:
        next(each, None)


@pytest.fixture
def duty(place: Any, receivers: dict[str, Any], recovery: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A place with recovery runbooks whose messages go through all channels."""
    monkeypatch.chdir(place.folder)
    folder = place.folder / "runbooks" / "recovery"
    folder.mkdir(parents=True)
    stack = place.folder / "stack.yaml"
    for name, start, that in (
        ("mends", "automatic", "true"),
        ("fails", "automatic", "false"),
        ("asks", "approval", "true"),
    ):
        (folder / f"{name}.yaml").write_text(
            recovery(name=name, start=start, that=that, stack=stack, broken=broken(place, name))
        )
    urls = {name: server.url for name, server in receivers.items() if name != "email"}
    smtp = f"smtp://127.0.0.1:{receivers['email'].server_address[1]}"
    place.settings(
        "link: https://ops.example/\nnotifications:\n"
        f"  - webhook: {urls['webhook']}\n  - slack: {urls['slack']}\n"
        f"  - apprise: {urls['apprise'].replace('http://', 'json://')}\n"
        f"  - {{email: [ops@example.com], server: '{smtp}'}}\n"
    )
    return place


def broken(duty: Any, name: str) -> Any:
    """While there is this file, the symptoms of a recovery are present."""
    return duty.folder / f"{name} is broken"


class Server:
    """What looks after incidents and tells of them; it can be started again."""

    def __init__(self, duty: Any) -> None:
        self._duty = duty
        self.start()

    def start(self) -> None:
        self.incidents = IncidentStore(self._duty.store.home)
        self._messages = open_messages(self._duty.store)
        self.forget()

    def forget(self) -> None:
        """What was diagnosed serves for ten seconds, and the next incident comes sooner than that."""
        stack = str(self._duty.folder / "stack.yaml")
        self._worker = Worker(self._duty.store, self.incidents, stack, messages=self._messages, watch_s=0.2)

    def step(self) -> None:
        self._worker.step()

    def deliver(self, number: int, name: str, status: Any) -> Any:
        alert = Alert(status=status, labels={"alertname": name}, annotations={"summary": f"{name} in the test"})
        return self.incidents.receive(Delivery(group_key=f"group {number}", alerts=[alert], status=status))


def told(receivers: dict[str, Any], channel: str) -> list[tuple[str, str]]:
    """What arrived through a channel: the incident and the occasion of each message, in order."""
    if channel == "email":
        read = (email.message_from_string(text, policy=email.policy.default) for text in receivers["email"].messages)
        texts = [f"{one['Subject']}\n{one.get_content()}" for one in read]
    else:
        texts = [one["raw"].decode() for one in receivers[channel].received]
    return [(_incident(text), _occasion(text)) for text in texts]


def _incident(text: str) -> str:
    [incident] = set(re.findall(r"https:\\?/\\?/ops\.example\\?/incidents\\?/([\w-]+)", text))
    return incident


def _occasion(text: str) -> str:
    """By its title, which comes first in all of them."""
    found = [(text.index(words), occasion) for words, occasion in SAYS.items() if words in text]
    assert found, text
    return min(found)[1]


def play(server: Server, number: int, kind: str, duty: Any, until: Any) -> Any:
    """An incident from its first alert to its end."""
    name = kind.partition(",")[0]
    broken(duty, name).touch()
    server.forget()
    incident = server.deliver(number, name, "firing").id

    def now() -> Any:
        server.step()
        return server.incidents.find(incident)

    if name == "asks":
        until(lambda: now().waits_for_approval, LONG_S)
    if kind == "asks":
        server.incidents.approve(incident, "ada")
    if kind in {"mends", "fails", "asks"}:
        until(lambda: now().ended, LONG_S)
    else:
        until(lambda: now().chosen, LONG_S)
    broken(duty, name).unlink()
    server.deliver(number, name, "resolved")
    for _ in range(3):  # what has ended is told, and told once, however often one looks
        server.step()
    return incident


@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_every_channel_tells_each_thing_of_an_incident_once_and_nothing_false(
    duty: Any, receivers: dict[str, Any], until: Any, count: int
) -> None:
    server, kinds = Server(duty), {}
    for number in range(count):
        kind = [*EXPECTED][number % len(EXPECTED)]
        if number % 6 == 1:  # a receiver that fails for a moment is tried again
            receivers[CHANNELS[number // 6 % 3]].statuses = [503]
        kinds[play(server, number, kind, duty, until)] = kind
        if number == count // 2:
            until(
                lambda: server.step() or noted(duty) >= expected(kinds), LONG_S
            )  # what is received is noted before it dies
            server.start()
    until(lambda: server.step() or noted(duty) >= expected(kinds), LONG_S)
    until(lambda: not duty.messengers())
    assert len(kinds) == count
    for channel in CHANNELS:
        arrived = told(receivers, channel)
        assert [one for one, times in Counter(arrived).items() if times > 1] == [], f"{channel}: twice"
        by_incident = {name: tuple(what for of, what in arrived if of == name) for name in kinds}
        assert by_incident == {name: EXPECTED[kind] for name, kind in kinds.items()}, channel
        assert len(arrived) == sum(map(len, by_incident.values())), f"{channel}: of another incident"
    check_truth(server, duty, kinds)
    print(f"{count} incidents, {len(CHANNELS)} channels: {noted(duty)} messages, none twice, none false")


def expected(kinds: dict[str, str]) -> int:
    return len(CHANNELS) * sum(len(EXPECTED[kind]) for kind in kinds.values())


def noted(duty: Any) -> int:
    log = duty.store.home / "serve" / LOG
    return len(log.read_text().splitlines()) if log.exists() else 0


def check_truth(server: Server, duty: Any, kinds: dict[str, str]) -> None:
    """What was told as recovered was proven by a run of its own, and only that."""
    proven = set()
    for name in kinds:
        run = server.incidents.find(name).run
        finished = view_of(read_journal(duty.store.home / "runs" / run)).finished if run else None
        if finished is not None and finished.outcome is Outcome.PASSED and not finished.unchanged:
            proven.add(name)
    assert proven == {name for name, kind in kinds.items() if "recovered" in EXPECTED[kind]}
    assert len({server.incidents.find(name).run for name in proven}) == len(proven), "each by its own run"

"""The shipped rules and configuration in a real Prometheus and a real Alertmanager, in front of the real receiver."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from alert_programs import DEPLOY, AlertChain

from tests.daemon.alerts.conftest import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JOBS = ["k2-api", "k2-consumer", "k2-stream"]
FOR_S = 30.0


@pytest.fixture
def chain(receiver: Any, request: pytest.FixtureRequest) -> Iterator[AlertChain]:
    """Quick, unless a test asks for the times that are shipped."""
    folder = receiver.folder / "chain"
    folder.mkdir()
    quick = getattr(request, "param", "quick") == "quick"
    made = AlertChain(folder, f"{receiver.url}/hooks/alertmanager", SECRET, JOBS, quick=quick)
    yield made
    made.end()


def down(receiver: Any) -> dict[str, Any]:
    """The newest incident of each job."""
    return {one.opened.labels.get("job", ""): one for one in receiver.incidents.all()}


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)
    return found


def seen(receiver: Any, chain: AlertChain) -> None:
    """Wait until Prometheus has scraped every service: nothing can go down that was never up."""
    query = f"{chain.url('prometheus')}/api/v1/query"
    until(
        lambda: (
            len(httpx.get(query, params={"query": "up == 1"}).json()["data"]["result"]) == len(JOBS)
            and receiver.incidents.all() == []
        )
    )


def test_two_services_that_fail_are_two_incidents_and_each_is_resolved_on_its_own(
    receiver: Any, chain: AlertChain
) -> None:
    seen(receiver, chain)
    chain.kill("k2-api")
    until(lambda: "k2-api" in down(receiver))
    chain.kill("k2-consumer")
    until(lambda: "k2-consumer" in down(receiver))
    assert len(receiver.incidents.all()) == 2
    api = down(receiver)["k2-api"]
    assert api.opened.title == "k2-api does not answer its scrape"
    assert 0 <= started(api) - began(api) < 5, "the outage is counted from the failing sample, `for` before the alert"
    chain.start("k2-api")
    until(lambda: down(receiver)["k2-api"].closed)
    assert down(receiver)["k2-consumer"].closed is None


def started(incident: Any) -> float:
    return datetime.fromisoformat(incident.opened.at).timestamp()


def began(incident: Any) -> float:
    return datetime.fromisoformat(incident.opened.began).timestamp()


@pytest.mark.slow
@pytest.mark.parametrize("chain", ["as shipped"], indirect=True)
def test_two_services_killed_a_minute_apart_are_two_incidents_within_for_and_15_s(
    receiver: Any, chain: AlertChain
) -> None:
    seen(receiver, chain)
    killed = {"k2-api": chain.kill("k2-api")}
    took = {"k2-api": until(lambda: "k2-api" in down(receiver) and time.monotonic(), 90) - killed["k2-api"]}
    time.sleep(max(0.0, killed["k2-api"] + 60 - time.monotonic()))
    killed["k2-consumer"] = chain.kill("k2-consumer")
    took["k2-consumer"] = (
        until(lambda: "k2-consumer" in down(receiver) and time.monotonic(), 90) - killed["k2-consumer"]
    )
    print({job: round(seconds, 1) for job, seconds in took.items()})
    assert len(receiver.incidents.all()) == 2
    assert max(took.values()) < FOR_S + 15


@pytest.mark.slow
def test_each_part_may_restart_in_the_middle(receiver: Any, chain: AlertChain) -> None:
    seen(receiver, chain)
    receiver.served.stop()
    chain.kill("k2-api")
    time.sleep(5)  # the alert fires, and nothing takes it
    receiver.served.start()
    until(lambda: "k2-api" in down(receiver))
    for part in ("alertmanager", "prometheus"):
        chain.kill(part)
        chain.start(part)
        until(lambda: httpx.get(f"{chain.url('alertmanager')}/api/v2/alerts").json(), 90)  # told again within 60 s
    [incident] = receiver.incidents.all()
    assert incident.closed is None, "what restarted is still the same incident"
    chain.start("k2-api")
    until(lambda: down(receiver)["k2-api"].closed)
    assert len(receiver.incidents.all()) == 1


@pytest.mark.slow
def test_a_silenced_alert_opens_nothing_until_the_silence_ends(receiver: Any, chain: AlertChain) -> None:
    seen(receiver, chain)
    now = datetime.now(UTC)
    matcher = {"name": "job", "value": "k2-api", "isRegex": False, "isEqual": True}
    silence = {"matchers": [matcher], "startsAt": now.isoformat(), "createdBy": "test", "comment": "test"}
    chain.post("silences", {**silence, "endsAt": (now + timedelta(seconds=12)).isoformat()})
    chain.kill("k2-api")
    chain.kill("k2-stream")
    until(lambda: "k2-stream" in down(receiver))
    assert "k2-api" not in down(receiver)
    until(lambda: "k2-api" in down(receiver))


@pytest.mark.slow
def test_an_inhibited_alert_opens_nothing(receiver: Any, chain: AlertChain) -> None:
    seen(receiver, chain)
    rule = {"source_matchers": ['job="k2-stream"'], "target_matchers": ['job="k2-consumer"']}
    chain.write_alertmanager(chain.config | {"inhibit_rules": [rule]})
    assert httpx.post(f"{chain.url('alertmanager')}/-/reload").is_success
    chain.kill("k2-stream")
    until(lambda: "k2-stream" in down(receiver))
    chain.kill("k2-consumer")
    chain.kill("k2-api")
    until(lambda: "k2-api" in down(receiver))
    time.sleep(3)
    assert set(down(receiver)) == {"k2-stream", "k2-api"}


@pytest.mark.slow
def test_repeats_join_their_incident(receiver: Any, chain: AlertChain) -> None:
    seen(receiver, chain)
    chain.write_alertmanager(chain.config | {"route": chain.config["route"] | {"repeat_interval": "1s"}})
    assert httpx.post(f"{chain.url('alertmanager')}/-/reload").is_success
    chain.kill("k2-api")
    until(lambda: receiver.incidents.all() and receiver.incidents.all()[0].deliveries >= 4)
    assert len(receiver.incidents.all()) == 1


@pytest.mark.slow
def test_a_storm_of_50_different_alerts_is_50_incidents(receiver: Any, chain: AlertChain) -> None:
    names = {f"Storm{number}" for number in range(50)}
    chain.post("alerts", [{"labels": {"alertname": name, "job": "storm"}} for name in names])
    until(lambda: len(receiver.incidents.all()) >= len(names))
    time.sleep(3)
    assert sorted(one.opened.labels["alertname"] for one in receiver.incidents.all()) == sorted(names)


def test_every_shipped_rule_says_how_long_it_waits() -> None:
    rules = yaml.safe_load((DEPLOY / "compose" / "prometheus" / "rules" / "k2.yml").read_text())
    every = [rule for group in rules["groups"] for rule in group["rules"]]
    assert {rule["alert"]: rule["annotations"].get("for") for rule in every} == {
        rule["alert"]: rule.get("for") for rule in every
    }

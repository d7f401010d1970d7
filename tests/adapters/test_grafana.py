"""The grafana actions against a small server that answers by Grafana's documented HTTP API.

No Grafana can be had as a package; the answers are those of
https://grafana.com/docs/grafana/latest/developers/http_api/, the queries go to nobody.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode

import pytest
from msgspec import structs

from k2run.actions.deadline import Deadline
from k2run.adapters import grafana as actions
from k2run.adapters._grafana import Grafana
from k2run.errors import AuthorError, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration

DASHBOARD = {
    "uid": "k2-platform-overview",
    "title": "K2 Market Data Platform",
    "templating": {"list": [{"name": "source", "type": "datasource", "current": {"value": "PBFA97CFB590B2093"}}]},
    "panels": [
        {"title": "About", "type": "text"},
        {"title": "API rate", "datasource": {"uid": "${source}"}, "targets": [{"refId": "A", "expr": "rate(api[5m])"}]},
        {
            "title": "Kafka",
            "type": "row",
            "panels": [
                {"title": "Consumer lag", "datasource": "Prometheus", "targets": [{"refId": "A", "expr": "lag"}]},
                {"title": "Broken", "targets": [{"refId": "A", "expr": "sum("}, {"refId": "B", "hide": True}]},
            ],
        },
    ],
}


@pytest.fixture
def grafana(web) -> Grafana:
    """A Grafana with one dashboard, a datasource that works and one that does not; it asks for admin and secret."""
    expected = "Basic " + b64encode(b"admin:secret").decode()

    def guarded(answer):
        def page(handler):
            if handler.headers.get("Authorization") != expected:
                return 401, {}, b'{"message":"Invalid username or password"}'
            return answer(handler)

        return page

    def says(content, status=200):
        return guarded(lambda _: (status, {"Content-Type": "application/json"}, json.dumps(content).encode()))

    def asked(_):
        sent = json.loads(web.asked[-1][3])
        expr = sent["queries"][0]["expr"]
        if expr == "sum(":
            return 400, {}, json.dumps({"results": {"A": {"error": "parse error", "status": 400}}}).encode()
        values = [[1, 2], [0.5, None]] if expr.startswith("rate") else []
        frame = {"schema": {"fields": []}, "data": {"values": values}}
        return 200, {}, json.dumps({"results": {"A": {"status": 200, "frames": [frame]}}}).encode()

    web.page("/api/health", json.dumps({"database": "ok", "version": "12.3.1", "commit": "x"}))
    hit = {"id": 1, "uid": DASHBOARD["uid"], "title": DASHBOARD["title"], "folderTitle": "K2 Market Data"}
    web.pages["/api/search"] = guarded(
        lambda handler: (200, {}, json.dumps([] if "query=zz" in handler.path else [hit]).encode())
    )
    web.pages[f"/api/dashboards/uid/{DASHBOARD['uid']}"] = says({"meta": {}, "dashboard": DASHBOARD})
    sources = [
        {"uid": "PBFA97CFB590B2093", "name": "Prometheus", "type": "prometheus", "url": "http://prometheus:9090"},
        {"uid": "dead", "name": "Dead", "type": "prometheus", "url": "http://nowhere:9090"},
    ]
    web.pages["/api/datasources"] = says(sources)
    web.pages["/api/datasources/uid/PBFA97CFB590B2093/health"] = says(
        {"status": "OK", "message": "Successfully queried the Prometheus API."}
    )
    web.pages["/api/datasources/uid/dead/health"] = says({"status": "ERROR", "message": "no such host"}, status=400)
    web.pages["/api/ds/query"] = guarded(asked)
    web.pages["/api/annotations"] = says({"message": "Annotation added", "id": 7})
    return Grafana(url=web.url, user="admin", password="secret")


def soon(seconds: float = 10) -> Deadline:
    return Deadline(seconds)


def test_health_is_that_of_the_database(grafana, web):
    assert actions.health(grafana, soon()).version == "12.3.1"
    web.page("/api/health", '{"database": "failing", "version": "12.3.1"}')
    with pytest.raises(Refused, match="'failing'"):
        actions.health(grafana, soon())


def test_dashboards_are_found_by_title_and_none_is_unknown(grafana):
    assert actions.dashboards(grafana, soon(), search="K2").uids == ["k2-platform-overview"]
    with pytest.raises(Unknown, match="no dashboards for 'zz'"):
        actions.dashboards(grafana, soon(), search="zz")


def test_a_datasource_is_tested_by_name_or_uid(grafana):
    assert actions.datasource(grafana, soon(), "Prometheus").uid == "PBFA97CFB590B2093"
    with pytest.raises(Refused, match="no such host"):
        actions.datasource(grafana, soon(), "dead")
    with pytest.raises(Unknown, match=r"no datasource 'Loki' .*there are: Prometheus, Dead"):
        actions.datasource(grafana, soon(), "Loki")


def test_panels_that_show_nothing_and_those_that_fail_are_named(grafana, web):
    found = actions.panels(grafana, soon(), "k2-platform-overview", window=Duration(900))
    assert (found.count, found.with_samples) == (3, 1)
    assert (found.empty, found.failed) == (["Consumer lag"], ["Broken"])
    assert [panel.samples for panel in found.panels] == [1, 0, 0]
    assert found.panels[2].error == "parse error"
    queries = [json.loads(content) for _, path, _, content in web.asked if path == "/api/ds/query"]
    assert {each["queries"][0]["datasource"]["uid"] for each in queries} == {"PBFA97CFB590B2093"}
    assert queries[0]["from"] == "now-900s"
    with pytest.raises(Unknown, match="check the uid"):
        actions.panels(grafana, soon(), "k2-platform")


def test_a_fault_is_marked_for_as_long_as_it_lasted(grafana, web):
    made = actions.annotate(grafana, soon(), "kafka stopped", tags=["fault"], lasted=Duration(30))
    assert made.id == 7
    sent = json.loads(web.asked[-1][3])
    assert sent["timeEnd"] - sent["time"] == 30_000
    assert sent["tags"] == ["fault"]
    with pytest.raises(AuthorError):
        actions.annotate(grafana, soon(), " ")


def test_a_wrong_password_a_closed_port_garbage_and_silence_each_say_what_to_look_at(grafana, web, speaker):
    with pytest.raises(Refused, match=r"401 Unauthorized.*credentials of connections\.grafana"):
        actions.dashboards(structs.replace(grafana, password="wrong"), soon())
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1.*connections\.grafana"):
        actions.health(structs.replace(grafana, url="http://127.0.0.1:1"), soon())
    web.page("/api/health", "<html>login</html>")
    with pytest.raises(Refused, match=r"does not answer like Grafana.*connections\.grafana"):
        actions.health(grafana, soon())
    silent, started = speaker(lambda _: time.sleep(20)), time.monotonic()
    with pytest.raises(TimedOut, match="has not answered"):
        actions.health(structs.replace(grafana, url=silent), soon(0.5))
    assert time.monotonic() - started < 1.0

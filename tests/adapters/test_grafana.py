"""The grafana actions against a small server that answers by Grafana's documented HTTP API.

No Grafana can be had as a package; the answers are those of
https://grafana.com/docs/grafana/latest/developers/http_api/, the queries go nowhere.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode

import pytest
from msgspec import structs

from k2run.actions.deadline import Deadline
from k2run.adapters import grafana as actions
from k2run.adapters.grafana import Grafana
from k2run.errors import AuthorError, Refused, TimedOut, Unknown, Unreachable
from k2run.language.json_schema import JsonSchema
from k2run.language.quantities import Duration

TESTED_ON = {"grafana": "a fake of Grafana's documented HTTP API: see below"}

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


def test_results_conform_to_a_schema_or_every_violation_is_told(grafana):
    filed = JsonSchema.parse({"properties": {"dashboards": {"items": {"properties": {"folder": {"const": "K2"}}}}}})
    with pytest.raises(Refused, match=r"\$\.dashboards\[0\]\.folder: is .*, not \"K2\""):
        actions.dashboards(grafana, soon(), conforms_to=filed)
    full = JsonSchema.parse({"properties": {"empty": {"maxItems": 0}, "failed": {"maxItems": 9}}})
    with pytest.raises(Refused, match=r"1 violation: \$\.empty: has 1 item, more than 0"):
        actions.panels(grafana, soon(), "k2-platform-overview", conforms_to=full)


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


LOKI = {"uid": "loki1", "name": "Loki", "type": "loki", "isDefault": False}
PROMETHEUS = {"uid": "prom1", "name": "Prometheus", "type": "prometheus", "isDefault": True}


def variable(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "type": "query", "query": f"label_values(up, {name})", "current": {}, **more}


def asked_by(web, panels: list[dict], variables: list[dict], **more: object) -> tuple[list[dict], dict[str, str]]:
    """The queries of a dashboard as Grafana gets them, and what went wrong in which panel."""
    content = {"title": "T", "templating": {"list": variables}, "panels": panels, **more}
    web.page("/api/dashboards/uid/t", json.dumps({"meta": {}, "dashboard": content}))
    web.page("/api/datasources", json.dumps([LOKI, PROMETHEUS]))
    web.page("/api/ds/query", json.dumps({"results": {"A": {"frames": [{"data": {"values": [[1], [1.0]]}}]}}}))
    found = actions.panels(Grafana(url=web.url), soon(), "t")
    asked = [json.loads(content)["queries"] for _, path, _, content in web.asked if path == "/api/ds/query"]
    return [query for queries in asked for query in queries], {
        one.title: one.error for one in found.panels if one.error
    }


def panel(expr: str, title: str = "up", **more: object) -> dict[str, object]:
    return {"title": title, "targets": [{"refId": "A", "expr": expr}], **more}


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"datasource": None},
        {"datasource": "default"},
        {"datasource": "Prometheus"},
        {"datasource": {"type": "prometheus", "uid": "${ds}"}},
        {"datasource": {"type": "prometheus", "uid": "$ds"}},
        {"datasource": "$ds"},
        {"datasource": {"type": "prometheus"}},
    ],
)
def test_the_default_datasource_is_the_one_that_is_marked_so(web, named):
    ds = variable("ds", type="datasource", query="prometheus")
    [query], wrong = asked_by(web, [panel("up", **named)], [ds])
    assert (query["datasource"]["uid"], wrong) == ("prom1", {})


@pytest.mark.parametrize(
    ("more", "text", "filled"),
    [
        ({"current": {"value": "api"}}, 'up{job="$job"}', 'up{job="api"}'),
        ({"current": {"value": "api"}}, 'up{job="${job}",x="[[job]]"}', 'up{job="api",x="api"}'),
        ({"current": {"value": ["a.b", "c"]}}, 'up{job=~"$job"}', 'up{job=~"(a\\.b|c)"}'),
        ({"current": {"value": ["a", "b"]}}, "${job:csv} ${job:pipe}", "a,b a|b"),
        ({"current": {"value": "$__all"}, "includeAll": True}, 'up{job=~"$job"}', 'up{job=~".*"}'),
        ({"current": {"value": ["$__all"]}, "allValue": "k2-.+"}, 'up{job=~"$job"}', 'up{job=~"k2-.+"}'),
        (
            {"current": {"value": "$__all"}, "options": [{"value": "$__all"}, {"value": "a"}, {"value": "b"}]},
            'up{job=~"$job"}',
            'up{job=~"(a|b)"}',
        ),
        ({"includeAll": True}, 'up{job=~"$job"}', 'up{job=~".*"}'),
        ({"type": "constant", "query": "k2"}, "$job", "k2"),
        ({"type": "custom", "query": "5m,10m"}, "rate(x[$job])", "rate(x[5m])"),
        (
            {"current": {"value": "api"}},
            'x{a="$job_name"}[$__rate_interval] $1',
            'x{a="$job_name"}[$__rate_interval] $1',
        ),
    ],
)
def test_variables_have_the_values_that_the_page_begins_with(web, more, text, filled):
    [query], wrong = asked_by(web, [panel(text)], [variable("job", **more)])
    assert (query["expr"], wrong) == (filled, {})


def test_a_panel_whose_variable_has_no_value_is_not_asked_and_says_so(web):
    queries, wrong = asked_by(web, [panel('up{job="$job"}'), panel("vector(1)", "one")], [variable("job")])
    assert [query["expr"] for query in queries] == ["vector(1)"]
    assert wrong == {"up": "its variable $job has no value in the dashboard: choose one and save it"}


def test_rows_of_old_dashboards_have_panels(web):
    queries, _ = asked_by(web, [], [], rows=[{"panels": [panel("a")]}, {"panels": [panel("b"), {"type": "text"}]}])
    assert [query["expr"] for query in queries] == ["a", "b"]


def test_what_a_panel_asks_is_known_or_said(web):
    panels = [
        panel("a"),
        {"title": "shared", "libraryPanel": {"uid": "x", "name": "y"}},
        panel("b", "copy", datasource={"uid": "-- Dashboard --", "type": "datasource"}),
        {"title": "mixed", "datasource": "-- Mixed --", "targets": [{"refId": "A", "expr": "c", "datasource": LOKI}]},
        {"title": "hidden", "targets": [{"refId": "A", "expr": "d", "hide": True}]},
    ]
    queries, wrong = asked_by(web, panels, [])
    assert [(query["expr"], query["datasource"]["uid"]) for query in queries] == [("a", "prom1"), ("c", "loki1")]
    assert list(wrong) == ["shared"]

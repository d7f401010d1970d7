from __future__ import annotations

import shutil
import socket
import subprocess
import time

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters import prometheus
from k2run.adapters.prometheus import Prometheus
from k2run.errors import Refused, Unknown, Unreachable
from k2run.language.quantities import Duration

TESTED_ON = {"prometheus": "Debian's Prometheus"}

CONFIG = """
global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: prometheus
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
  - job_name: kafka
    static_configs: [{{targets: ["127.0.0.1:1"]}}]
"""
RULES = """
groups:
  - name: critical
    rules:
      - {alert: TargetDown, expr: up == 0, labels: {severity: critical}, annotations: {summary: down}}
      - {alert: NeverFires, expr: vector(0) > 1}
      - {record: job:up:sum, expr: sum by (job) (up)}
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A real Prometheus that scrapes itself and a target that is down."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("the program prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "prometheus.yml").write_text(CONFIG.format(port=port))
    (folder / "rules.yml").write_text(RULES)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        connection = Prometheus(url=f"http://127.0.0.1:{port}")
        _until(lambda: prometheus.ready(connection, Deadline(2)))
        _until(lambda: prometheus.query(connection, Deadline(2), query='up{job="prometheus"} == 1'))
        _until(lambda: prometheus.series_exists(connection, Deadline(2), metric="ALERTS"))
        _until(lambda: prometheus.series_exists(connection, Deadline(2), metric="job:up:sum"))
        yield connection
    finally:
        process.terminate()
        process.wait(10)


def _until(look, within=20):
    end = time.monotonic() + within
    while True:
        try:
            return look()
        except (Unreachable, Refused, Unknown):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def test_it_is_ready(real):
    assert prometheus.ready(real, Deadline(5)).status == 200


def test_one_series_gives_a_value(real):
    result = prometheus.query(real, Deadline(5), query='up{job="prometheus"}')
    assert (result.value, result.count) == (1.0, 1)
    assert result.series[0].labels["job"] == "prometheus"


def test_a_scalar_gives_a_value(real):
    assert prometheus.query(real, Deadline(5), query="scalar(vector(42))").value == 42


def test_several_series_give_a_value_only_when_summed(real):
    assert prometheus.query(real, Deadline(5), query="up").value is None
    assert prometheus.query(real, Deadline(5), query="up", sum=True).value == 1
    assert prometheus.query(real, Deadline(5), query="up").headline() == "2 series"


@pytest.mark.parametrize("query", ["k2_degradation_level", "vector(0) / 0", "up == 7"])
def test_nothing_is_unknown_and_never_zero(real, query):
    with pytest.raises(Unknown, match="has no data for"):
        prometheus.query(real, Deadline(5), query=query)


def test_a_wrong_expression_is_refused_with_the_reason_of_prometheus(real):
    with pytest.raises(Refused, match="parse error"):
        prometheus.query(real, Deadline(5), query="sum(")
    with pytest.raises(Refused, match="query_range"):
        prometheus.query(real, Deadline(5), query="up[1m]")


def test_a_range_gives_points_and_their_extremes(real):
    _until(lambda: prometheus.query(real, Deadline(5), query='count_over_time(up{job="prometheus"}[1m]) >= 4'))
    result = prometheus.query_range(
        real, Deadline(5), query='up{job="prometheus"}', last=Duration(10), step=Duration(0.5)
    )
    assert (result.minimum, result.maximum, result.mean) == (1, 1, 1)
    assert result.points == len(result.series[0].points) >= 1
    with pytest.raises(Unknown):
        prometheus.query_range(real, Deadline(5), query="no_such_metric", last=Duration(60), step=Duration(1))


def test_a_series_exists_or_is_unknown(real):
    assert prometheus.series_exists(real, Deadline(5), metric="up").count == 2
    assert prometheus.series_exists(real, Deadline(5), metric="up", labels={"job": "kafka"}).count == 1
    with pytest.raises(Unknown, match='job="none"'):
        prometheus.series_exists(real, Deadline(5), metric="up", labels={"job": "none"})


def test_targets_are_counted_by_health(real):
    result = prometheus.targets(real, Deadline(5))
    assert (result.up, result.down) == (1, 1)
    assert result.headline() == "1 of 2 up; not up: kafka"
    down = prometheus.targets(real, Deadline(5), job="kafka")
    assert "refused" in down.targets[0].error
    with pytest.raises(Unknown, match="no targets"):
        prometheus.targets(real, Deadline(5), job="zookeeper")


def test_rules_are_listed_with_their_health(real):
    result = prometheus.rules(real, Deadline(5))
    assert (result.count, result.unhealthy) == (3, 0)
    assert prometheus.rules(real, Deadline(5), type="alert").count == 2


def test_alerts_that_fire_are_named(real):
    result = prometheus.alerts(real, Deadline(5))
    assert result.headline() == "1 firing: TargetDown"
    assert result.alerts[0].labels["severity"] == "critical"
    assert prometheus.alerts(real, Deadline(5), name="NeverFires").firing == 0


def test_nobody_there_is_unreachable():
    with pytest.raises(Unreachable):
        prometheus.alerts(Prometheus(url="http://127.0.0.1:1"), Deadline(5))


def test_another_server_is_not_taken_for_prometheus(web):
    web.page("/api/v1/query", "<html>")
    with pytest.raises(Refused, match=r"does not answer like Prometheus.*connections\.prometheus\.url"):
        prometheus.query(Prometheus(url=web.url), Deadline(5), query="up")


PARTIAL = "remote_read: remote storage down"


@pytest.fixture
def partial(web):
    """A Prometheus that says that something is missing in its answer, as the query API documents it."""
    content = '{"status": "success", "warnings": ["%s"], "data": {"resultType": "%s", "result": [%s]}}'
    one = '{"metric": {}, "value": [1, "0"]}'
    over_time = '{"metric": {}, "values": [[1, "0"]]}'
    web.page("/api/v1/query", content % (PARTIAL, "vector", one))
    web.page("/api/v1/query_range", content % (PARTIAL, "matrix", over_time))
    return Prometheus(url=web.url)


@pytest.mark.parametrize("ask", [prometheus.query, prometheus.query_range])
def test_a_partial_answer_is_unknown_unless_it_may_be_judged(partial, ask):
    with pytest.raises(Unknown, match=f"partial answer: {PARTIAL}"):
        ask(partial, Deadline(5), "errors_total")
    assert ask(partial, Deadline(5), "errors_total", partial=True).warnings == [PARTIAL]


def test_what_prometheus_says_of_the_query_is_told(web):
    said = "PromQL warning: quantile value should be between 0 and 1"
    one = '{"metric": {}, "value": [1, "0"]}'
    web.page("/api/v1/query", f'{{"data": {{"resultType": "vector", "result": [{one}]}}, "warnings": ["{said}"]}}')
    found = prometheus.query(Prometheus(url=web.url), Deadline(5), "x")
    assert found.warnings == [said]
    assert said in found.headline()

"""The API as a process beside a broker, a stream and a consumer that commit, stop, die and come back."""

from __future__ import annotations

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from wheel_programs import free_ports

from k2run.k2.platform.trade import TOPIC, Market, encode

KEY = {"X-API-Key": "k2-dev-api-key-2026"}


class Api:
    """The API's process and a client for it."""

    def __init__(self, sandbox):
        [port] = free_ports(1)
        self.program = sandbox.api(port, "--bootstrap", sandbox.bootstrap)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=KEY, timeout=10)

    def get(self, path, **params):
        return self.client.get(path, params=params)

    def rows(self, path="/v1/trades", **params):
        """The rows of an answer; none while the server is not up or has no table."""
        try:
            answer = self.get(path, **params)
        except httpx.TransportError:
            return []
        return answer.json()["data"] if answer.status_code == 200 else []

    def recent(self, **params):
        answer = self.get("/v1/trades/recent", symbol="BTCUSDT", exchange="BINANCE", limit=10_000, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def api(sandbox):
    started = Api(sandbox)
    yield started
    started.client.close()


def age_s(row):
    return (datetime.now(UTC).replace(tzinfo=None) - datetime.fromisoformat(row["timestamp"])).total_seconds()


def test_a_live_trade_is_answered_within_two_seconds_of_its_making(sandbox, api):
    sandbox.broker()
    sandbox.stream("--rate", 200)
    sandbox.consumer()
    sandbox.wait_for(lambda: len(api.rows(symbol="BTCUSDT")) == 100, 30, "a hundred trades are answered")
    ages = []
    for _ in range(10):
        ages.append(age_s(api.rows(symbol="BTCUSDT", limit=1)[0]))
        time.sleep(0.15)
    assert sorted(ages)[5] < 2
    assert age_s(api.recent(window_minutes=1)["data"][-1]) < 1
    assert api.get("/health").json()["status"] == "healthy"
    assert api.program.stop() == 0


def test_table_and_tail_together_are_every_trade_once_whatever_the_consumer_does(sandbox, api):
    sandbox.broker()
    sandbox.backlog(3_000)
    consumer = sandbox.consumer()
    sandbox.wait_for(lambda: sandbox.count() == 3_000, 30, "the table has them")
    sandbox.wait_for(lambda: api.rows() and from_topic(api) == 0, 10, "the API has followed the table to its end")
    produced = {t["message_id"] for t in api.rows(limit=10_000, symbol="BTCUSDT")}
    consumer.send(signal.SIGSTOP)

    made = list(Market(("BTCUSDT",), 1, 10**6).trades(500, now_us() - 10**6, now_us()))
    producer = Producer({"bootstrap.servers": sandbox.bootstrap})
    for trade in (*made, *made[:50]):  # fifty of them twice
        producer.produce(TOPIC, encode(trade), key=trade.symbol)
    producer.flush(10)
    produced |= {trade.message_id for trade in made}

    body = api.recent(window_minutes=60)
    assert body["meta"]["sources"] == {"iceberg": len(produced) - 500, "kafka": 500, "complete": True, "problem": None}
    for struck in (lambda: None, consumer.kill, sandbox.consumer):
        struck()
        assert_all_once(api, produced)
    sandbox.wait_for(lambda: from_topic(api) == 0, 30, "the tail is empty")
    assert_all_once(api, produced)


def test_a_broker_that_comes_back_empty_is_read_from_its_start(sandbox, api):
    broker = sandbox.broker()
    sandbox.backlog(2_000)
    consumer = sandbox.consumer()
    sandbox.wait_for(lambda: len(api.rows(symbol="BTCUSDT")) == 100, 30, "the first life's trades are answered")
    sandbox.wait_for(lambda: from_topic(api) == 0, 10, "the API has followed the table to its end")
    consumer.kill()
    broker.kill()
    assert api.recent()["meta"]["sources"]["problem"]
    assert api.get("/health").json()["status"] == "degraded"
    sandbox.broker()
    sandbox.backlog(300)
    sources = api.recent(window_minutes=60)["meta"]["sources"]
    assert sources["complete"]
    assert 0 < sources["kafka"] <= 300


def test_a_broker_that_hangs_delays_no_answer_for_long_nor_the_end_of_the_api(sandbox, api):
    broker = sandbox.broker()
    sandbox.backlog(1_000)
    sandbox.consumer()
    sandbox.wait_for(lambda: api.recent(window_minutes=60)["data"] if api.rows() else None, 30, "trades are answered")
    broker.send(signal.SIGSTOP)
    for ask in (api.recent, lambda: api.get("/health").json()):
        started = time.monotonic()
        body = ask()
        assert time.monotonic() - started < 3
        assert "does not answer" in str(body)
    with ThreadPoolExecutor(1) as caller:
        caller.submit(api.get, "/health")
        time.sleep(0.2)
        started = time.monotonic()
        assert api.program.stop() == 0
        assert time.monotonic() - started < 3
        broker.send(signal.SIGCONT)


def test_the_api_starts_alone_and_answers_once_the_consumer_has_committed(sandbox, api):
    sandbox.wait_for(lambda: answers(api), 20, "the API answers")
    health = api.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
    assert api.get("/v1/trades").json()["detail"]["error"] == "TABLE_NOT_FOUND"
    sandbox.broker()
    sandbox.wait_for(lambda: "does not exist yet" in kafka(api)["message"], 10, "the API sees an empty broker")
    assert not AdminClient({"bootstrap.servers": sandbox.bootstrap}).list_topics(timeout=5).topics  # asking made none
    sandbox.stream("--rate", 100)
    sandbox.consumer()
    sandbox.wait_for(lambda: api.get("/v1/trades").status_code == 200 and api.rows(), 30, "there are rows")
    found = api.get("/health").json()
    assert found["status"] == "healthy", found


def test_a_port_in_use_is_one_line_and_status_1(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = sandbox.api(port)
        assert program.process.wait(20) == 1
    assert program.log == f"error: port {port} is already in use\n"


def assert_all_once(api, produced):
    ids = [row["message_id"] for row in api.recent(window_minutes=60)["data"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == produced


def from_topic(api):
    """How many rows of an answer are not in the table yet."""
    return api.recent(window_minutes=60)["meta"]["sources"]["kafka"]


def answers(api):
    try:
        return api.get("/").status_code == 200
    except httpx.TransportError:
        return False


def kafka(api):
    return next(one for one in api.get("/health").json()["dependencies"] if one["name"] == "kafka")


def now_us():
    return time.time_ns() // 1000

"""The API over a table of its own, without a broker: what it answers, refuses, and finds."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import httpx
import pytest
import uvicorn
from catalog_server import catalog_server

from k2run.k2.platform import queries as queries_module
from k2run.k2.platform import rows, table
from k2run.k2.platform.api import application
from k2run.k2.platform.api_answers import HealthCheck
from k2run.k2.platform.queries import Queries, TradeRow, Trades
from k2run.k2.platform.queries_files import DataFile, TableMissingError
from k2run.k2.platform.queries_tail import BrokerTail
from k2run.k2.platform.store_files import FileCache, StoreFiles
from k2run.k2.platform.trade import Market

KEY = {"X-API-Key": "secret-of-this-test"}
SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT")
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  the table's timestamps carry no zone
END = EPOCH.replace(2026, 3, 4, 12)
NOBODY = "127.0.0.1:9"  # the discard port: no broker listens there


def micros(moment):
    return (moment - EPOCH) // timedelta(microseconds=1)


def append(catalog, trades):
    table.open_table(table.open_catalog(catalog), table.TRADES).append(rows.trade_columns(trades, {}))


def queries_of(catalog, folder):
    """The questions of a table as it is now."""
    store = StoreFiles("")
    queries = Queries(catalog, store, FileCache(store, folder / "cache"), table.TRADES)
    queries.table.refresh()
    return queries


def until(holds):
    """Wait for what the API sees a fraction of a second later."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def catalog(tmp_path):
    with catalog_server(tmp_path / "warehouse") as address:
        yield address


def market(first=1):
    return Market(SYMBOLS, seed=7, first_trade=first)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A table with files in order, files that overlap in time, and one without the last symbol."""
    folder = tmp_path_factory.mktemp("warehouse")
    random, made = Random(3), list(market().trades(6_000, micros(END - timedelta(hours=30)), micros(END)))
    early, mixed = made[:3_000], made[3_000:]
    random.shuffle(mixed)
    parts = [early[:1_000], early[1_000:], mixed[:1_200], [t for t in mixed[1_200:] if t.symbol != "BNBUSDT"]]
    with catalog_server(folder) as catalog:
        for part in parts:
            append(catalog, part)
        yield catalog, [trade for part in parts for trade in part]


@contextmanager
def serving(catalog, folder):
    """The API over `catalog` on a free port of this process, and a client for it."""
    app = application(catalog, "", folder / "cache", NOBODY, KEY["X-API-Key"])
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=20) as client:
            yield client
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def api(stored, tmp_path_factory):
    with serving(stored[0], tmp_path_factory.mktemp("api")) as client:
        yield client


def expected(trades, wanted, limit):
    """What a search of every row would find."""
    found = [t for t in trades if wanted.symbol in (None, t.symbol) and wanted.exchange in (None, t.exchange)]
    moments = [(EPOCH + timedelta(microseconds=t.timestamp), t.message_id) for t in found]
    inside = [m for m in moments if m[0] >= (wanted.since or EPOCH) and m[0] <= (wanted.until or END)]
    return sorted(inside, key=lambda m: (-micros(m[0]), m[1]))[:limit]


@pytest.fixture(scope="module")
def queries(stored, tmp_path_factory):
    return queries_of(stored[0], tmp_path_factory.mktemp("queries"))


@pytest.mark.parametrize("limit", [1, 100, 2_500, 10_000])
@pytest.mark.parametrize("symbol", [None, "BTCUSDT", "BNBUSDT", "DOGEUSDT"])
@pytest.mark.parametrize(
    "span",
    [
        (None, None),
        (END - timedelta(hours=2), None),
        (None, END - timedelta(hours=20)),
        (END - timedelta(hours=20),) * 2,
    ],
)
def test_the_files_left_unopened_held_nothing_that_was_asked_for(stored, queries, symbol, span, limit):
    trades = stored[1]
    wanted = Trades(symbol, None, *span)
    found = queries.newest(wanted, limit)
    assert [(row.timestamp, row.message_id) for row in found] == expected(trades, wanted, limit)


def test_a_query_for_the_newest_trades_opens_few_files(stored, tmp_path):
    view = queries_of(stored[0], tmp_path).table.view()
    assert len(view.holding("BNBUSDT", END - timedelta(hours=1), None)) == 1
    assert len(view.holding("ETHUSDT", None, END - timedelta(hours=29))) == 1
    assert view.holding("DOGEUSDT", None, None) == tuple(f for f in view.files if f.holds("DOGEUSDT", None, None))
    assert view.rows == len(stored[1])


def test_a_commit_is_seen_by_the_next_look_and_another_look_reads_nothing(catalog, tmp_path):
    queries = queries_of(catalog, tmp_path)
    followed = queries.table
    with pytest.raises(TableMissingError, match="does not exist yet"):
        followed.view()
    for commit in (1, 2, 3):
        append(catalog, list(market(10 * commit).trades(10, micros(END), micros(END) + 10)))
        followed.refresh()
        seen = followed.view()
        assert seen.rows == 10 * commit
        assert len(queries.newest(Trades(), 100)) == 10 * commit
        followed.refresh()
        assert followed.view() is seen


def test_the_newest_rows_in_memory_answer_like_the_files_do(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(queries_module, "_KEPT_ROWS", 300)
    monkeypatch.setattr(queries_module, "_MOST_ROWS", 500)
    queries, random, trades = queries_of(catalog, tmp_path), Random(5), []
    for commit in range(8):  # the last ones overlap in time with those before, and some moments are shared
        end = END - timedelta(minutes=8 - commit)
        made = list(market(1000 * commit + 1).trades(200, micros(end - timedelta(minutes=2)), micros(end)))
        trades += made
        append(catalog, made)
        if commit == 5:  # files are replaced: what is in memory begins again
            opened = table.open_table(table.open_catalog(catalog), table.TRADES)
            opened.overwrite(opened.scan().to_arrow())
        queries.table.refresh()
        kept = queries.table.view().newest_rows
        assert len(kept.rows) <= 500
        for symbol in (None, "BNBUSDT"):
            since = random.choice([None, end - timedelta(seconds=30), end - timedelta(minutes=5)])
            limit = random.choice([5, 100, 400, 1000])
            found = queries.newest(Trades(symbol, since=since), limit)
            assert [(row.timestamp, row.message_id) for row in found] == expected(
                trades, Trades(symbol, since=since), limit
            )
    assert queries.table.view().newest_rows.answer(Trades(), 100)
    assert queries.table.view().newest_rows.answer(Trades(), 1_000) is None


def test_copies_of_files_are_kept_within_a_bound(tmp_path):
    class Remote(StoreFiles):
        def read(self, location):
            reads.append(location)
            return b"12345678"

    reads, cache = [], FileCache(Remote(""), tmp_path / "cache", most=20)
    files = [DataFile(f"s3://warehouse/{number}.parquet", 1, 8) for number in range(3)]
    first = cache.paths(files[:2])
    assert cache.paths(files[:1]) == first[:1]
    assert [Path(path).exists() for path in cache.paths(files[2:]) + first] == [True, True, False]
    assert len(reads) == 3
    with pytest.raises(OSError, match="its manifest says 9"):
        cache.paths([DataFile("s3://warehouse/short.parquet", 1, 9)])


def test_trades_have_k2s_fields_and_envelope_newest_first(api):
    answer = api.get("/v1/trades", params={"symbol": "BTCUSDT", "limit": 5}, headers=KEY)
    body = answer.json()
    assert (answer.status_code, body["success"]) == (200, True)
    assert body["pagination"] == {"limit": 5, "offset": 0, "total": None, "has_more": True}
    assert [list(row) for row in body["data"]] == [list(TradeRow.__struct_fields__)] * 5
    times = [row["timestamp"] for row in body["data"]]
    assert times == sorted(times, reverse=True)
    assert isinstance(body["data"][0]["price"], float)
    assert answer.headers["Cache-Control"] == "private, max-age=5"


def test_exchange_and_symbol_are_case_sensitive_and_empty_is_not_an_error(api):
    body = api.get("/v1/trades", params={"exchange": "binance"}, headers=KEY).json()
    assert (body["data"], body["pagination"]["has_more"]) == ([], False)


def test_a_time_with_a_zone_is_compared_as_utc(api):
    zoned = {"start_time": "2026-03-04T12:30:00+01:00", "limit": 10_000}
    plain = {"start_time": "2026-03-04T11:30:00", "limit": 10_000}
    first, second = (api.get("/v1/trades", params=p, headers=KEY).json()["data"] for p in (zoned, plain))
    assert first == second != []


def test_the_key_is_asked_for_on_v1_only(api):
    assert api.get("/").status_code == api.get("/metrics").status_code == 200
    missing, wrong = api.get("/v1/trades"), api.get("/v1/stats", headers={"X-API-Key": "other"})
    assert (missing.status_code, missing.json()["detail"]["error"]) == (401, "UNAUTHORIZED")
    assert (wrong.status_code, wrong.json()["detail"]["error"]) == (403, "FORBIDDEN")
    assert missing.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/v1/trades?limit=0", "limit"),
        ("/v1/trades?limit=10001", "limit"),
        ("/v1/trades?limit=ten", "limit"),
        ("/v1/trades?start_time=yesterday", "start_time"),
        ("/v1/trades/recent?symbol=BTCUSDT", "exchange"),
        ("/v1/trades/recent?symbol=BTCUSDT&exchange=BINANCE&window_minutes=61", "window_minutes"),
        ("/v1/snapshots?limit=101", "limit"),
    ],
)
def test_a_parameter_out_of_bounds_is_named(api, path, place):
    answer = api.get(path, headers=KEY)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", place]


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/nowhere", 404, "Not Found"),
        ("/v1/summary/BTCUSDT/2020-01-01", 404, "NOT_FOUND"),
        ("/v1/summary/BTCUSDT/today", 400, "VALIDATION_ERROR"),
        ("/v1/snapshots?table=orders", 400, "INVALID_TABLE"),
    ],
)
def test_a_refusal_has_k2s_body(api, path, status, detail):
    answer = api.get(path, headers=KEY)
    said = answer.json()["detail"]
    assert (answer.status_code, said if isinstance(said, str) else said["error"]) == (status, detail)


def test_the_clients_correlation_id_comes_back_in_header_and_body(api):
    answer = api.get("/v1/symbols", headers=KEY | {"X-Correlation-ID": "run-17"})
    assert answer.headers["X-Correlation-ID"] == answer.json()["meta"]["correlation_id"] == "run-17"
    assert len(api.get("/").headers["X-Correlation-ID"]) == 8


def test_symbols_are_those_of_the_rows(api):
    assert api.get("/v1/symbols", headers=KEY).json()["data"] == sorted(SYMBOLS)
    assert api.get("/v1/symbols", params={"exchange": "ASX"}, headers=KEY).json()["data"] == []


def test_the_summary_of_a_day_agrees_with_its_trades(api, stored):
    day = [t for t in stored[1] if t.symbol == "ETHUSDT" and t.timestamp >= micros(END.replace(hour=0))]
    day.sort(key=lambda t: t.timestamp)
    prices, volume = [float(t.price) for t in day], sum(float(t.quantity) for t in day)
    found = api.get("/v1/summary/ethusdt/2026-03-04", headers=KEY).json()["data"]
    assert (found["symbol"], found["date"], found["trade_count"]) == ("ETHUSDT", "2026-03-04", len(day))
    assert [found[f"{one}_price"] for one in ("open", "close", "low", "high")] == [
        prices[0],
        prices[-1],
        min(prices),
        max(prices),
    ]
    assert found["volume"] == pytest.approx(volume)
    assert found["vwap"] == pytest.approx(sum(float(t.price) * float(t.quantity) for t in day) / volume)


def test_stats_count_trades_v2_from_its_metadata(api, stored):
    found = api.get("/v1/stats", headers=KEY).json()["data"]
    assert (found["trades_count"], found["data_files"], found["connection_active"]) == (len(stored[1]), 4, True)
    assert found["error"] is found["quotes_count"] is None


def test_snapshots_are_listed_newest_first(api, stored):
    body = api.get("/v1/snapshots", params={"limit": 2}, headers=KEY).json()
    totals = [int(one["summary"]["total-records"]) for one in body["data"]]
    assert (body["table_name"], totals[0], len(totals)) == ("trades_v2", len(stored[1]), 2)
    assert totals[1] < totals[0]


def test_without_a_broker_the_table_answers_and_says_what_is_missing(api):
    health = api.get("/health")
    found = {one["name"]: one["status"] for one in health.json()["dependencies"]}
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert found == {"duckdb": "healthy", "iceberg": "healthy", "kafka": "unhealthy"}
    recent = api.get("/v1/trades/recent", params={"symbol": "BTCUSDT", "exchange": "BINANCE"}, headers=KEY).json()
    sources = recent["meta"]["sources"]
    assert (sources["kafka"], sources["complete"]) == (None, False)
    assert "does not answer" in sources["problem"]


def test_before_the_table_exists_health_is_503_and_queries_say_so(catalog, tmp_path):
    with serving(catalog, tmp_path) as api:
        assert (api.get("/health").status_code, api.get("/health").json()["status"]) == (503, "unhealthy")
        answer = api.get("/v1/trades", headers=KEY)
        assert (answer.status_code, answer.json()["detail"]["error"]) == (503, "TABLE_NOT_FOUND")
        assert answer.headers["Retry-After"] == "1"
        append(catalog, [])
        until(lambda: api.get("/v1/trades", headers=KEY).status_code == 200)
        found = {one["name"]: one for one in api.get("/health").json()["dependencies"]}
        assert (found["iceberg"]["status"], found["iceberg"]["message"]) == ("degraded", "the table has no rows yet")
        assert api.get("/v1/trades", headers=KEY).json()["data"] == []
        append(catalog, list(market().trades(3, micros(END), micros(END) + 3)))
        until(lambda: len(api.get("/v1/trades", headers=KEY).json()["data"]) == 3)
        assert api.get("/health").status_code == 200


def test_a_data_file_that_is_gone_makes_health_unhealthy(catalog, tmp_path):
    append(catalog, list(market().trades(3, micros(END), micros(END) + 3)))
    view = queries_of(catalog, tmp_path).table.view()
    with serving(catalog, tmp_path) as api:
        until(lambda: api.get("/v1/trades", headers=KEY).status_code == 200)
        Path(view.files[0].location).unlink()
        until(lambda: api.get("/health").status_code == 503)
        answer = api.get("/v1/trades", headers=KEY)
        assert (answer.status_code, answer.json()["detail"]["error"]) == (500, "QUERY_FAILED")
        assert "is gone" in answer.json()["detail"]["message"]


def test_metadata_that_leads_nowhere_is_a_failed_query_and_not_an_empty_one(catalog, tmp_path):
    append(catalog, list(market().trades(3, micros(END), micros(END) + 3)))
    snapshot = table.open_catalog(catalog).load_table(table.TRADES).current_snapshot()
    Path(snapshot.manifest_list).unlink()
    with serving(catalog, tmp_path) as api:
        until(lambda: api.get("/v1/trades", headers=KEY).status_code != 503)
        answer = api.get("/v1/trades", headers=KEY)
    assert (answer.status_code, answer.json()["detail"]["error"]) == (500, "QUERY_FAILED")


def test_while_the_catalog_is_away_the_last_commit_is_answered_and_health_says_so(tmp_path):
    with catalog_server(tmp_path / "warehouse") as catalog:
        append(catalog, list(market().trades(3, micros(END), micros(END) + 3)))
        queries = queries_of(catalog, tmp_path)
    queries.table.refresh()
    assert len(queries.newest(Trades(), 10)) == 3
    assert "the catalog has not answered for" in queries.table.silence
    health = {one.name: one for one in HealthCheck("1", queries, queries.table, BrokerTail(NOBODY))().dependencies}
    assert health["iceberg"].status == "degraded"
    assert "as of snapshot" in health["iceberg"].message


def test_every_request_is_measured_under_its_endpoint(api):
    for path in ("/v1/summary/BTCUSDT/2026-03-04", "/nowhere/42"):
        api.get(path, headers=KEY)
    text = api.get("/metrics").text
    endpoint = 'endpoint="/v1/summary/{symbol}/{date}"'
    assert [line for line in text.splitlines() if line.startswith("k2_http_requests_total") and endpoint in line]
    assert "/nowhere" not in text
    assert 'k2_query_duration_seconds_count{component="api",environment="dev",query_type="summary"' in text

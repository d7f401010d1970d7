from __future__ import annotations

import time

import pytest

from k2run.actions.deadline import Deadline
from k2run.bench.actions import query
from k2run.errors import Refused, TimedOut, Unknown
from k2run.language.quantities import Duration

SQL = "SELECT symbol, max(price) AS top FROM market_data.trades WHERE symbol = $symbol GROUP BY symbol"
BITCOIN = {"symbol": "BTCUSDT"}


def test_queries_are_repeated_and_the_first_one_is_kept_apart(trades):
    result = query(trades, Deadline(60), sql=SQL, parameters=BITCOIN, iterations=30, warm_up=Duration(0.1))
    assert (result.samples, result.rows, result.empty, result.errors) == (30, 1, 0, 0)
    assert result.cold_ms > result.min_ms > 0  # it opens the files, too
    assert result.p50_ms >= result.min_ms
    assert result.warm_up_queries >= 1
    assert result.p99_ms is None
    assert "p99 needs 1,000 samples" in result.headline()
    assert len(result.snapshots) == 1


def test_queries_without_rows_are_not_fast_queries(trades):
    result = query(trades, Deadline(60), sql=SQL, each=[BITCOIN, {"symbol": "NONE"}], iterations=20)
    assert result.samples + result.empty == 20
    assert result.empty == 10
    with pytest.raises(Unknown, match="20 times an empty one"):
        query(trades, Deadline(60), sql=SQL, parameters={"symbol": "NONE"}, iterations=20)


def test_a_wrong_query_is_refused_with_the_reason(trades):
    with pytest.raises(Refused, match="prize"):
        query(trades, Deadline(60), sql="SELECT prize FROM market_data.trades", iterations=3)


def test_queries_end_at_the_deadline(trades):
    started = time.monotonic()
    with pytest.raises(TimedOut):
        query(trades, Deadline(2), sql=SQL, parameters=BITCOIN, iterations=1_000_000)
    assert time.monotonic() - started < 2.5

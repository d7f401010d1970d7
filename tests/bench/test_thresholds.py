from __future__ import annotations

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.bench.actions import query
from k2run.bench.http_load import http
from k2run.bench.plan import limits_of
from k2run.bench.tally import Tally
from k2run.bench.thresholds import Threshold
from k2run.errors import RunbookInvalid
from k2run.language.loader import parse_runbook
from k2run.language.quantities import Misread

SQL = "SELECT symbol, max(price) AS top FROM market_data.trades WHERE symbol = $symbol GROUP BY symbol"


def the(*texts: str) -> list[Threshold]:
    return [Threshold.parse(text) for text in texts]


# --- how they are written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "metric", "bound", "share"),
    [
        ("p99 < 500ms", "p99", 0.5, False),
        ("p99.9<=2s", "p999", 2.0, False),
        ("errors < 0.1%", "errors", 0.001, True),
        ("errors == 0", "errors", 0, False),
        ("rate > 1000/s", "rate", 1000, False),
        ("samples >= 1000", "samples", 1000, False),
        ("p95 regression < 10% vs nightly", "regression", 0.1, True),
    ],
)
def test_a_threshold_reads_as_it_is_said(text, metric, bound, share):
    read = Threshold.parse(text)
    assert (read.metric, read.bound.value, read.bound.is_share) == (metric, bound, share)


def test_a_regression_is_of_the_median_and_from_the_last_green_run_unless_it_says_otherwise():
    alone, named = the("regression < 10%", "p95 regression < 5% vs nightly")
    assert (alone.quantile, alone.baseline) == ("p50", "last green")
    assert (named.quantile, named.baseline) == ("p95", "nightly")


@pytest.mark.parametrize(
    ("text", "at", "wrong", "hint"),
    [
        ("p98 < 500ms", 0, "p98", "did you mean `p99`?"),
        ("p99_ms < 5ms", 0, "p99_ms", "did you mean `p99`?"),
        ("p99 < 500", 6, "500", "500ms"),
        ("p99 = 3ms", 4, "=", "write =="),
        ("errors < 0.1", 9, "0.1", "0.1%"),
        ("rate > 100ms", 7, "100ms", "1000/s"),
        ("p99 < 5ms vs nightly", 13, "nightly", "p99 regression < 10% vs nightly"),
        ("rate regression < 5%", 0, "rate", "p50"),
        ("regression > 10%", 11, ">", "regression < 10%"),
        ("p99 500ms", 3, " ", "p99 < 500ms"),
    ],
)
def test_a_wrong_threshold_is_told_at_its_place_with_the_way_out(text, at, wrong, hint):
    with pytest.raises(Misread) as caught:
        Threshold.parse(text)
    assert text[caught.value.at : caught.value.at + caught.value.length] == wrong
    assert caught.value.at == at
    assert hint in caught.value.hint


def test_validation_finds_every_wrong_threshold_at_its_column():
    text = """
runbook: 1
kind: benchmark
title: Wrong
sections:
  - name: Load
    steps:
      - name: Load
        bench.http: {url: "http://localhost/", thresholds: [p99 < 5ms, p98 < 5ms, errors < 0.1, "p50 < {{ 3 }}ms"]}
"""
    with pytest.raises(RunbookInvalid) as caught:
        parse_runbook(text, "wrong.yaml", Catalogue())
    places = [(problem.place.line, problem.place.column) for problem in caught.value.problems]
    line = text.splitlines()[8]
    assert places == [(9, line.index("p98") + 1), (9, line.index("0.1") + 1)]


# --- how they are judged ----------------------------------------------------------------------------------------------


def test_each_threshold_is_judged_with_its_value_and_its_margin(trades):
    promised = the("p50 < 1h", "p50 < 1ms", "errors == 0", "rate > 1000000/s", "samples >= 30")
    found = query(trades, Deadline(60), sql=SQL, parameters={"symbol": "BTCUSDT"}, iterations=30, thresholds=promised)
    met = {each.objective: each.met for each in found.thresholds}
    assert met["errors == 0"] is None, "the load ended before its end"
    assert met["rate > 1000000/s"] is False
    assert "lost after" in next(each.says for each in found.thresholds if each.objective.startswith("rate"))

    promised = the("p50 < 1h", "errors == 0", "p99 < 1h", "errors < 1%")
    found = query(trades, Deadline(60), sql=SQL, parameters={"symbol": "BTCUSDT"}, iterations=30, thresholds=promised)
    p50, errors, p99, share = found.thresholds
    assert (p50.met, errors.met) == (True, True)
    assert p50.margin == pytest.approx(1, abs=0.01)
    assert "to spare" in p50.says
    assert (p99.met, p99.says) == (None, "it needs 1,000 samples, and there were 30")
    assert (share.met, share.says) == (None, "it needs 100 requests, and there were 30")


def test_a_load_ends_once_a_threshold_is_lost(nothing, serve):
    with serve("--delay", "5") as server:
        found = http(nothing, Deadline(60), url=server.url, iterations=20_000, thresholds=the("p50 < 1s", "p99 < 1ms"))
    kept, lost = found.thresholds
    assert found.samples < 5_000
    assert (lost.met, kept.met) == (False, None)
    assert "of 20,000" in lost.says


@pytest.mark.parametrize(
    ("text", "planned", "most"),
    [("errors < 1%", 1000, 9), ("errors <= 1%", 1000, 10), ("errors == 0", 0, 0), ("errors < 5", 0, 4)],
)
def test_so_many_errors_may_be_before_a_threshold_is_lost(text, planned, most):
    limits = limits_of(the(text), planned)
    tally = Tally(limits=limits)
    for _ in range(most):
        tally.failure("status 500", 0.01)
    assert not tally.is_lost(1.0)
    tally.failure("status 500", 0.01)
    assert tally.is_lost(1.0)


def test_a_share_is_not_lost_where_nobody_knows_of_how_many():
    assert limits_of(the("errors < 1%", "p99 < 1ms", "rate > 5/s"), 0) == []

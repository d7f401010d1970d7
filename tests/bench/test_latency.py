from __future__ import annotations

import random

import pytest
from hdrh.histogram import HdrHistogram

from k2run.bench.latency import LONGEST, QUANTILES, Latencies, counts, needed


def filled(count, seed=1):
    latencies, values = Latencies(), []
    chance = random.Random(seed)
    for _ in range(count):
        values.append(chance.lognormvariate(-4, 0.6))
        latencies.record(values[-1])
    return latencies, sorted(values)


def test_a_percentile_needs_ten_samples_beyond_it():
    assert {name: needed(quantile) for name, quantile in QUANTILES.items()} == {
        "p50": 20,
        "p90": 100,
        "p95": 200,
        "p99": 1000,
        "p999": 10000,
    }


def test_what_the_samples_cannot_carry_is_not_measured_and_says_why():
    spread = filled(999)[0].spread()
    assert spread.value("p95") is not None
    assert spread.value("p99") is None
    assert spread.not_measured == "p99 needs 1,000, p999 needs 10,000 samples, and there are 999"
    assert filled(1000)[0].spread().value("p99") is not None


def test_no_samples_at_all_give_no_numbers():
    spread = Latencies().spread()
    assert (spread.samples, spread.mean_ms, spread.max_ms) == (0, None, None)
    assert all(one.value_ms is None for one in spread.percentiles.values())


def test_percentiles_are_those_of_the_values():
    latencies, values = filled(20000)
    spread = latencies.spread()
    for name, quantile in QUANTILES.items():
        exact = values[int(quantile * len(values))] * 1000
        assert spread.value(name) == pytest.approx(exact, rel=0.005)
    assert spread.mean_ms == pytest.approx(sum(values) / len(values) * 1000, rel=0.001)
    assert spread.max_ms == pytest.approx(values[-1] * 1000, abs=0.001)


@pytest.mark.no_cover
def test_an_interval_holds_the_true_percentile_about_95_times_in_100():
    chance = random.Random(7)
    hits = 0
    for _ in range(60):
        latencies = Latencies()
        for _ in range(1000):
            latencies.record(chance.random())
        p90 = latencies.spread().percentiles["p90"]
        hits += p90.low_ms <= 900 <= p90.high_ms
    assert 51 <= hits <= 60


def test_histograms_of_several_workers_add_up():
    one, some = filled(5000, seed=1)
    two, others = filled(7000, seed=2)
    merged = Latencies()
    merged.add([one.encode(), two.encode()])
    values = sorted(some + others)
    assert len(merged) == 12000
    assert merged.spread().value("p99") == pytest.approx(values[int(0.99 * 12000)] * 1000, rel=0.005)
    assert merged.spread().max_ms == pytest.approx(values[-1] * 1000, rel=0.002)


def test_latencies_lie_in_the_cells_of_the_histogram():
    chance = random.Random(3)
    values = [2 ** chance.uniform(-20, 14) for _ in range(2000)]
    one, all_at_once, whole = Latencies(), Latencies(), HdrHistogram(1, LONGEST * 1_000_000, 3)
    for value in values:
        one.record(value)
        whole.record_value(min(LONGEST * 1_000_000, max(1, round(value * 1_000_000))))
    all_at_once.record_all(values)
    assert counts(one.encode()) == counts(all_at_once.encode()) == counts(whole.encode().decode())
    assert one.spread().max_ms == all_at_once.spread().max_ms == round(max(values) * 1000, 3)

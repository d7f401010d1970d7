from pathlib import Path

from k2run.bench.latency import Latencies
from k2run.engine.events import Outcome, StepFinished
from k2run.engine.journal import read_journal
from k2run.evidence.measurements import plots
from k2run.evidence.view import view_of

MEASURED = Path(__file__).parent / "journals" / "measured.jsonl"


def loaded(histogram):
    result = {"histogram": histogram, "percentiles": {"p50": {"value_ms": 5.0}, "p999": {"value_ms": None}}}
    step = {"step": "a", "section": "s", "name": "Requests", "action": "bench.http", "outcome": Outcome.PASSED}
    return view_of([StepFinished(seq=1, seconds=1.0, result=result, **step)])


def plotted(view, width):
    return plots(view.measured.all(), view.loads(), width)


def test_latencies_are_bars_with_their_percentiles_beside_them():
    taken = Latencies()
    for milliseconds in [5] * 90 + [50] * 10:
        taken.record(milliseconds / 1000)
    heading, *bars = plotted(loaded(taken.encode()), 80)
    assert heading == "Requests: p50 5 ms, of 100 answers"
    assert "90  ← p50" in bars[0]
    assert bars[-1].endswith(" 10")
    assert bars[0].count("█") > 8 * bars[-1].count("█") > 0
    assert max(map(len, bars)) <= 80


def test_a_damaged_histogram_is_told_and_the_rest_is_drawn():
    assert plotted(loaded("HIST"), 80) == ["Requests", "  no latencies to draw"]


def test_a_load_of_one_latency_is_one_bar():
    taken = Latencies()
    taken.record(0.005)
    drawn = plotted(loaded(taken.encode()), 40)
    assert sum("█" in line for line in drawn) == 1


def test_the_lag_of_a_real_run_is_a_line_with_its_figures():
    drawn = plotted(view_of(read_journal(MEASURED)), 100)
    at = drawn.index("lag of market.crypto.trades.binance, k2-iceberg-writer-crypto-v2")
    assert set(drawn[at + 1].strip()) <= set("▁▂▃▄▅▆▇█")
    assert "highest 601,288" in drawn[at + 2]
    assert max(map(len, drawn)) <= 100


def test_a_run_without_measurements_draws_nothing():
    assert plotted(view_of([]), 80) == []

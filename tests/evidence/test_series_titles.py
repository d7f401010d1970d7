"""What measured values are called on a page."""

from __future__ import annotations

import pytest

from k2run.evidence.measurements import Series, titled, written
from k2run.stack.model import Chart

LEVELS = ["NORMAL", "SOFT"]
KNOWN = [Chart(title="Degradation level", service="consumer", metric="k2_degradation_level", levels=LEVELS)]


@pytest.mark.parametrize(
    ("measured", "title"),
    [
        ("k2_degradation_level, consumer", "Degradation level"),
        ("k2_messages_shed_total, consumer", "K2 messages shed"),
        ("lag of market.crypto.trades.binance, writers", "Lag of market.crypto.trades.binance"),
        ("rate of orders, {}", "Rate of orders"),
    ],
)
def test_a_value_is_called_as_in_the_stacks_charts_and_else_in_words(measured: str, title: str) -> None:
    assert titled(Series(title=measured), KNOWN)[0] == title


def test_a_level_is_written_as_its_name_and_a_figure_with_its_unit() -> None:
    level = Series(title="k2_degradation_level, consumer")
    assert written(level, titled(level, KNOWN)[1], 1.0) == "SOFT"
    assert written(level, LEVELS, 7.0) == "7"
    assert written(Series(title="lag of orders", unit="messages"), (), 600_000) == "600,000 messages"

from __future__ import annotations

import pytest

from k2run.bench.latency import figure, in_ms, per_second


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.2051, "0.205 ms"),
        (5.0, "5 ms"),
        (62.04, "62 ms"),
        (999.4, "999 ms"),
        (999.6, "1,000 ms"),
        (1909.2, "1,909 ms"),
    ],
)
def test_a_latency_reads_without_powers_of_ten(value, shown):
    assert in_ms(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.123, "0.123/s"), (3.2412, "3.24/s"), (99.6, "99.6/s"), (7957.3, "7,957/s")]
)
def test_a_slow_rate_keeps_its_digits(value, shown):
    assert per_second(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(3381.2, "3,381"), (81200.5, "81,200"), (242.84, "242.8")])
def test_more_digits_are_shown_where_something_is_judged(value, shown):
    assert figure(value, 4) == shown

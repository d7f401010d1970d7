"""The rate of a load against the record of the server, which knows when it answered."""

from __future__ import annotations

import pytest

from k2run.actions.deadline import Deadline
from k2run.bench.http_load import http
from k2run.language.quantities import Duration, Rate

pytestmark = pytest.mark.alone

OPEN_100, OPEN_500 = ({"rate": Rate(rate), "during": Duration(6), "workers": 200} for rate in (100, 500))
CLOSED_1, CLOSED_10, CLOSED_100 = ({"workers": workers, "during": Duration(6)} for workers in (1, 10, 100))
LOADS = [
    pytest.param(OPEN_100, id="100 a second"),
    pytest.param(OPEN_500, id="500 a second"),
    pytest.param(CLOSED_1, id="closed, 1"),
    pytest.param(CLOSED_10, id="closed, 10"),
    pytest.param(CLOSED_100, id="closed, 100"),
]


def recorded(pairs, seconds):
    """The server's rate from the moment at which the first request came, and how many answers came later."""
    begin = min(when - taken for when, taken in pairs)
    within = sum(when - begin <= seconds for when, _ in pairs)
    return within / seconds, len(pairs) - within


@pytest.mark.slow  # fifteen loads of 6 s
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    ("disturbed", "hangs"),
    [
        pytest.param(("--hang-at", "200", "--hang", "2"), True, id="one hangs"),
        pytest.param(("--hang-at", "400", "--hang", "4"), True, id="one hangs at the end"),
        pytest.param(("--tail-every", "20", "--tail", "0.4"), False, id="a tail"),
    ],
)
def test_a_rate_is_the_one_that_the_server_had_in_the_window(serve, nothing, load, disturbed, hangs):
    with serve("--delay", "8", *disturbed, "--when") as server:
        met = http(nothing, Deadline(60), url=server.url, **load)
        rate, later = recorded(server.stop(), met.seconds)
    print(f"{met.rate:.2f}/s, the server {rate:.2f}/s: {met.rate / rate - 1:+.2%}; later {met.late_answers}, {later}")
    assert met.seconds == pytest.approx(6, abs=0.02)
    assert met.rate == pytest.approx(rate, rel=0.01)
    assert met.samples == pytest.approx(rate * met.seconds + later, rel=0.01)
    assert met.errors == 0
    if hangs:
        assert met.max_ms > 1900


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 10, 100])
def test_a_closed_loop_of_so_many_requests_has_the_servers_rate_until_the_last_was_sent(serve, nothing, workers):
    number = 500 * (1 if workers == 1 else 4)
    with serve("--delay", "8", "--hang-at", str(number - 3), "--hang", "2", "--when") as server:
        met = http(nothing, Deadline(60), url=server.url, workers=workers, iterations=number)
        rate, _ = recorded(server.stop(), met.seconds)
    print(f"{met.rate:.2f}/s, the server {rate:.2f}/s: {met.rate / rate - 1:+.2%}")
    assert met.samples == number
    assert met.rate == pytest.approx(rate, rel=0.01)


def test_answers_after_the_end_of_a_closed_loop_make_no_rate(serve, nothing):
    with serve("--delay", "900", "--when") as server:
        met = http(nothing, Deadline(60), url=server.url, workers=100, during=Duration(4))
        rate, later = recorded(server.stop(), met.seconds)
    assert (met.late_answers, later) == (100, 100)
    assert met.rate == pytest.approx(rate, rel=0.01) == pytest.approx(100, rel=0.01)

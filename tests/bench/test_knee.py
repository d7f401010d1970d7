"""The rate at which a service no longer keeps up."""

from __future__ import annotations

import pytest

from k2run.actions.deadline import Deadline
from k2run.bench.actions import knee
from k2run.language.quantities import Duration, Rate

QUICK = {"during": Duration(1), "warm_up": Duration(0.2)}


@pytest.mark.no_cover
def test_a_rate_that_two_clients_cannot_reach_is_beyond_the_knee(serve, nothing):
    with serve("--delay", "10") as server:  # two at a time, each 10 ms: at most 200 a second
        result = knee(
            nothing,
            Deadline(60),
            url=server.url,
            first=Rate(100),
            most=Rate(1600),
            factor=4,
            closer=0,
            workers=2,
            during=Duration(2),
            warm_up=Duration(0.2),
        )
    assert result.found
    assert result.why
    assert result.beyond is not None
    assert result.rate < 200
    assert result.steps[-1].too_much


@pytest.mark.no_cover
def test_a_service_that_keeps_up_has_no_knee_within_the_rates(serve, nothing):
    with serve() as server:
        result = knee(
            nothing, Deadline(60), url=server.url, first=Rate(200), most=Rate(240), factor=1.2, closer=0, **QUICK
        )
    assert not result.found

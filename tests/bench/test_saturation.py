"""The rate at which a service no longer keeps up."""

from __future__ import annotations

import pytest

from k2run.actions.deadline import Deadline
from k2run.bench.actions import knee
from k2run.language.quantities import Duration, Rate

pytestmark = pytest.mark.alone

QUICK = {"during": Duration(1), "warm_up": Duration(0.2)}


@pytest.mark.slow  # twelve seconds alone on the machine
@pytest.mark.no_cover
def test_a_rate_that_eight_clients_cannot_reach_is_beyond_the_knee(serve, nothing):
    with serve("--delay", "40") as server:  # eight at a time, each 40 ms: at most 200 a second
        result = knee(
            nothing,
            Deadline(60),
            url=server.url,
            first=Rate(100),
            most=Rate(1600),
            factor=4,
            closer=0,
            workers=8,
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
    with serve("--delay", "20") as server:
        result = knee(
            nothing, Deadline(60), url=server.url, first=Rate(200), most=Rate(240), factor=1.2, closer=0, **QUICK
        )
    assert not result.found


def test_a_rate_that_the_generator_cannot_hold_is_no_knee_of_the_service(nothing):
    from k2run.bench.actions import seek
    from k2run.bench.http_load import HttpLoad
    from k2run.bench.latency import Latencies
    from k2run.bench.plan import Ask, Outcome, Plan

    def offer(rate):
        late = rate > 1000
        good, sure, lateness = Latencies(), Latencies(), Latencies()
        good.record_all([0.1 if late else 0.005] * 3000)
        sure.record_all([0.005] * 3000)
        lateness.record_all([0.095 if late else 0.0] * 3000)
        outcome = Outcome(
            histogram=good.encode(),
            failed=Latencies().encode(),
            started=3000,
            seconds=3000 / rate,
            errors={},
            empty=0,
            size=0,
            statuses={},
            skipped=0,
            sure=sure.encode() if late else "",
            lateness=lateness.encode(),
            tardy=3000 if late else 0,
        )
        plan = Plan(ask=Ask(host="x", port=1, requests=[]), rate=rate)
        return HttpLoad.met(plan, outcome, "x", lost_processes=0, used={})

    found = seek(offer, rates=(500, 4000), factor=2, closer=0)
    assert (found.rate, found.beyond, found.found) == (1000, 2000, False)
    assert "p95 is not measured: the generator was late by up to 95 ms" in found.headline()

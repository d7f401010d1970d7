"""Benchmarks as actions: load in, honest figures out. `expect` and objectives judge them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import msgspec

from k2run.actions.action import Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters._links import TRUSTING_THE_SYSTEM, Tls
from k2run.adapters._target import target
from k2run.adapters._web import identified, with_query
from k2run.bench.latency import QUANTILES, Latencies, Percentile, Spread
from k2run.bench.load import generate
from k2run.bench.plan import Ask, Outcome, Plan
from k2run.bench.wire import request_bytes
from k2run.errors import Refused, Unknown
from k2run.language.quantities import Duration, Rate
from k2run.stack.services import Services

NONE = Duration(0)
TEN_SECONDS = Duration(10)
SATURATED = 0.9
"""Share of a core from which on the generator itself is likely to be the limit."""
PORTS = {"http": 80, "https": 443}
MOST_AT_ONCE = 100
"""Connections of an open loop, unless the step says otherwise."""


class HttpLoad(Result, frozen=True, kw_only=True):
    """What a load of HTTP requests met.

    Latencies are those of good answers alone; in an open loop they count from the intended start of the request.
    A percentile is None where fewer than ten samples lie beyond it.

    Attributes:
        samples: Good answers: the status wanted, and not empty.
        rate: Good answers a second.
        seconds: From the first request that counts to the last answer.
        errors: Requests that failed; `errors_by_class` says how.
        error_ratio: Errors over all requests that count, 0 to 1.
        empty: Answers without content or rows, which are neither good nor errors.
        percentiles: Each percentile with its 95 % confidence interval.
        not_measured: Why some percentiles are missing.
        failed: The latencies of errors.
        bytes: Of the bodies of good answers.
        loop: `closed`: workers ask again once answered; `open`: a set rate.
        generator_cpu: Share of one core that the generator used; from 0.9 on it may have been the limit itself.
        generator_late_ms: The longest that it sent a request too late although a connection was free (open loop).
        warm_up_requests: Requests before anything counted.
        histogram: All latencies of good answers (HdrHistogram V2, base64).
    """

    samples: int
    rate: float
    seconds: float
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    mean_ms: float | None
    min_ms: float | None
    max_ms: float | None
    errors: int
    error_ratio: float
    errors_by_class: dict[str, int]
    empty: int
    percentiles: dict[str, Percentile]
    not_measured: str
    failed: Spread
    statuses: dict[str, int]
    bytes: int
    loop: Literal["closed", "open"]
    workers: int
    generator_cpu: float
    generator_late_ms: float
    warm_up_requests: int
    histogram: str

    def headline(self) -> str:
        """Such as `p50 5.1 ms, p99 7.9 ms (n=8,120), 812/s, no errors`."""
        shown = [
            f"{name} {value:.3g} ms" if value is not None else f"{name} not measured"
            for name, value in (("p50", self.p50_ms), ("p99", self.p99_ms))
        ]
        bad = f"{self.errors:,} errors" if self.errors else "no errors"
        empty = f", {self.empty:,} empty" if self.empty else ""
        limit = ", the generator may be the limit" if self.generator_cpu >= SATURATED else ""
        return f"{', '.join(shown)} (n={self.samples:,}), {self.rate:,.0f}/s, {bad}{empty}{limit}"


@action("bench.http", effect=Effect.CHANGES)
def http(
    services: Services,
    deadline: Deadline,
    service: str = "",
    path: str = "",
    url: str = "",
    method: Literal["GET", "POST", "PUT", "DELETE"] = "GET",
    params: dict[str, Any] = {},
    each: list[dict[str, Any]] = [],
    headers: dict[str, str] = {},
    json: Any = None,
    status: int | list[int] = [],
    rows: str = "",
    workers: int | None = None,
    rate: Rate | None = None,
    during: Duration | None = None,
    iterations: int = 0,
    warm_up: Duration = NONE,
    think: Duration = NONE,
    request_timeout: Duration = TEN_SECONDS,
    tls: Tls = TRUSTING_THE_SYSTEM,
) -> HttpLoad:
    """Put load on a service over HTTP, and measure latencies, rate, errors and empty answers.

    Without a rate it is a closed loop: each worker asks again once it was answered. With a rate it is an open loop:
    requests start on time whatever the answers do, and latencies count from the moment they should have started.

    Args:
        service: The service to ask; its URL and headers come from the stack.
        path: Path below the service's URL.
        url: A whole URL, instead of a service.
        method: The HTTP method.
        params: Query parameters of every request.
        each: Query parameters that take turns, request by request, such as one symbol each.
        headers: Sent beside those of the service.
        json: Any value, sent as JSON.
        status: The status, or statuses, that count as good; any 2xx when not given.
        rows: Path to the rows in a JSON answer, such as `data`; an answer without rows counts as empty.
        workers: Connections that ask (1), or at most so many at once with a rate (100).
        rate: Requests a second, such as `100/s`, which makes it an open loop.
        during: How long to measure (10s, unless `iterations` says how much).
        iterations: How many requests to measure, instead of a time.
        warm_up: Time under the same load before anything counts.
        think: Pause of a worker between an answer and its next request; closed loop only.
        request_timeout: After this a request is given up and counts as an error.
        tls: How an HTTPS server is trusted.
    """
    if during is not None and iterations:
        raise Refused("give either `during` or `iterations`")
    address, sent = target(services, service, path, url, headers)
    content = b"" if json is None else msgspec.json.encode(json)
    plan = Plan(
        ask=_ask(
            _Request(address, method, sent, content), [params | turn for turn in each] or [params], status, rows, tls
        ),
        workers=workers or (MOST_AT_ONCE if rate else 1),
        rate=rate or 0.0,
        seconds=0.0 if iterations else during or TEN_SECONDS,
        iterations=iterations,
        warm_up=warm_up,
        think=think,
        timeout=request_timeout,
    )
    _check(plan, deadline)
    return _result(address, plan, generate(plan, deadline))


class _Request(NamedTuple):
    url: str
    method: str
    headers: dict[str, str]
    content: bytes


def _ask(request: _Request, turns: list[dict[str, Any]], status: int | list[int], rows: str, tls: Tls) -> Ask:
    parts = urlsplit(request.url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise Refused(f"{request.url!r} is not an http or https URL")
    headers = identified(request.url, request.headers)
    if request.content:
        headers = {"Content-Type": "application/json"} | headers
    targets = (urlsplit(with_query(request.url, turn)) for turn in turns)
    return Ask(
        host=parts.hostname,
        port=parts.port or PORTS[parts.scheme],
        requests=[
            request_bytes(
                request.method, urlunsplit(("", "", one.path or "/", one.query, "")), headers, request.content
            )
            for one in targets
        ],
        tls=tls if parts.scheme == "https" else None,
        statuses=[status] if isinstance(status, int) else status,
        rows=rows,
    )


def _check(plan: Plan, deadline: Deadline) -> None:
    if plan.workers < 1:
        raise Refused(f"{plan.workers} workers cannot ask anything")
    takes = plan.warm_up + plan.seconds
    if takes >= deadline.remaining():
        raise Refused(
            f"the load takes {Duration(takes)}, and the step's timeout is {Duration(deadline.seconds)}",
            hint="set the step's `timeout` above `warm_up` and `during` together",
        )


def _result(address: str, plan: Plan, outcome: Outcome) -> HttpLoad:
    good, failed = _spread(outcome.histogram), _spread(outcome.failed)
    errors = sum(outcome.errors.values())
    requests = good.samples + errors + outcome.empty
    if not good.samples:
        raise Unknown(f"no request to {address} got a good answer: {_how(outcome, requests)}")
    p50, p90, p95, p99, p999 = (good.value(name) for name in QUANTILES)
    return HttpLoad(
        source=address,
        samples=good.samples,
        rate=round(good.samples / outcome.seconds, 3),
        seconds=round(outcome.seconds, 3),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        mean_ms=good.mean_ms,
        min_ms=good.min_ms,
        max_ms=good.max_ms,
        errors=errors,
        error_ratio=errors / requests,
        errors_by_class=outcome.errors,
        empty=outcome.empty,
        percentiles=good.percentiles,
        not_measured=good.not_measured,
        failed=failed,
        statuses={str(status): count for status, count in outcome.statuses.items()},
        bytes=outcome.size,
        loop="open" if plan.rate else "closed",
        workers=plan.workers,
        generator_cpu=round(outcome.cpu, 3),
        generator_late_ms=round(outcome.late_ms, 3),
        warm_up_requests=outcome.skipped,
        histogram=outcome.histogram,
    )


def _spread(encoded: str) -> Spread:
    latencies = Latencies()
    latencies.add([encoded])
    return latencies.spread()


def _how(outcome: Outcome, requests: int) -> str:
    ways = [f"{count:,} times {why}" for why, count in outcome.errors.items()]
    if outcome.empty:
        ways.append(f"{outcome.empty:,} times an empty one")
    return ", ".join(ways) or f"{requests} answers"

"""How a service answers a load of HTTP requests, as an action."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec.structs import asdict

from k2run.actions.action import Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters.http.client import IDEMPOTENT, identified
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls, target, with_query
from k2run.bench.baseline import NO_RUNS, Baselines, fingerprint
from k2run.bench.latency import decoded, in_ms
from k2run.bench.plan import NONE, TEN_SECONDS, Ask, Outcome, Plan, paced
from k2run.bench.result import Measured, Used, Watch, judge
from k2run.bench.thresholds import Threshold
from k2run.errors import Refused
from k2run.language.quantities import Duration, Rate
from k2run.stack.services import Services

PORTS = {"http": 80, "https": 443}
NOTEWORTHY = 0.1
"""Share of a closed loop's time that is the generator's own, from which on the rate is not the service's alone."""
MOST_AT_ONCE = 100
"""Connections of an open loop, unless the step says otherwise."""


class HttpLoad(Measured, frozen=True, kw_only=True):
    """What a load of HTTP requests met; in an open loop latencies count from the intended start of the request.

    Attributes:
        statuses: How many answers had which status.
        bytes: Of the bodies of good answers.
        loop: `closed`: workers ask again once answered; `open`: a set rate.
        workers: Connections that asked, or the most at once.
        lost_processes: Generators that died; their requests are missing.
        given_up: There were more errors than allowed, and the load ended early.
        used: What the services that were watched used of their machine.
        generator_cpu: Share of one core that the generator used; waiting for a moment to come is part of it.
        generator_share: Closed loop: share of a worker's time in which it waited for the generator itself.
        warm_up_requests: Requests before anything counted.
    """

    statuses: dict[str, int]
    bytes: int
    loop: Literal["closed", "open"]
    workers: int
    lost_processes: int
    given_up: bool
    used: dict[str, Used]
    generator_cpu: float
    generator_share: float | None
    warm_up_requests: int

    @classmethod
    def met(cls, plan: Plan, outcome: Outcome, address: str, **more: Any) -> HttpLoad:
        """What came of a plan.

        Raises:
            Unknown: There was no good answer at all.
        """
        return cls.of(
            outcome,
            address,
            statuses={str(status): count for status, count in outcome.statuses.items()},
            bytes=outcome.size,
            loop="open" if plan.rate else "closed",
            workers=plan.workers,
            given_up=plan.most_errors is not None and sum(outcome.errors.values()) > plan.most_errors,
            generator_cpu=round(outcome.cpu, 3),
            generator_share=None if plan.rate else _share(outcome),
            warm_up_requests=outcome.skipped,
            **more,
        )

    def headline(self) -> str:
        """Such as `p50 5.1 ms, p99 7.9 ms (n=8,120), 812/s, no errors`."""
        own = self.generator_share or 0.0
        limit = f", {own:.0%} of the time the generator's own" if own >= NOTEWORTHY else ""
        lost = f", {self.lost_processes} generators DIED" if self.lost_processes else ""
        given_up = ", given up" if self.given_up else ""
        return super().headline() + limit + lost + given_up

    def _longest(self) -> list[str]:
        return [f"max {in_ms(self.max_ms)}"] if self.loop == "closed" and self.max_ms is not None else []


def _share(outcome: Outcome) -> float:
    """What part of a worker's turn passes between an answer and the next request, pauses left out."""
    late, good = decoded([outcome.lateness]), decoded([outcome.histogram])
    turn = late.mean + good.mean
    return round(late.mean / turn, 3) if turn else 0.0


@action("bench.http", effect=Effect.CHANGES)
def http(
    services: Services,
    deadline: Deadline,
    baselines: Baselines = NO_RUNS,
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
    thresholds: list[Threshold] = [],
    most_errors: int | None = None,
    processes: int = 1,
    dask: str = "",
    watch: list[str] = [],
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
        thresholds: What is promised, such as `p99 < 500ms`, `errors < 0.1%`, `rate > 1000/s` or
            `regression < 10% vs baseline`; one that is missed or not measured fails the step, and one that is lost
            beyond hope ends the load.
        most_errors: End the load early once more requests than this failed; with several processes, in one of them.
        processes: Local processes that put the load on together; one generator uses at most one core.
        dask: Address of a Dask scheduler, such as `tcp://10.0.0.1:8786`; then `processes` of its workers do it.
        watch: Services whose use of processor and memory is measured, beside the one that is asked.
        request_timeout: After this a request is given up and counts as an error.
        tls: How an HTTPS server is trusted.
    """
    pace = paced(during, iterations, warm_up, deadline, thresholds, rate or 0.0)
    address, sent = target(services, service, path, url, headers)
    content = b"" if json is None else msgspec.json.encode(json)
    plan = Plan(
        ask=_ask(
            _Request(address, method, sent, content), [params | turn for turn in each] or [params], status, rows, tls
        ),
        workers=workers or (MOST_AT_ONCE if rate else 1),
        rate=rate or 0.0,
        **asdict(pace),
        think=think,
        most_errors=most_errors,
        timeout=request_timeout,
    )
    if plan.workers < 1:
        raise Refused(f"{plan.workers} workers cannot ask anything")
    with Watch(services, list(dict.fromkeys([service, *watch] if service else watch))) as watched:
        outcome, lost = _generate(plan, processes, dask, deadline)
    load = fingerprint(
        "bench.http",
        asked=[service, path, url, method, params, each, headers, json],
        paced=[plan.workers, plan.rate, think, processes],
    )
    met = HttpLoad.met(plan, outcome, address, load=load, lost_processes=lost, used=watched.used())
    return judge(met, thresholds, outcome, baselines)


def _generate(plan: Plan, processes: int, dask: str, deadline: Deadline) -> tuple[Outcome, int]:
    """What all generators met together, and how many of them died."""
    from k2run.bench.load import generate
    from k2run.bench.plan import merge
    from k2run.bench.workers import split, together

    outcomes, lost = together(generate, split(plan, max(1, processes)), dask, deadline)
    return merge(outcomes, lost), lost


class _Request(NamedTuple):
    url: str
    method: str
    headers: dict[str, str]
    content: bytes


def _ask(request: _Request, turns: list[dict[str, Any]], status: int | list[int], rows: str, tls: Tls) -> Ask:
    from k2run.bench.wire import request_bytes

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
        repeatable=request.method in IDEMPOTENT,
        statuses=[status] if isinstance(status, int) else status,
        rows=rows,
    )

"""One load from several processes, or several machines: split beforehand, merged afterwards.

Each worker is an executor of `concurrent.futures` of its own, so that one that dies takes nothing else with it: its
share is missing from the result, and the result says so.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from msgspec import structs

from k2run.actions.deadline import Deadline
from k2run.bench.latency import Latencies
from k2run.bench.load import generate
from k2run.bench.plan import Merged, Outcome, Plan
from k2run.errors import ActionError, K2runError, Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK = 0.1
"""Seconds between two looks at the deadline."""
LATEST_START = 20.0
"""Seconds after which a worker's start is too late to be part of the same load."""


def generate_on(plan: Plan, executors: list[Executor], deadline: Deadline) -> Merged:
    """Put the load on from all executors at once.

    Args:
        plan: The whole load; every executor gets its share.
        executors: One per worker.
        deadline: Ends it.

    Raises:
        Unreachable: Every worker died.
        ActionError: What a worker could not do.
    """
    latest = time.time() + LATEST_START
    shares = split(plan, len(executors))
    futures: list[Future[Outcome]] = [
        executor.submit(work, share, deadline.remaining(), latest)
        for executor, share in zip(executors, shares, strict=True)
    ]
    while wait(futures, timeout=TICK).not_done:
        deadline.remaining()
    outcomes = [outcome for future in futures if (outcome := _outcome(future)) is not None]
    if not outcomes:
        raise Unreachable(f"all {len(futures)} workers of the load died")
    return Merged(merge(outcomes), len(futures) - len(outcomes))


def _outcome(future: Future[Outcome]) -> Outcome | None:
    """What a worker measured; None when it died."""
    try:
        return future.result()
    except K2runError:
        raise
    except Exception:  # noqa: BLE001 - each kind of executor has its own error for a worker that is gone
        return None


def work(plan: Plan, seconds: float, latest: float) -> Outcome:
    """What a worker does: its share of the load.

    Args:
        plan: Its share.
        seconds: Time allowed.
        latest: Unix time by which it has to start; a cluster that repeats a dead worker's share comes too late.

    Raises:
        ActionError: It could not; errors with more to them do not survive the way back.
    """
    if time.time() > latest:
        raise TimeoutError("too late to be part of this load")
    try:
        return generate(plan, Deadline(seconds, _stop))
    except K2runError as error:
        raise ActionError(str(error)) from None


_stop: Any = None
"""In a worker process: set when the run is asked to end."""


def _adopt(stop: Any) -> None:
    global _stop  # noqa: PLW0603 - the only way to hand an event to a worker process
    _stop = stop


@contextlib.contextmanager
def processes(count: int) -> Iterator[list[Executor]]:
    """So many executors of one local process each; they end with the block, whatever they do."""
    import multiprocessing

    spawning = multiprocessing.get_context("spawn")  # a fork would copy the locks of the engine's threads
    stop = spawning.Event()
    with contextlib.ExitStack() as opened:
        executors: list[Executor] = [
            opened.enter_context(ProcessPoolExecutor(1, spawning, initializer=_adopt, initargs=(stop,)))
            for _ in range(count)
        ]
        opened.callback(stop.set)  # the first thing to happen at the end: the executors wait for their work
        yield executors


def split(plan: Plan, parts: int) -> list[Plan]:
    """Shares of a load that together are the whole.

    Raises:
        Refused: There is too little to share out.
    """
    if parts > plan.workers or (plan.iterations and parts > plan.iterations):
        raise Refused(f"{plan.workers} workers cannot be shared out to {parts} processes", hint="raise `workers`")
    return [
        structs.replace(
            plan,
            workers=_share(plan.workers, parts, n),
            iterations=_share(plan.iterations, parts, n),
            rate=plan.rate / parts,
        )
        for n in range(parts)
    ]


def _share(whole: int, parts: int, n: int) -> int:
    return whole // parts + (n < whole % parts)


def merge(outcomes: list[Outcome]) -> Outcome:
    """Several outcomes as one; rates add up over the longest time."""
    good, failed = Latencies(), Latencies()
    good.add([one.histogram for one in outcomes])
    failed.add([one.failed for one in outcomes])
    return Outcome(
        histogram=good.encode(),
        failed=failed.encode(),
        started=sum(one.started for one in outcomes),
        seconds=max(one.seconds for one in outcomes),
        errors=dict(sum((Counter(one.errors) for one in outcomes), Counter())),
        empty=sum(one.empty for one in outcomes),
        size=sum(one.size for one in outcomes),
        statuses=dict(sum((Counter(one.statuses) for one in outcomes), Counter())),
        cpu=max(one.cpu for one in outcomes),
        late_ms=max(one.late_ms for one in outcomes),
        skipped=sum(one.skipped for one in outcomes),
    )

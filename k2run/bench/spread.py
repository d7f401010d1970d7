"""One load from several processes, or several machines: split beforehand, merged afterwards.

Each worker is an executor of `concurrent.futures` of its own, so that one that dies takes nothing else with it: its
share is missing from the result, and the result says so.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from msgspec import structs

from k2run.actions.deadline import Deadline
from k2run.bench.latency import Latencies
from k2run.bench.plan import Outcome, Plan
from k2run.errors import ActionError, K2runError, Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

S = TypeVar("S")
T = TypeVar("T")

TICK = 0.1
"""Seconds between two looks at the deadline."""
CONNECTING = 5
"""Seconds to wait for a Dask scheduler."""
LATEST_START = 20.0
"""Seconds after which a worker's start is too late to be part of the same load."""


class Worker(NamedTuple):
    """An executor with one place to work, how work is done there, and whether that place is still there."""

    executor: Executor
    work: Callable[..., Any]
    is_alive: Callable[[], bool]


def together(
    load: Callable[[S, Deadline], T], shares: Sequence[S], dask: str, deadline: Deadline
) -> tuple[list[T], int]:
    """Put on every share of a load at the same time; a single one right here, several in processes of their own.

    Args:
        load: Puts one share on; a function of a module, for it travels to another process.
        shares: One for each process.
        dask: Address of a Dask scheduler, whose workers do it; empty for local processes.
        deadline: Ends it.

    Returns:
        What those measured that lived, and how many died; their shares are missing.

    Raises:
        Unreachable: Every worker died.
        ActionError: What a worker could not do.
    """
    if len(shares) == 1 and not dask:
        return [load(shares[0], deadline)], 0
    with cluster(dask, len(shares)) if dask else processes(len(shares)) as workers:
        measured = _at_once(load, shares, workers, deadline)
    return measured, len(shares) - len(measured)


def _at_once(
    load: Callable[[S, Deadline], T], shares: Sequence[S], workers: list[Worker], deadline: Deadline
) -> list[T]:
    latest = time.time() + LATEST_START
    futures = {
        worker.executor.submit(worker.work, load, share, deadline.remaining(), latest): worker
        for worker, share in zip(workers, shares, strict=True)
    }
    waiting = set(futures)
    while waiting:
        deadline.remaining()
        waiting = {future for future in wait(waiting, timeout=TICK).not_done if futures[future].is_alive()}
    found = [_measured(future) for future in futures]
    measured = [one for one in found if one is not None]
    if not measured:
        raise Unreachable(f"all {len(futures)} workers of the load died")
    return measured


def _measured(future: Future[T]) -> T | None:
    """What a worker measured; None when it died."""
    try:
        return future.result(timeout=0)
    except K2runError:
        raise
    except Exception:  # noqa: BLE001 - each kind of executor has its own error for a worker that is gone
        return None


def work(load: Callable[[S, Deadline], T], share: S, seconds: float, latest: float, stop: Any = None) -> T:
    """What a worker does: its share of the load.

    Args:
        load: How to put it on.
        share: Its share.
        seconds: Time allowed.
        latest: Unix time by which it has to start; a cluster that repeats a dead worker's share comes too late.
        stop: Event that ends it; that of the process unless given.

    Raises:
        ActionError: It could not; errors with more to them do not survive the way back.
    """
    if time.time() > latest:
        raise TimeoutError("too late to be part of this load")
    try:
        return load(share, Deadline(seconds, stop or _stop))
    except K2runError as error:
        raise ActionError(str(error)) from None


def work_at_cluster(load: Callable[[S, Deadline], T], share: S, seconds: float, latest: float) -> T:
    """What a worker of a cluster does: its share, until that is wanted no more."""
    with _until_cancelled() as stop:
        return work(load, share, seconds, latest, stop)


@contextlib.contextmanager
def _until_cancelled() -> Iterator[threading.Event]:
    """An event that is set once the cluster has given up this task, which Dask alone does not end.

    That is when its run is interrupted, and also when k2run itself died: the scheduler forgets what nobody waits for.
    """
    from distributed import get_worker

    worker = get_worker()
    task = worker.state.tasks[worker.get_current_task()]
    cancelled, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(TICK):
            if task.state != "executing":
                cancelled.set()
                return

    threading.Thread(target=watch, name="load-cancelled", daemon=True).start()
    try:
        yield cancelled
    finally:
        over.set()


_stop: Any = None
"""In a worker process: set when the run is asked to end."""


def _adopt(stop: Any) -> None:
    global _stop  # noqa: PLW0603 - the only way to hand an event to a worker process
    _stop = stop


@contextlib.contextmanager
def processes(count: int) -> Iterator[list[Worker]]:
    """So many local processes; they end with the block, whatever they do."""
    import multiprocessing

    spawning = multiprocessing.get_context("spawn")  # a fork would copy the locks of the engine's threads
    stop = spawning.Event()
    with contextlib.ExitStack() as opened:
        executors = [
            opened.enter_context(ProcessPoolExecutor(1, spawning, initializer=_adopt, initargs=(stop,)))
            for _ in range(count)
        ]
        opened.callback(stop.set)  # the first thing to happen at the end: the executors wait for their work
        # A dead process breaks its executor, which ends its future: nothing needs to be looked at.
        yield [Worker(executor, work, lambda: True) for executor in executors]


@contextlib.contextmanager
def cluster(address: str, count: int) -> Iterator[list[Worker]]:
    """So many workers of a dask.distributed cluster; k2run must be installed on them.

    Raises:
        Refused: The library is not installed, or the cluster is too small.
        Unreachable: No scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise Refused(
            "a load from a Dask cluster needs the package distributed", hint="pip install k2run[dask]"
        ) from error
    try:
        client = Client(address, timeout=CONNECTING, set_as_default=False)
    except (OSError, ValueError) as error:
        raise Unreachable(f"the Dask scheduler at {address} does not answer", hint="is the address right?") from error
    with client:
        places = _places(client)
        if len(places) < count:
            raise Refused(f"the cluster at {address} has {len(places)} workers, and the load wants {count}")
        # Each bound to its place: the shares are meant to run at the same time, and a dead one's not to be repeated.
        yield [
            Worker(
                client.get_executor(workers=[place], allow_other_workers=False, pure=False),
                work_at_cluster,
                lambda place=place: place in _places(client),  # type: ignore[misc]
            )
            for place in places[:count]
        ]


def _places(client: Any) -> list[str]:
    return list(client.scheduler_info(n_workers=-1)["workers"])


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
            workers=part_of(plan.workers, parts, n),
            iterations=part_of(plan.iterations, parts, n),
            rate=plan.rate / parts,
        )
        for n in range(parts)
    ]


def part_of(whole: int, parts: int, n: int) -> int:
    """The share of number `n`, when a whole is shared out as evenly as integers allow."""
    return whole // parts + (n < whole % parts)


def merge(outcomes: list[Outcome]) -> Outcome:
    """Several outcomes as one; rates add up over the longest time."""
    if len(outcomes) == 1:
        return outcomes[0]
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
        lost={threshold: why for one in outcomes for threshold, why in one.lost.items()},
    )

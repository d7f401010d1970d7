"""One load from several processes, or several machines: split beforehand, merged afterwards.

Each worker is an executor of `concurrent.futures` of its own, so that one that dies takes nothing else with it: its
share is missing from the result, and the result says so. All are asked who they are before the load, and begin at the
same moment by their own clocks, whose difference to this machine's is measured.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from msgspec import Struct, structs

import k2run
from k2run.actions.deadline import Deadline
from k2run.bench.plan import Outcome, Plan
from k2run.errors import ActionError, K2runError, Refused, Unreachable
from k2run.language.quantities import Duration

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
LEAD = 0.3
"""Seconds between the last word to the workers and the moment at which all begin."""
CLOCK_LOOKS = 5
"""How often a worker is asked for its time; the quickest answer counts."""
ASKED_S = 30.0
"""Seconds that a worker has to say who it is: a process that is started imports its libraries first."""


class Worker(NamedTuple):
    """An executor with one place to work, how work is done there, and whether that place is still there."""

    executor: Executor
    work: Callable[..., Any]
    is_alive: Callable[[], bool]
    name: str


class Present(Struct, frozen=True):
    """What a worker says of itself before a load.

    Attributes:
        version: Of its k2run.
        form: Digest of what a load's plans and outcomes consist of, which must be the same on both sides.
        time: Its time of day (Unix).
    """

    version: str
    form: str
    time: float


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
    ahead = [_ahead(worker, deadline) for worker in workers]
    begin = time.time() + LEAD
    futures = {
        worker.executor.submit(
            worker.work, load, share, deadline.remaining(), Moment(begin + clock, LATEST_START)
        ): worker
        for worker, share, clock in zip(workers, shares, ahead, strict=True)
    }
    waiting = set(futures)
    while waiting:
        deadline.remaining()
        waiting = {future for future in wait(waiting, timeout=TICK).not_done if futures[future].is_alive()}
    found = [_measured(future, worker) for future, worker in futures.items()]
    measured = [_by_our_clock(one, clock) for one, clock in zip(found, ahead, strict=True) if one is not None]
    if not measured:
        raise Unreachable(f"all {len(futures)} workers of the load died")
    return measured


def _ahead(worker: Worker, deadline: Deadline) -> float:
    """By how many seconds the clock of a worker is ahead of ours; the worker has the same k2run as we have.

    Raises:
        Refused: It has none, or another one.
    """
    looks = []
    for _ in range(CLOCK_LOOKS):
        before = time.time()
        present = _present(worker, deadline)
        looks.append((time.time() - before, present.time - (before + time.time()) / 2))
    ours = presence()
    if (present.version, present.form) != (ours.version, ours.form):
        theirs = f"k2run {present.version}" + (", changed" if present.version == ours.version else "")
        raise Refused(
            f"the load generator {worker.name} has {theirs}, and this is {ours.version}",
            hint="install the same version on every machine that puts a load on",
        )
    return min(looks)[1]


def _present(worker: Worker, deadline: Deadline) -> Present:
    try:
        found: Present = worker.executor.submit(presence).result(deadline.at_most(ASKED_S))
    except K2runError:
        raise
    except TimeoutError as error:
        deadline.remaining()
        raise Refused(
            f"the load generator {worker.name} did not say within {Duration(ASKED_S)} who it is",
            hint="is it busy with something else?",
        ) from error
    except Exception as error:
        deadline.remaining()
        raise Refused(
            f"the load generator {worker.name} cannot run k2run {presence().version}: {type(error).__name__}: {error}",
            hint="install k2run there (pip install k2run[dask]), the same version as here",
        ) from error
    return found


def presence() -> Present:
    """What this process would say of itself."""
    form = repr([kind.__struct_fields__ for kind in (Plan, Outcome)])
    return Present(k2run.__version__, sha256(form.encode()).hexdigest()[:16], time.time())


def _by_our_clock(measured: T, ahead: float) -> T:
    if isinstance(measured, Outcome) and measured.began:
        return structs.replace(measured, began=measured.began - ahead)
    return measured


def _measured(future: Future[T], worker: Worker) -> T | None:
    """What a worker measured; None when it died.

    Raises:
        ActionError: It could not do its share.
    """
    try:
        return future.result(timeout=0)
    except K2runError:
        raise
    except (BrokenProcessPool, CancelledError, TimeoutError):
        return None
    except Exception as error:
        if not worker.is_alive() or type(error).__name__ in _DEATHS:
            return None
        raise ActionError(f"the load generator {worker.name} failed: {type(error).__name__}: {error}") from error


_DEATHS = frozenset({"KilledWorker", "CommClosedError", "FutureCancelledError"})
"""How Dask says that a worker is gone; named, because its library is not imported for a load without it."""


class Moment(Struct, frozen=True):
    """When a share begins, by the clock of who does it (Unix time), and how many seconds later it is too late."""

    begin: float
    patience: float


def work(load: Callable[[S, Deadline], T], share: S, seconds: float, moment: Moment, stop: Any = None) -> T:
    """What a worker does: its share of the load.

    Args:
        load: How to put it on.
        share: Its share.
        seconds: Time allowed.
        moment: When it begins; a cluster that repeats a dead worker's share comes too late.
        stop: Event that ends it; that of the process unless given.

    Raises:
        ActionError: It could not; errors with more to them do not survive the way back.
    """
    if time.time() > moment.begin + moment.patience:
        raise TimeoutError("too late to be part of this load")
    try:
        deadline = Deadline(seconds, stop or _stop)
        deadline.sleep(max(0.0, moment.begin - time.time()))
        return load(share, deadline)
    except K2runError as error:
        raise ActionError(str(error)) from None


def work_at_cluster(load: Callable[[S, Deadline], T], share: S, seconds: float, moment: Moment) -> T:
    """What a worker of a cluster does: its share, until that is wanted no more."""
    with _until_cancelled() as stop:
        return work(load, share, seconds, moment, stop)


@contextlib.contextmanager
def _until_cancelled() -> Iterator[threading.Event]:
    """An event that is set once the cluster has given up this task, which Dask alone does not end.

    That is when its run is interrupted, and also when k2run itself died: the scheduler drops futures without a client.
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
        # A dead process breaks its executor, which ends its future: nothing needs to be checked.
        yield [Worker(executor, work, lambda: True, f"process {n + 1}") for n, executor in enumerate(executors)]


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
                f"at {place}",
            )
            for place in places[:count]
        ]


def _places(client: Any) -> list[str]:
    """The workers that the scheduler has now.

    Not by `scheduler_info`: the client replaces what that returns by an answer without workers every two seconds.
    """
    return list(client.nthreads())


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

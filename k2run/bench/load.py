"""The load generator: closed and open loops over HTTP, on one core, in one thread.

A closed loop has workers that each ask again once they were answered: it finds out what a service can do. An open loop
asks at a set rate, and a latency counts from the moment the request *should* have started: when the service stalls, the
requests that had to wait are not forgiven (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import ssl
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from k2run.adapters._tls import trust
from k2run.bench.arrival import StampedSelector, can_stamp, connected
from k2run.bench.calm import calm
from k2run.bench.plan import Outcome, Plan
from k2run.bench.tally import Tally
from k2run.bench.wire import Connection
from k2run.errors import Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from k2run.actions.deadline import Deadline

TICK = 0.05
"""Seconds between two looks at the deadline and at requests that take too long."""
PAUSE_AFTER_BREAK = 0.05
"""Seconds before a worker of a closed loop connects again, so that a dead service is not hammered."""
AWAKE = 0.0003
"""Seconds before a request of an open loop is due in which its generator does not sleep any more."""
EXPIRING = 1.0
"""Seconds that a connection was idle from which on a server may be about to close it."""
TURN = 64
"""Requests sent in a row, when behind, before answers are let in."""


def generate(plan: Plan, deadline: Deadline) -> Outcome:
    """Put the load on, and say what came of it.

    Raises:
        Unreachable: Nobody answers at the address at all.
        Refused: The certificate is not trusted.
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    selector = StampedSelector()
    load = (OpenLoop if plan.rate else ClosedLoop)(plan, deadline, selector)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner, calm():
        return runner.run(load.run())


class Load(ABC):
    """One run of a plan; the listener of all its connections."""

    def __init__(self, plan: Plan, deadline: Deadline, selector: StampedSelector) -> None:
        self.plan = plan
        self.tally = Tally(plan.ask, plan.limits)
        self.idle: list[Connection] = []
        self.begin = self.end = 0.0
        self.started = self.skipped = 0
        self.late = 0.0
        self.lost = False
        self._deadline = deadline
        self._selector = selector
        self._requests = itertools.cycle(plan.ask.requests)
        self._connections: set[Connection] = set()
        self._trust = trust(plan.ask.tls) if plan.ask.tls else None
        self._opening = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> Outcome:
        """The whole of it: connect, warm up, measure, wait for the last answers."""
        self.idle.append(await self._first())
        busy, begun = time.thread_time(), time.monotonic()
        self.begin = begun + self.plan.warm_up
        self.end = self.begin + (self.plan.seconds or math.inf)
        try:
            self.start()
            while not (self.is_over(time.monotonic()) and self.is_quiet()):
                await asyncio.sleep(self._deadline.at_most(TICK))
                now = time.monotonic()
                self.give_up(now - self.plan.timeout)
                self.lost = self.lost or (not self.is_over(now) and self.tally.is_lost(now - self.begin))
            cpu = (time.thread_time() - busy) / (time.monotonic() - begun)
        finally:
            await self._close()
        return self._outcome(cpu)

    @abstractmethod
    def start(self) -> None:
        """Begin to ask."""

    @abstractmethod
    def freed(self, *, broken: bool) -> None:
        """A request is over, well or not: somebody else may ask."""

    def is_over(self, now: float) -> bool:
        """Nothing new is to be asked."""
        done = self.lost or now >= self.end or (self.plan.iterations > 0 and self.started >= self.plan.iterations)
        return done or (self.plan.most_errors is not None and len(self.tally.failed) > self.plan.most_errors)

    def is_quiet(self) -> bool:
        """Nothing is under way."""
        return not self._opening and not any(connection.busy for connection in self._connections)

    def give_up(self, before: float) -> None:
        """Requests that should have started `before` count as failed."""
        for connection in [one for one in self._connections if one.busy and one.intended < before]:
            connection.abort("timeout")

    def has_room(self) -> bool:
        """A connection is free, or may be opened."""
        return bool(self.idle) or len(self._connections) + self._opening < self.plan.workers

    def number(self, intended: float) -> None:
        """Count a request as started, or as part of the warm-up."""
        if intended >= self.begin:
            self.started += 1
        else:
            self.skipped += 1

    def ask(self, intended: float) -> None:
        """Send the request that should start at `intended`, on a free connection or a new one."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.closed:
                self._send(connection, intended)
                return
            self._connections.discard(connection)
        self._opening += 1
        self.spawn(self._connect_and_send(intended))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Do something beside the rest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def answered(self, connection: Connection, status: int, size: int, body: bytes | None, at: float) -> None:
        """A connection reports: the whole answer is there."""
        if connection.intended >= self.begin:
            self.tally.last = at
            self.tally.answer(status, size, body, max(0.0, at - connection.intended))
        if connection.closed:
            self._connections.discard(connection)
        else:
            self.idle.append(connection)
        self.freed(broken=False)

    def broken(self, connection: Connection, why: str) -> None:
        """A connection reports: it ended in the middle of a request."""
        self._connections.discard(connection)
        if self._was_expired(connection, why):
            self.ask(connection.intended)
        else:
            self.failed(connection.intended, why)
            self.freed(broken=True)

    def _was_expired(self, connection: Connection, why: str) -> bool:
        """The server closed an idle connection at the very moment of a request, as HTTP lets it; asked again.

        That is what a client does (RFC 9112, 9.3.1), and the latency counts from the first attempt.
        """
        closed = why in {"connection closed", "connection reset"}
        return closed and self.plan.ask.repeatable and connection.rested >= EXPIRING and connection.is_unanswered()

    def failed(self, intended: float, why: str) -> None:
        """Count a failed request."""
        if intended >= self.begin:
            self.tally.last = time.monotonic()
            self.tally.failure(why, self.tally.last - intended)

    def _send(self, connection: Connection, intended: float) -> None:
        connection.send(next(self._requests), intended)

    async def _connect_and_send(self, intended: float) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            self._opening -= 1
            self.failed(intended, _why(error))
            self.freed(broken=True)
        else:
            self._opening -= 1
            self._send(connection, intended)

    async def _first(self) -> Connection:
        """One connection before the clock starts: a service that is not there is no measurement."""
        ask = self.plan.ask
        address = f"{ask.host}:{ask.port}"
        try:
            return await self._connect()
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"the certificate of {address} is not trusted: {error.verify_message}", hint="look at tls: {ca, verify}"
            ) from error
        except OSError as error:
            raise Unreachable(
                f"{address} does not answer: {_why(error)}", hint="is the service up, and its url right?"
            ) from error

    async def _connect(self) -> Connection:
        ask = self.plan.ask
        async with asyncio.timeout(self._deadline.at_most(self.plan.timeout)):
            loop = asyncio.get_running_loop()
            if self._trust is None and can_stamp():
                sock = await connected(self._selector, ask.host, ask.port)
                _, connection = await loop.create_connection(self._new, sock=sock)
            else:
                _, connection = await loop.create_connection(self._new, ask.host, ask.port, ssl=self._trust)
        self._connections.add(connection)
        return connection

    def _new(self) -> Connection:
        return Connection(self, self._selector, keep_body=bool(self.plan.ask.rows))

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            connection.close()
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    def _outcome(self, cpu: float) -> Outcome:
        ended_early = time.monotonic() < self.end
        over = self.tally.last if ended_early else max(self.tally.last, self.end)
        return self.tally.outcome(
            started=self.started,
            skipped=self.skipped,
            seconds=max(0.0, over - self.begin),
            cpu=cpu,
            late_ms=self.late * 1000,
        )


class ClosedLoop(Load):
    """Workers that each ask again once they were answered."""

    def start(self) -> None:
        """Every worker asks once."""
        for _ in range(self.plan.workers):
            self._turn()

    def freed(self, *, broken: bool) -> None:
        """The worker asks again, after a while."""
        pause = max(self.plan.think, PAUSE_AFTER_BREAK) if broken else self.plan.think
        if pause:
            asyncio.get_running_loop().call_later(pause, self._turn)
        else:
            self._turn()

    def _turn(self) -> None:
        now = time.monotonic()
        if not self.is_over(now):
            self.number(now)
            self.ask(now)


class OpenLoop(Load):
    """Requests at a set rate, whatever the answers do."""

    def start(self) -> None:
        """Begin to keep the pace."""
        self._pacing = True
        self._waiting: deque[float] = deque()
        self.spawn(self._keep_pace(time.monotonic()))

    def freed(self, *, broken: bool) -> None:  # noqa: ARG002 - it makes no difference here
        """The one who waits longest is served."""
        if self._waiting:
            self.ask(self._waiting.popleft())

    def is_quiet(self) -> bool:
        """Nothing is under way, and nobody waits."""
        return not self._pacing and not self._waiting and super().is_quiet()

    def give_up(self, before: float) -> None:
        """Nobody waits for a connection longer than for an answer."""
        while self._waiting and self._waiting[0] < before:
            self.failed(self._waiting.popleft(), "timeout")
        super().give_up(before)

    async def _keep_pace(self, start: float) -> None:
        """Request number n belongs to a fixed moment, whatever happened to those before it."""
        for n in itertools.count():
            intended = start + n / self.plan.rate
            if self.is_over(intended):
                self._pacing = False
                return
            await _moment(intended)
            if n % TURN == 0:
                await asyncio.sleep(0)
            self.number(intended)
            if self.has_room():
                self.late = max(self.late, time.monotonic() - intended)
                self.ask(intended)
            else:
                self._waiting.append(intended)


async def _moment(when: float) -> None:
    """Wait until `when` (monotonic): asleep at first, then awake, because waking up takes a while too."""
    while (wait := when - time.monotonic()) > 0:  # noqa: ASYNC110 - it waits for a moment, not an event
        await asyncio.sleep(max(0.0, wait - AWAKE))


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or str(error)).lower()

"""The load generator: closed and open loops over HTTP, on one core, in one thread.

A closed loop has workers that each ask again once they were answered: it finds out what a service can do. An open loop
asks at a set rate, and a latency counts from the moment the request *should* have started: when the service stalls, the
requests that had to wait are not forgiven (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import math
import ssl
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from k2run.adapters.http.endpoint import trust
from k2run.bench.plan import Outcome, Plan, calm
from k2run.bench.tally import Kind, Tally
from k2run.bench.wire import Connection, StampedSelector, can_stamp, connected
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
OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})
"""Errors of a connection that say something of this machine, and nothing of the service."""


def generate(plan: Plan, deadline: Deadline) -> Outcome:
    """Put the load on, and say what came of it.

    Raises:
        Unreachable: Nothing answers at the address.
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
        self.window_end = self.cut = math.inf
        self.started = self.skipped = self.in_window = 0
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
                self._cut_short(now)
            cpu = (time.thread_time() - busy) / (time.monotonic() - begun)
        finally:
            await self._close()
        return self._outcome(cpu)

    @abstractmethod
    def start(self) -> None:
        """Begin to ask."""

    @abstractmethod
    def freed(self, at: float, held: float = 0.0, *, broken: bool) -> None:
        """A request has ended, well or not: another one may be sent.

        Args:
            at: When it did (monotonic).
            held: How many seconds earlier it would have, had the generator sent it in time.
            broken: Whether its connection is gone.
        """

    def is_over(self, now: float) -> bool:
        """Nothing new is to be asked."""
        return self.is_cut() or now >= self.end or 0 < self.plan.iterations <= self.started

    def is_cut(self) -> bool:
        """The load ends before its time."""
        return bool(self.tally.lost) or (
            self.plan.most_errors is not None and len(self.tally.failed) > self.plan.most_errors
        )

    def _cut_short(self, now: float) -> None:
        """Note when the load ends before its time."""
        if not self.is_over(now):
            self.tally.is_lost(now - self.begin)
        if self.is_cut():
            self.cut = min(self.cut, now)

    def is_quiet(self) -> bool:
        """Nothing is under way."""
        return not self._opening and not any(connection.busy for connection in self._connections)

    def give_up(self, before: float) -> None:
        """Requests that should have started `before` count as failed."""
        for connection in [one for one in self._connections if one.busy and one.intended < before]:
            connection.abort("timeout")

    def doubt(self, connection: Connection, late: float) -> None:
        """Note how late a request was sent, and what that leaves of its latency."""
        connection.late = late

    def has_room(self) -> bool:
        """A connection is free, or may be opened."""
        return bool(self.idle) or len(self._connections) + self._opening < self.plan.workers

    def number(self, intended: float) -> None:
        """Count a request as started, or as part of the warm-up."""
        if intended >= self.begin:
            self.started += 1
        else:
            self.skipped += 1

    def ask(self, intended: float, free: float) -> None:
        """Send the request that should start at `intended`, on a free connection or a new one.

        Args:
            intended: When it should start (monotonic).
            free: From when on it could: it had to wait until then, because all connections were in use.
        """
        while self.idle:
            connection = self.idle.pop()
            if not connection.closed:
                self._send(connection, intended, free)
                return
            self._connections.discard(connection)
        self._opening += 1
        self.spawn(self._connect_and_send(intended, time.monotonic() - free))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Do something beside the rest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def answered(self, connection: Connection, status: int, size: int, body: bytes | None, at: float) -> None:
        """A connection reports: the whole answer is there."""
        if connection.intended >= self.begin:
            good = self._count(connection, status, size, body, at)
        else:
            good = self.tally.kind(status, size, body) is Kind.GOOD
        self.in_window += good and self.begin <= at <= min(self.window_end, self.end)
        if connection.closed:
            self._connections.discard(connection)
        else:
            self.idle.append(connection)
        self.freed(at, connection.late, broken=False)

    def _count(self, connection: Connection, status: int, size: int, body: bytes | None, at: float) -> bool:
        """Count an answer, and how late its request was sent; whether it is a good one."""
        self.tally.last = at
        self.tally.lateness.record(connection.late)
        good = self.tally.answer(status, size, body, max(0.0, at - connection.intended), connection.doubt)
        if good:
            self.tally.from_send.record(max(0.0, at - connection.sent))
        return good

    def broken(self, connection: Connection, why: str) -> None:
        """A connection reports: it ended in the middle of a request."""
        self._connections.discard(connection)
        if self._was_expired(connection, why):
            self.ask(connection.intended, time.monotonic())
        else:
            self.failed(connection.intended, why)
            self.freed(time.monotonic(), broken=True)

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

    def _send(self, connection: Connection, intended: float, free: float) -> None:
        connection.send(next(self._requests), intended)
        self.doubt(connection, max(0.0, connection.sent - free))

    async def _connect_and_send(self, intended: float, held: float) -> None:
        """Send a request on a new connection; so many seconds it was held up before that was begun."""
        try:
            connection = await self._connect()
        except OSError as error:
            self._opening -= 1
            if error.errno in OWN:
                self.tally.own_errors[_why(error)] += intended >= self.begin
            else:
                self.failed(intended, _why(error))
            self.freed(time.monotonic(), broken=True)
        else:
            self._opening -= 1
            self._send(connection, intended, time.monotonic() - held)

    async def _first(self) -> Connection:
        """One connection before the clock starts: a service that is not there is no measurement."""
        ask = self.plan.ask
        address = f"{ask.host}:{ask.port}"
        try:
            return await self._connect()
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"the certificate of {address} is not trusted: {error.verify_message}", hint="check tls: {ca, verify}"
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
        end = min(self.window_end, self.end, self.cut)
        answered: int | None = self.in_window
        if end <= self.begin or not answered:  # every worker asked once, or no answer came in time
            end, answered = self.tally.last, None
        return self.tally.outcome(
            started=self.started,
            skipped=self.skipped,
            seconds=max(0.0, end - self.begin),
            answered=answered,
            begin=self.begin,
            cpu=cpu,
        )


class ClosedLoop(Load):
    """Workers that each ask again once they were answered."""

    def start(self) -> None:
        """Every worker asks once."""
        for _ in range(self.plan.workers):
            self._turn(time.monotonic())

    def freed(self, at: float, held: float = 0.0, *, broken: bool) -> None:  # noqa: ARG002 - each turn by itself
        """The worker asks again, after a while."""
        pause = max(self.plan.think, PAUSE_AFTER_BREAK) if broken else self.plan.think
        if pause:
            asyncio.get_running_loop().call_later(pause, self._turn, at + pause)
        else:
            self._turn(at)

    def _turn(self, free: float) -> None:
        now = time.monotonic()
        if not self.is_over(now):
            self.number(now)
            if self.started == self.plan.iterations:
                self.window_end = now
            self.ask(now, free)


class OpenLoop(Load):
    """Requests at a set rate, whatever the answers do."""

    def start(self) -> None:
        """Begin to keep the pace."""
        self._pacing = True
        self._caught_up = 0.0
        self._waiting: deque[float] = deque()
        warm_up = round(self.plan.warm_up * self.plan.rate)
        counted = self.plan.iterations or round(self.plan.seconds * self.plan.rate)
        start = self.begin - self.plan.warm_up
        self.begin = self._due(start, warm_up)
        self.end = self.window_end = self._due(start, warm_up + counted)
        self.spawn(self._keep_pace(start, warm_up + counted))

    def is_over(self, now: float) -> bool:
        """Nothing new is to be asked."""
        return self.is_cut() or now >= self.end

    def freed(self, at: float, held: float = 0.0, *, broken: bool) -> None:  # noqa: ARG002 - it makes no difference here
        """The one who waits longest is served; what it waited for the generator's sake is handed on to the next."""
        if self._waiting:
            intended = self._waiting.popleft()
            self.ask(intended, max(intended, at - held))

    def doubt(self, connection: Connection, late: float) -> None:
        """A request that is sent late comes to the service together with others, which then wait for it as well.

        What is sent late by at most L seconds is answered late by at most L seconds, and so are those behind it until
        the service has caught up, which a service that holds the rate has done another L seconds later.
        """
        super().doubt(connection, late)
        self._caught_up = max(self._caught_up, connection.sent + late)
        connection.doubt = max(0.0, self._caught_up - connection.sent)

    def is_quiet(self) -> bool:
        """Nothing is in flight or waiting."""
        return not self._pacing and not self._waiting and super().is_quiet()

    def give_up(self, before: float) -> None:
        """Waiting for a connection is limited like waiting for an answer."""
        while self._waiting and self._waiting[0] < before:
            self.failed(self._waiting.popleft(), "timeout")
        super().give_up(before)

    def _due(self, start: float, n: int) -> float:
        """The moment of request number n, whatever happened to those before it."""
        return start + n / self.plan.rate

    async def _keep_pace(self, start: float, count: int) -> None:
        for n in range(count):
            if self.is_cut():
                break
            intended = self._due(start, n)
            await _moment(intended)
            if n % TURN == 0:
                await asyncio.sleep(0)
            self.number(intended)
            if self.has_room():
                self.ask(intended, intended)
            else:
                self._waiting.append(intended)
        self._pacing = False


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

"""What load to put on an HTTP service, and what came of it: plain values that can travel to another process."""

from __future__ import annotations

from msgspec import Struct

from k2run.adapters._tls import Tls
from k2run.bench.pace import Pace


class Ask(Struct, frozen=True, kw_only=True):
    """What is asked, again and again.

    Attributes:
        host: Host name or address; `port` and `tls` (None is plain HTTP) say how to connect.
        requests: Whole requests, ready to send; they take turns.
        repeatable: A request may be sent again when its idle connection turns out to be closed (not for POST).
        statuses: The statuses that count as answers; any 2xx when empty.
        rows: Path to the list of rows in a JSON answer, such as `data.items`; an answer with no rows is empty.
    """

    host: str
    port: int
    requests: list[bytes]
    tls: Tls | None = None
    repeatable: bool = True
    statuses: list[int] = []
    rows: str = ""


class Plan(Pace, frozen=True, kw_only=True):
    """How often something is asked.

    Attributes:
        workers: Connections that ask one after the other (closed loop), or at most so many at once (open loop).
        rate: Requests a second, whatever the answers do (open loop); 0 is a closed loop.
        think: Seconds that a worker of a closed loop pauses between an answer and its next request.
        most_errors: The load ends early once more requests than this failed; None for never.
        timeout: Seconds after which a request is given up and counted as an error.
    """

    ask: Ask
    workers: int = 1
    rate: float = 0.0
    think: float = 0.0
    most_errors: int | None = None
    timeout: float = 10.0


class Outcome(Struct, frozen=True, kw_only=True):
    """What one generator measured.

    Attributes:
        histogram: Latencies of the good answers, encoded; in an open loop from the intended start.
        failed: Latencies of the errors, encoded.
        started: Requests that count, sent or still waiting for a connection.
        seconds: From the first request that counts to the last answer.
        errors: How many, by class: `status 500`, `timeout`, `connection refused`.
        empty: Good answers without content or without rows; their latencies are not among the good ones.
        size: Bytes of the bodies of good answers.
        statuses: How many answers had which status.
        cpu: Share of one core that the generator itself used.
        late_ms: The longest that the generator sent a request later than intended although a connection was free.
        skipped: Requests of the warm-up.
        lost: Of each threshold that ended the load before its time, why it can no longer be met.
    """

    histogram: str
    failed: str
    started: int
    seconds: float
    errors: dict[str, int]
    empty: int
    size: int
    statuses: dict[int, int]
    cpu: float
    late_ms: float
    skipped: int
    lost: dict[str, str] = {}

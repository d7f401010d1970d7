"""Asks a service again and again for a moment, for symptoms: how many answers are errors, how long they take."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from k2run.actions.action import Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters.http.client import Request, send, with_query
from k2run.adapters.http.endpoint import target
from k2run.errors import Refused, TimedOut, Unreachable
from k2run.language.quantities import Duration
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Iterator

TWO_SECONDS = Duration(2)
TENTH = Duration(0.1)
_BAD = 500


class Asked(Result, frozen=True, kw_only=True):
    """What requests were answered with.

    Attributes:
        requests: How many were made, one after the other.
        errors: How many got an answer of the server's fault (500 and above), a broken one, or none in time.
        error_percent: The same of a hundred.
        unanswered: Those of them that got no answer at all.
        median_ms: How long an answer took, in the middle; None without a good answer.
        slowest_ms: How long the slowest took.
    """

    requests: int
    errors: int
    error_percent: float
    unanswered: int
    median_ms: float | None = None
    slowest_ms: float | None = None

    def headline(self) -> str:
        """Such as `3 of 20 failed, median 12 ms`."""
        took = "" if self.median_ms is None else f", median {self.median_ms:g} ms"
        return f"{self.errors} of {self.requests} failed{took}"


@action("http.sample")
def sample(
    services: Services,
    deadline: Deadline,
    service: str = "",
    path: str = "",
    url: str = "",
    params: dict[str, Any] = {},
    headers: dict[str, str] = {},
    during: Duration = TWO_SECONDS,
    every: Duration = TENTH,
) -> Asked:
    """Ask with GET for a while, one request after the other, and say how many failed and how long they took.

    For symptoms: an error is the finding, not a failure of the step.

    Args:
        service: The service to ask; its URL and headers come from the stack.
        path: Path below the service's URL.
        url: A whole URL, instead of a service.
        params: Query parameters; a list repeats its parameter.
        headers: Sent beside those of the service.
        during: For how long requests are begun; also how long an answer may take.
        every: Pause between an answer and the next request.

    Raises:
        Refused: An answer is no error of the server, and no success: the request is wrong.
    """
    address, sent = target(services, service, path, url, headers)
    request = Request(url=with_query(address, params), headers=sent)
    seen = list(_answers(request, deadline, during, every))
    good = [took for status, took in seen if 0 < status < _BAD]
    errors = len(seen) - len(good)
    return Asked(
        requests=len(seen),
        errors=errors,
        error_percent=round(100 * errors / len(seen), 1),
        unanswered=sum(status == 0 for status, _ in seen),
        median_ms=round(1000 * statistics.median(good), 1) if good else None,
        slowest_ms=round(1000 * max(good), 1) if good else None,
        source=request.address,
    )


def _answers(request: Request, deadline: Deadline, during: Duration, every: Duration) -> Iterator[tuple[int, float]]:
    """Status (0 without an answer in time) and seconds of each request."""
    ends = time.monotonic() + during
    while (began := time.monotonic()) < ends:
        try:
            status = send(request, Deadline(deadline.at_most(during), deadline.stop)).status
        except (Unreachable, TimedOut):
            status = 0
        if 400 <= status < _BAD:  # noqa: PLR2004 - the request's fault, not the server's
            raise Refused(f"{request.address} answers {status}", hint="path, parameters or key are wrong")
        yield status, time.monotonic() - began
        deadline.sleep(every)

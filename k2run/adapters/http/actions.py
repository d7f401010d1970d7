"""HTTP: ask a service or a URL, and look at what it answers.

Long because a request has many settings, and every way to ask documents them.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import structs

from k2run.actions.action import Blast, Effect, Result, action, beginning
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import Unreadable, conforming, read_json
from k2run.adapters.http.client import Answer, Request, send
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls, target
from k2run.errors import Refused, TimedOut, Unknown, Unreachable
from k2run.language.json_schema import JsonSchema
from k2run.language.quantities import Duration
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


ONE_SECOND = Duration(1)
LARGEST_IN_JOURNAL = 256 * 1024
"""Bytes of a body that the journal still keeps whole."""
SHOWN = 200
"""Characters of a refusing answer that an error quotes."""
Method = Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
TWO_SECONDS = Duration(2)
TENTH = Duration(0.1)
_BAD = 500


class Response(Result, frozen=True, kw_only=True):
    """An HTTP answer.

    Attributes:
        elapsed_ms: From the first attempt to connect to the last byte of the body.
        headers: With names in lower case; cookies are not kept.
        body: The parsed JSON, or None when the body is not JSON.
        body_error: Why a body that is said to be JSON cannot be read; nothing is known of `body` then.
        text: The body as text.
        size: Bytes of the body, decompressed.
    """

    status: int
    elapsed_ms: float
    headers: dict[str, str] = {}
    body: Any = None
    body_error: str = ""
    text: str = ""
    size: int = 0

    def headline(self) -> str:
        """Such as `200, 12.3 ms, 1,204 bytes`."""
        unread = f", unreadable JSON: {self.body_error}" if self.body_error else ""
        return f"{self.status}, {self.elapsed_ms:.1f} ms, {self.size:,} bytes{unread}"

    def plain(self) -> dict[str, Any]:
        """For the journal: JSON is not kept a second time as text, and a very large body is left out."""
        built = super().plain()
        if self.body is not None:
            built["text"] = ""
        if self.size > LARGEST_IN_JOURNAL:
            left = f"the journal keeps no body of {self.size:,} bytes"
            built |= {"body": None, "body_error": left, "text": f"({left})", "text_error": left}
        return built


class Polled(Response, frozen=True, kw_only=True):
    """The HTTP answer that was waited for.

    Attributes:
        tries: How often was asked.
        waited_s: Until that answer.
    """

    tries: int
    waited_s: float

    def headline(self) -> str:
        """Such as `200 after 4.1 s, asked 5 times`."""
        return f"{self.status} after {self.waited_s:.1f} s, asked {self.tries} times"


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


@action("http.get")
def get(
    services: Services,
    deadline: Deadline,
    service: str = "",
    path: str = "",
    url: str = "",
    params: dict[str, Any] = {},
    headers: dict[str, str] = {},
    status: int | list[int] = [],
    retries: int = 0,
    follow_redirects: bool = True,
    tls: Tls = TRUSTING_THE_SYSTEM,
    conforms_to: JsonSchema | None = None,
) -> Response:
    """Ask a service, or any URL, with GET.

    Args:
        service: The service to ask; its URL and headers come from the stack.
        path: Path below the service's URL, such as `/health`.
        url: A whole URL, instead of a service.
        params: Query parameters; a list repeats its parameter.
        headers: Sent beside those of the service.
        status: The status, or statuses, that count as an answer; any 2xx when not given.
        retries: How often to try again when nothing answers, or with 502, 503 or 504.
        follow_redirects: Whether to go where a redirect points to.
        tls: How an HTTPS server is trusted.
        conforms_to: JSON Schema that the JSON body must conform to, or the path of a file with one, from the runbook's.
    """
    address, sent = target(services, service, path, url, headers, params)
    request = Request(url=address, headers=sent, retries=retries, follow_redirects=follow_redirects, tls=tls)
    return _judge(request, send(request, deadline), status, conforms_to)


@action("http.poll")
def poll(
    services: Services,
    deadline: Deadline,
    service: str = "",
    path: str = "",
    url: str = "",
    params: dict[str, Any] = {},
    headers: dict[str, str] = {},
    status: int | list[int] = [],
    body: dict[str, Any] = {},
    every: Duration = ONE_SECOND,
    tls: Tls = TRUSTING_THE_SYSTEM,
    conforms_to: JsonSchema | None = None,
) -> Polled:
    """Ask with GET repeatedly until the answer meets the expectation; the step's timeout says for how long.

    Args:
        service: The service to ask; its URL and headers come from the stack.
        path: Path below the service's URL, such as `/health`.
        url: A whole URL, instead of a service.
        params: Query parameters; a list repeats its parameter.
        headers: Sent beside those of the service.
        status: The status, or statuses, to wait for; any 2xx when not given.
        body: Values that the JSON answer must have, such as `{status: healthy}`.
        every: Time between two questions.
        tls: How an HTTPS server is trusted.
        conforms_to: JSON Schema that the JSON body must conform to, or the path of a file with one, from the runbook's.
    """
    address, sent = target(services, service, path, url, headers, params)
    request = Request(url=address, headers=sent, tls=tls)
    return _polled(request, deadline, every, body, lambda answer: _judge(request, answer, status, conforms_to))


@action("http.post", effect=Effect.CHANGES, blast=Blast.DATA)
def post(
    services: Services,
    deadline: Deadline,
    service: str = "",
    path: str = "",
    url: str = "",
    json: Any = None,
    body: str = "",
    params: dict[str, Any] = {},
    headers: dict[str, str] = {},
    status: int | list[int] = [],
    tls: Tls = TRUSTING_THE_SYSTEM,
    conforms_to: JsonSchema | None = None,
) -> Response:
    """Send something to a service, or any URL, with POST; never sent twice.

    Args:
        service: The service to ask; its URL and headers come from the stack.
        path: Path below the service's URL.
        url: A whole URL, instead of a service.
        json: Any value, sent as JSON.
        body: Text sent as it is, instead of `json`.
        params: Query parameters; a list repeats its parameter.
        headers: Sent beside those of the service.
        status: The status, or statuses, that count as an answer; any 2xx when not given.
        tls: How an HTTPS server is trusted.
        conforms_to: JSON Schema that the JSON body must conform to, or the path of a file with one, from the runbook's.
    """
    address, sent = target(services, service, path, url, headers, params)
    content = _content(json, body)
    request = Request(url=address, method="POST", headers=_kind(json) | sent, content=content, tls=tls)
    return _judge(request, send(request, deadline), status, conforms_to)


@action("http.request", effect=Effect.CHANGES, blast=Blast.DATA)
def request(
    services: Services,
    deadline: Deadline,
    method: Method,
    service: str = "",
    path: str = "",
    url: str = "",
    json: Any = None,
    body: str = "",
    params: dict[str, Any] = {},
    headers: dict[str, str] = {},
    status: int | list[int] = [],
    retries: int = 0,
    follow_redirects: bool = True,
    tls: Tls = TRUSTING_THE_SYSTEM,
    conforms_to: JsonSchema | None = None,
) -> Response:
    """Ask a service, or any URL, with any method.

    Args:
        method: The HTTP method.
        service: The service to ask; its URL and headers come from the stack.
        path: Path below the service's URL.
        url: A whole URL, instead of a service.
        json: Any value, sent as JSON.
        body: Text sent as it is, instead of `json`.
        params: Query parameters; a list repeats its parameter.
        headers: Sent beside those of the service.
        status: The status, or statuses, that count as an answer; any 2xx when not given.
        retries: How often to try again when nothing answers, or with 502, 503 or 504; POST and PATCH never are.
        follow_redirects: Whether to go where a redirect points to.
        tls: How an HTTPS server is trusted.
        conforms_to: JSON Schema that the JSON body must conform to, or the path of a file with one, from the runbook's.
    """
    address, sent = target(services, service, path, url, headers, params)
    asked = Request(
        url=address,
        method=method,
        headers=_kind(json) | sent,
        content=_content(json, body),
        retries=retries,
        follow_redirects=follow_redirects,
        tls=tls,
    )
    return _judge(asked, send(asked, deadline), status, conforms_to)


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
    at_least: int = 3,
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
        at_least: How many requests are made, even if that takes longer than `during`: one or two are no share.

    Raises:
        Unknown: The step's time was over before so many were made.
        Refused: An answer is no error of the server, and no success: the request is wrong.
    """
    address, sent = target(services, service, path, url, headers, params)
    request = Request(url=address, headers=sent)
    seen: list[tuple[int, float]] = []
    try:
        seen.extend(_answers(request, deadline, during, every, at_least))  # keeps what it got before it was too late
    except TimedOut:
        if len(seen) < at_least:
            raise Unknown(f"{len(seen)} of {at_least} requests were made in time: too few to judge") from None
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


def _polled(
    request: Request, deadline: Deadline, every: Duration, body: dict[str, Any], judge: Callable[[Answer], Response]
) -> Polled:
    started, tries, last = time.monotonic(), 0, "nothing was asked"
    try:
        while True:
            tries += 1
            try:
                answer = judge(send(request, deadline))
                if not (wrong := _lacking(answer.body, body)):
                    return Polled(**structs.asdict(answer), tries=tries, waited_s=time.monotonic() - started)
                last = answer.body_error or f"its body lacks {wrong}"
            except (Refused, Unreachable) as error:
                last = error.message
            deadline.sleep(every)
    except TimedOut as error:
        missed = f"did not meet the expectation within {deadline.seconds:g}s ({tries} attempts)"
        raise TimedOut(
            f"{request.address} {missed}: {last}", hint="raise the step's timeout, or find what is slow"
        ) from error


def _lacking(found: Any, wanted: dict[str, Any]) -> str:
    """The first value that a body should have and has not; empty when all are there."""
    for name, value in wanted.items():
        there = found.get(name) if isinstance(found, dict) else None
        if there != value:
            return f"{name}: {value} (it is {there!r})"
    return ""


def _content(json: Any, body: str) -> bytes:
    if body and json is not None:
        raise Refused("give either json or body")
    return body.encode() if json is None else msgspec.json.encode(json)


def _kind(json: Any) -> dict[str, str]:
    return {} if json is None else {"Content-Type": "application/json"}


def _judge(request: Request, answer: Answer, status: int | list[int], schema: JsonSchema | None) -> Response:
    wanted = [status] if isinstance(status, int) else status
    if answer.status not in wanted if wanted else not 200 <= answer.status < 300:  # noqa: PLR2004 - the 2xx
        expected = " or ".join(map(str, wanted)) or "2xx"
        said = beginning(" ".join(answer.text.split()), SHOWN)
        raise Refused(
            f"{request.method} {request.address} answered {answer.status_line}, expected {expected}"
            + (f": {said}" if said else "")
        )
    body, body_error = _parsed(answer)
    response = Response(
        source=request.address,
        status=answer.status,
        elapsed_ms=round(answer.elapsed * 1000, 3),
        headers={name: value for name, value in answer.headers.items() if name != "set-cookie"},
        body=body,
        body_error=body_error,
        text=answer.text,
        size=len(answer.content),
    )
    if schema is not None and body is None and answer.content.strip() != b"null":
        why = body_error or answer.headers.get("content-type", "") or "it is empty"
        raise Refused(f"the body of {request.address} is not JSON: {why}", result=response)
    conforming(schema, body, f"the body of {request.address}", response)
    return response


def _parsed(answer: Answer) -> tuple[Any, str]:
    """The JSON of an answer, and why it cannot be read where the server says that it is some."""
    kind = answer.headers.get("content-type")
    if not answer.content.strip() or (kind is not None and "json" not in kind.lower()):
        return None, ""
    try:
        return read_json(answer.content), ""
    except Unreadable as error:
        return None, str(error) if kind is not None else ""


def _answers(
    request: Request, deadline: Deadline, during: Duration, every: Duration, at_least: int
) -> Iterator[tuple[int, float]]:
    """Status (0 without an answer in time) and seconds of each request."""
    ends, made = time.monotonic() + during, 0
    while (began := time.monotonic()) < ends or made < at_least:
        deadline.remaining()
        made += 1
        try:
            status = send(request, Deadline(deadline.at_most(during), deadline.stop)).status
        except (Unreachable, TimedOut):
            status = 0
        if 400 <= status < _BAD:  # noqa: PLR2004 - the request's fault, not the server's
            raise Refused(f"{request.address} answers {status}", hint="check the path, the parameters and the key")
        yield status, time.monotonic() - began
        deadline.sleep(every)

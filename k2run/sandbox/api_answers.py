"""The shapes of what the API says: K2's envelope round an answer, K2's bodies for a refusal, what a query may ask."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

Question = TypeVar("Question", bound=msgspec.Struct)

_JSON = msgspec.json.Encoder(decimal_format="number")
_PLACE = re.compile(r"(?P<problem>.*?)(?: - at `\$\.(?P<place>[^`]+)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<place>[^`]+)`")


class RefusedError(Exception):
    """A request the API answers with an error body: status, K2's error code, and one sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class InvalidQueryError(Exception):
    """A query parameter that is missing or not what it must be."""

    def __init__(self, place: str, problem: str, given: str | None) -> None:
        super().__init__(f"{place}: {problem}")
        self.place, self.problem, self.given = place, problem, given


class TradesQuestion(msgspec.Struct, frozen=True):
    """The parameters of /v1/trades."""

    symbol: str | None = None
    exchange: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class RecentQuestion(msgspec.Struct, frozen=True):
    """The parameters of /v1/trades/recent."""

    symbol: str
    exchange: str
    window_minutes: Annotated[int, msgspec.Meta(ge=1, le=60)] = 15
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000


class ExchangeQuestion(msgspec.Struct, frozen=True):
    """The parameters of /v1/symbols and /v1/summary."""

    exchange: str | None = None


class SnapshotsQuestion(msgspec.Struct, frozen=True):
    """The parameters of /v1/snapshots."""

    table: str = "trades_v2"
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10


def asked(parameters: Mapping[str, str], question: type[Question]) -> Question:
    """The query's parameters as what the endpoint expects; parameters it does not know are left aside, as in K2.

    Raises:
        InvalidQueryError: One is missing, of another type, or out of bounds.
    """
    try:
        return msgspec.convert(dict(parameters), question, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        if missing := _MISSING.match(text):
            raise InvalidQueryError(missing["place"], "Field required", None) from error
        found = _PLACE.fullmatch(text)
        place = (found and found["place"]) or ""
        raise InvalidQueryError(place, found["problem"] if found else text, parameters.get(place)) from error


def utc(moment: datetime | None) -> datetime | None:
    """A moment as the table stores it: in UTC without a zone. A moment given without a zone is taken as UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment and moment.tzinfo else moment


def answer(data: object, *, correlation_id: str, meta: Mapping[str, object] | None = None, **more: object) -> Response:
    """K2's envelope of success: `success`, `meta`, `data`, and what else the endpoint has to say."""
    about = {"correlation_id": correlation_id, "timestamp": datetime.now(UTC).replace(tzinfo=None), **(meta or {})}
    return as_json({"success": True, "meta": about, "data": data, **more})


def page(rows: int, limit: int) -> dict[str, Any]:
    """K2's word on paging: `has_more` when the limit was reached, `total` never known."""
    return {"limit": limit, "offset": 0, "total": None, "has_more": rows == limit}


def refusal(error: RefusedError) -> Response:
    """The body of a refused request; 503 says when to come back."""
    body = {"detail": {"error": error.code, "message": error.message}}
    response = as_json(body, error.status)
    if error.status == 503:  # noqa: PLR2004  Service Unavailable
        response.headers["Retry-After"] = "1"
    return response


def invalid(error: InvalidQueryError) -> Response:
    """The body FastAPI, and so K2, gives a query that does not validate."""
    kind = "missing" if error.problem == "Field required" else "value_error"
    detail = {"type": kind, "loc": ["query", error.place], "msg": error.problem, "input": error.given}
    return as_json({"detail": [detail]}, 422)


def failure() -> Response:
    """The body of an error nobody foresaw; its cause is in the log."""
    body = {"success": False, "error": {"code": "INTERNAL_ERROR", "message": "An unexpected error occurred"}}
    return as_json(body, 500)


def as_json(body: object, status: int = 200) -> Response:
    """A JSON response; times without a zone stay without one."""
    return Response(_JSON.encode(body), status, media_type="application/json")

"""The API's endpoints: what each one is asked, where it looks, what it answers."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from starlette.responses import Response

from k2run.sandbox import api_answers as say
from k2run.sandbox import ledger
from k2run.sandbox.queries import Trades
from k2run.sandbox.queries_tail import TailUnreadableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from k2run.sandbox.api_health import HealthCheck
    from k2run.sandbox.api_metrics import Measurements
    from k2run.sandbox.queries import Queries, TradeRow
    from k2run.sandbox.queries_files import Snapshot, TableView
    from k2run.sandbox.queries_tail import BrokerTail, Tail

VERSION = "1.0.0"
_UNHEALTHY = 503  # K2 answers 200 with "unhealthy" in the body, which every probe by status takes for health


class Endpoints:
    """One method per endpoint. They run in threads, for what they wait on are DuckDB and the broker."""

    def __init__(self, queries: Queries, tail: BrokerTail, health: HealthCheck, measurements: Measurements) -> None:
        self._queries, self._tail, self._health, self._measurements = queries, tail, health, measurements

    def root(self, _request: Request) -> Response:
        """Say what this is."""
        return say.as_json({"name": "K2 Market Data API", "version": VERSION, "health": "/health", "api": "/v1"})

    def health(self, _request: Request) -> Response:
        """Probe DuckDB, the table and the broker. 503 when no query can be answered."""
        found = self._health()
        return say.as_json(found, _UNHEALTHY if found.status == "unhealthy" else 200)

    def metrics(self, _request: Request) -> Response:
        """The server's measurements."""
        return Response(self._measurements.text(), media_type="text/plain; version=0.0.4")

    def trades(self, request: Request) -> Response:
        """The newest trades of a symbol, an exchange, a time; newest first."""
        asked = say.asked(request.query_params, say.TradesQuestion)
        wanted = Trades(asked.symbol, asked.exchange, say.utc(asked.start_time), say.utc(asked.end_time))
        with self._measurements.query("trades"):
            rows = self._queries.newest(wanted, asked.limit)
        return _answer(request, rows, pagination=say.page(len(rows), asked.limit))

    def recent(self, request: Request) -> Response:
        """The newest trades of a symbol in the last minutes, from the table and the broker; oldest first."""
        asked = say.asked(request.query_params, say.RecentQuestion)
        since = _now() - timedelta(minutes=asked.window_minutes)
        wanted = Trades(asked.symbol, asked.exchange, since)
        with self._measurements.query("recent"):
            view, stored = self._queries.on_the_table(
                lambda view: (view, self._queries.newest_in(view, wanted, asked.limit))
            )
            tail = self._tail_past(view, wanted)
        rows = _merged(stored, tail, asked.limit)
        query = {
            "symbol": asked.symbol,
            "exchange": asked.exchange,
            "window_minutes": asked.window_minutes,
            "start_time": since,
            "end_time": _now(),  # of the reading, which took in what arrived meanwhile
        }
        meta = {"query": query, "sources": _sources(stored, rows, tail)}
        return _answer(request, rows, meta=meta, pagination=say.page(len(rows), asked.limit))

    def symbols(self, request: Request) -> Response:
        """Every symbol that has a trade."""
        asked = say.asked(request.query_params, say.ExchangeQuestion)
        with self._measurements.query("symbols"):
            return _answer(request, self._queries.symbols(asked.exchange))

    def summary(self, request: Request) -> Response:
        """One symbol's UTC day: open, high, low, close, volume, count, volume-weighted price."""
        asked = say.asked(request.query_params, say.ExchangeQuestion)
        symbol, day = request.path_params["symbol"].upper(), _day(request.path_params["date"])
        with self._measurements.query("summary"):
            found = self._queries.summary(symbol, asked.exchange, day)
        if found is None:
            raise say.RefusedError(404, "NOT_FOUND", f"No trades for {symbol} on {day}")
        return _answer(request, found)

    def stats(self, request: Request) -> Response:
        """What the table holds, as its metadata counts it."""
        return _answer(request, self._queries.on_the_table(_stats))

    def snapshots(self, request: Request) -> Response:
        """The table's latest commits, newest first."""
        asked = say.asked(request.query_params, say.SnapshotsQuestion)
        if asked.table not in ("trades", "trades_v2"):
            raise say.RefusedError(400, "INVALID_TABLE", f"Table {asked.table!r} is not trades_v2")
        view = self._queries.on_the_table(lambda view: view)
        newest_first = sorted(view.snapshots, key=lambda snapshot: snapshot.timestamp_ms, reverse=True)
        found = [_snapshot(one) for one in newest_first[: asked.limit]]
        return _answer(request, found, table_name="trades_v2", pagination=say.page(len(found), asked.limit))

    def _tail_past(self, view: TableView, wanted: Trades) -> Tail | str:
        """The broker's part, or why there is none: without it the table alone is still an answer."""
        try:
            return self._tail.past(ledger.read(view.properties), wanted)
        except TailUnreadableError as error:
            return str(error)


def _answer(request: Request, data: object, *, meta: Mapping[str, object] | None = None, **more: object) -> Response:
    return say.answer(data, correlation_id=request.state.correlation_id, meta=meta, **more)


def _merged(stored: list[TradeRow], tail: Tail | str, limit: int) -> list[TradeRow]:
    """Both parts without the messages they share, the newest `limit` of them, oldest first."""
    unread = () if isinstance(tail, str) else tail.rows
    by_id = {row.message_id: row for row in (*unread, *stored)}
    newest_first = sorted(by_id.values(), key=lambda row: (row.timestamp, row.message_id), reverse=True)
    return newest_first[:limit][::-1]


def _sources(stored: list[TradeRow], rows: list[TradeRow], tail: Tail | str) -> dict[str, object]:
    """How many of the rows came from where, and whether anything is known to be left out."""
    in_table = {row.message_id for row in stored}
    from_table = sum(row.message_id in in_table for row in rows)
    if isinstance(tail, str):
        return {"iceberg": from_table, "kafka": None, "complete": False, "problem": tail}
    return {"iceberg": from_table, "kafka": len(rows) - from_table, "complete": tail.complete, "problem": None}


def _stats(view: TableView) -> dict[str, object]:
    return {
        "s3_endpoint": "",
        "warehouse_path": view.location,
        "connection_active": True,
        "trades_count": view.rows,
        "quotes_count": None,
        "error": None,
        "snapshot_id": view.snapshot.snapshot_id if view.snapshot else None,
        "data_files": len(view.files),
        "data_bytes": sum(file.size for file in view.files),
        "oldest_trade": min((file.oldest for file in view.files), default=None),
        "newest_trade": view.newest,
    }


def _snapshot(one: Snapshot) -> dict[str, object]:
    at = datetime.fromtimestamp(one.timestamp_ms / 1000, UTC).replace(tzinfo=None)
    return {
        "snapshot_id": one.snapshot_id,
        "timestamp": at,
        "manifest_list": one.manifest_list,
        "summary": one.summary,
    }


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise say.RefusedError(400, "VALIDATION_ERROR", f"{text!r} is not a date: expected YYYY-MM-DD") from error

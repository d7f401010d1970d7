"""What the API asks of the trades table, as DuckDB statements over the files that can hold the answer.

DuckDB over all files of a table of a million rows takes 200 ms to find the newest hundred. Almost all of that is
opening files and sorting rows that are not among them, so a query opens the files in question only, newest first, and
reaches back in time no further than it must.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from k2run.k2.platform.queries_files import TableUnreadableError, reaching_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import duckdb

    from k2run.k2.platform.queries_files import DataFile, TableFiles, TableView

Answer = TypeVar("Answer")
Row = tuple[Any, ...]  # of whatever the statement selects

_MEMORY_LIMIT = "512MB"
_THREADS = 2
# Rows looked at first, for each row wanted and besides: the least traded of three symbols has a sixth of them.
_REACH_PER_ROW, _REACH_BESIDES = 4, 1000


class TradeRow(msgspec.Struct, frozen=True, gc=False):
    """A trade as the API answers it: K2's fields in K2's order. Times are UTC and, as in K2, carry no zone."""

    message_id: str
    trade_id: str
    symbol: str
    exchange: str
    asset_class: str
    timestamp: datetime
    price: float
    quantity: float
    currency: str
    side: str
    trade_conditions: str | None
    source_sequence: int | None
    ingestion_timestamp: datetime
    platform_sequence: int | None
    vendor_data: str | None


class Summary(msgspec.Struct, frozen=True):
    """One symbol's day. `volume` keeps its fraction; K2 cuts it to whole coins, 0 for most of a quiet hour."""

    symbol: str
    date: date
    open_price: float
    high_price: float
    low_price: float
    close_price: float
    volume: float
    trade_count: int
    vwap: float


@dataclass(frozen=True, slots=True)
class Trades:
    """Which trades: every bound is inclusive, and None is no bound. Symbols and exchanges are case-sensitive."""

    symbol: str | None = None
    exchange: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def condition(self) -> tuple[str, dict[str, object]]:
        """The WHERE clause and its parameters."""
        clauses = {
            "symbol = $symbol": self.symbol,
            "exchange = $exchange": self.exchange,
            "timestamp >= $since": self.since,
            "timestamp <= $until": self.until,
        }
        asked = {clause: value for clause, value in clauses.items() if value is not None}
        return " AND ".join(asked) or "true", {clause.rpartition("$")[2]: value for clause, value in asked.items()}

    def take(self, row: TradeRow) -> bool:
        """Whether a row is one of these trades."""
        return (
            self.symbol in (None, row.symbol)
            and self.exchange in (None, row.exchange)
            and (self.since is None or row.timestamp >= self.since)
            and (self.until is None or row.timestamp <= self.until)
        )


_COLUMNS = ", ".join(
    f"{name}::DOUBLE" if name in ("price", "quantity") else name for name in TradeRow.__struct_fields__
)
_NEWEST = f"""
    SELECT {_COLUMNS} FROM read_parquet($files) WHERE {{condition}} ORDER BY timestamp DESC, message_id LIMIT $limit
"""  # noqa: S608  the columns are this module's own, the condition's values are parameters
_SYMBOLS = "SELECT DISTINCT filename, symbol, exchange FROM read_parquet($files, filename = true)"
_SUMMARY = """
    SELECT arg_min(price, timestamp)::DOUBLE, max(price)::DOUBLE, min(price)::DOUBLE, arg_max(price, timestamp)::DOUBLE,
           sum(quantity)::DOUBLE, count(*), sum(price::DOUBLE * quantity::DOUBLE) / nullif(sum(quantity::DOUBLE), 0)
    FROM read_parquet($files) WHERE {condition}
"""


class Queries:
    """The questions the API answers from the table. Safe to share between threads: each query has its own cursor."""

    def __init__(self, table: TableFiles) -> None:
        self._table = table
        self._connecting = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._symbols: dict[str, frozenset[tuple[str, str]]] = {}  # by file, which never changes

    def newest(self, trades: Trades, limit: int) -> list[TradeRow]:
        """The newest `limit` of these trades, newest first."""
        return self.on_the_table(lambda view: self.newest_in(view, trades, limit))

    def on_the_table(self, question: Callable[[TableView], Answer]) -> Answer:
        """The answer as of the latest commit, asked once more when compaction removed a file in between."""
        try:
            return question(self._table.view())
        except TableUnreadableError:
            return question(self._table.view())

    def newest_in(self, view: TableView, trades: Trades, limit: int) -> list[TradeRow]:
        """The newest `limit` of these trades as of one commit, newest first."""
        files = view.holding(trades.symbol, trades.since, trades.until)
        rows: list[TradeRow] = []
        for reach in reaching_back(files, limit * _REACH_PER_ROW + _REACH_BESIDES, trades.until):
            since = max((moment for moment in (reach, trades.since) if moment), default=None)
            rows = self._select(files, replace(trades, since=since), limit)
            if len(rows) == limit or since == trades.since:
                break
        return rows

    def symbols(self, exchange: str | None) -> list[str]:
        """Every symbol of the table, or of one exchange in it, sorted."""
        return self.on_the_table(lambda view: self._symbols_of(view, exchange))

    def summary(self, symbol: str, exchange: str | None, day: date) -> Summary | None:
        """One symbol's UTC day; None when it has no trade on it."""
        start = datetime.combine(day, time())
        trades = Trades(symbol, exchange, start, start + timedelta(days=1) - timedelta.resolution)
        row = self.on_the_table(lambda view: self._summary_of(view, trades))
        return Summary(symbol, day, *row) if row else None

    def check(self) -> None:
        """Prove that DuckDB answers."""
        self._cursor().execute("SELECT 1").fetchall()

    def check_newest_file(self, view: TableView) -> None:
        """Prove that the newest file of the table can be opened and holds what its manifest says.

        Raises:
            TableUnreadableError: It cannot be read, or holds another number of rows.
        """
        if view.files:
            newest = view.files[0]
            (count,) = self._run("SELECT count(*) FROM read_parquet($files)", view.files[:1], {})[0]
            if count != newest.rows:
                raise TableUnreadableError(f"{newest.path} holds {count} rows, its manifest says {newest.rows}")

    def _select(self, files: tuple[DataFile, ...], trades: Trades, limit: int) -> list[TradeRow]:
        condition, parameters = trades.condition()
        chosen = tuple(file for file in files if file.holds(trades.symbol, trades.since, trades.until))
        rows = self._run(_NEWEST.format(condition=condition), chosen, {**parameters, "limit": limit})
        return [TradeRow(*row) for row in rows]

    def _symbols_of(self, view: TableView, exchange: str | None) -> list[str]:
        unread = tuple(file for file in view.files if file.path not in self._symbols)
        found: dict[str, set[tuple[str, str]]] = {file.path: set() for file in unread}
        for path, symbol, of in self._run(_SYMBOLS, unread, {}):
            found[path].add((symbol, of))
        known = self._symbols | {path: frozenset(pairs) for path, pairs in found.items()}
        self._symbols = {file.path: known[file.path] for file in view.files}
        return sorted({symbol for file in view.files for symbol, of in known[file.path] if exchange in (None, of)})

    def _summary_of(self, view: TableView, trades: Trades) -> Row | None:
        condition, parameters = trades.condition()
        files = view.holding(trades.symbol, trades.since, trades.until)
        rows = self._run(_SUMMARY.format(condition=condition), files, parameters)
        return rows[0] if rows and rows[0][5] else None

    def _run(self, sql: str, files: Iterable[DataFile], parameters: dict[str, object]) -> list[Row]:
        import duckdb

        paths = [file.path for file in files]
        if not paths:
            return []
        try:
            return self._cursor().execute(sql, {**parameters, "files": paths}).fetchall()
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            raise TableUnreadableError(str(error).splitlines()[0]) from error

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        with self._connecting:
            if self._connection is None:
                # Parquet is built in; an extension would be looked for on the internet.
                self._connection = duckdb.connect(
                    config={
                        "threads": _THREADS,
                        "memory_limit": _MEMORY_LIMIT,
                        "autoinstall_known_extensions": "false",
                        "autoload_known_extensions": "false",
                    }
                )
                self._connection.execute("SET parquet_metadata_cache = true")
        return self._connection.cursor()

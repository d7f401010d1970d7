"""What the API asks of the trades table: of its newest rows in memory, else as DuckDB statements over its files.

Most questions are for the newest rows. Those are kept as they are answered, the newest 5,000 of the table, so that such
a question costs a fraction of a millisecond; a commit adds its own rows to them.

DuckDB over all files of a table of a million rows takes 200 ms to find the newest hundred. Almost all of that is
opening files and sorting rows that are not among them, so a query opens the files in question only, newest first, and
reaches back in time no further than it must.
"""

from __future__ import annotations

import threading
import time as time_module
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from k2run.k2.platform.queries_files import TableFiles, TableUnreadableError, reaching_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import duckdb

    from k2run.k2.platform.queries_files import DataFile, TableView
    from k2run.k2.platform.store_files import FileCache, StoreFiles

Answer = TypeVar("Answer")
Row = tuple[Any, ...]  # of whatever the statement selects

_MEMORY_LIMIT = "512MB"
_THREADS = 2
# Rows looked at first, for each row wanted and besides: the least traded of three symbols has a sixth of them.
_REACH_PER_ROW, _REACH_BESIDES = 4, 1000
_KEPT_ROWS, _MOST_ROWS = (
    5_000,
    10_000,
)  # in memory, about 1.5 KB each: cut to the first above the second
_ROWS_AT_ONCE = 250


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


def _newest_first(rows: list[TradeRow]) -> list[TradeRow]:
    """In the order of answers: newest first, and by id among those of one moment."""
    return sorted(sorted(rows, key=lambda row: row.message_id), key=lambda row: row.timestamp, reverse=True)


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
_SYMBOLS = "SELECT DISTINCT symbol, exchange FROM read_parquet($files)"
_SUMMARY = """
    SELECT arg_min(price, timestamp)::DOUBLE, max(price)::DOUBLE, min(price)::DOUBLE, arg_max(price, timestamp)::DOUBLE,
           sum(quantity)::DOUBLE, count(*), sum(price::DOUBLE * quantity::DOUBLE) / nullif(sum(quantity::DOUBLE), 0)
    FROM read_parquet($files) WHERE {condition}
"""


class NewestRows:
    """The newest rows of one view of the table, all of those after `floor`; `floor` is None when they are all of it."""

    def __init__(self, rows: list[TradeRow], floor: datetime | None) -> None:
        self.rows, self.floor = rows, floor

    def answer(self, trades: Trades, limit: int) -> list[TradeRow] | None:
        """The newest `limit` of these trades, newest first; None when older rows may be among them."""
        found: list[TradeRow] = []
        for row in self.rows:
            if trades.take(row):
                found.append(row)
                if len(found) == limit:
                    break
        if self.floor is None:
            return found
        whole = trades.since is not None and trades.since > self.floor
        return found if whole or (len(found) == limit and found[-1].timestamp > self.floor) else None


class Queries:
    """The questions the API answers from the table. Safe to share between threads: each query has its own cursor."""

    def __init__(self, catalog: str, store: StoreFiles, cache: FileCache, name: str) -> None:
        self.table = TableFiles(catalog, store, name, self.with_newest_rows)
        self._cache = cache
        self._connecting = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._symbols: dict[str, frozenset[tuple[str, str]]] = {}  # by file, which never changes
        self._before: TableView | None = None

    def with_newest_rows(self, view: TableView) -> TableView:
        """The view with the newest rows in it: those of the view before and of the new files, where that is all."""
        before, self._before = self._before, None
        kept: NewestRows | None = before.newest_rows if before else None
        old = {file.location for file in before.files} if before else set()
        new = tuple(file for file in view.files if file.location not in old)
        if kept is not None and len(old) + len(new) == len(view.files):
            fresh = self._newest_of(new, kept.floor)
            rows = _newest_first([*fresh, *kept.rows])
            floor = kept.floor
        else:
            reach = next(reaching_back(view.files, _KEPT_ROWS, None))
            rows, floor = self._newest_of(view.files, reach), reach
        if len(rows) > _MOST_ROWS:
            floor = rows[_KEPT_ROWS].timestamp
            rows = [row for row in rows[:_KEPT_ROWS] if row.timestamp > floor]
        self._before = replace(view, newest_rows=NewestRows(rows, floor))
        return self._before

    def _newest_of(self, files: tuple[DataFile, ...], since: datetime | None) -> list[TradeRow]:
        """The rows after `since`, newest first and one more than are kept at most.

        They are fetched in parts, so that no request waits for all of them.
        """
        trades = Trades(since=since + timedelta.resolution if since else None)
        condition, parameters = trades.condition()
        chosen = [file for file in files if file.holds(None, trades.since, None)]
        if not chosen:
            return []
        found: list[TradeRow] = []
        with self._reading():
            answer = self._cursor().execute(
                _NEWEST.format(condition=condition),
                {**parameters, "limit": _MOST_ROWS + 1, "files": self._cache.paths(chosen)},
            )
            while part := answer.fetchmany(_ROWS_AT_ONCE):
                found.extend(TradeRow(*row) for row in part)
                time_module.sleep(0)
        return found

    def newest(self, trades: Trades, limit: int) -> list[TradeRow]:
        """The newest `limit` of these trades, newest first."""
        return self.on_the_table(lambda view: self.newest_in(view, trades, limit))

    def on_the_table(self, question: Callable[[TableView], Answer]) -> Answer:
        """The answer as of the latest commit, asked once more when compaction removed a file in between."""
        try:
            return question(self.table.view())
        except TableUnreadableError:
            return question(self.table.view())

    def newest_in(self, view: TableView, trades: Trades, limit: int) -> list[TradeRow]:
        """The newest `limit` of these trades as of one commit, newest first."""
        kept: NewestRows | None = view.newest_rows
        if kept is not None and (found := kept.answer(trades, limit)) is not None:
            return found
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
                raise TableUnreadableError(f"{newest.location} holds {count} rows, its manifest says {newest.rows}")

    def _select(self, files: tuple[DataFile, ...], trades: Trades, limit: int) -> list[TradeRow]:
        condition, parameters = trades.condition()
        chosen = tuple(file for file in files if file.holds(trades.symbol, trades.since, trades.until))
        rows = self._run(_NEWEST.format(condition=condition), chosen, {**parameters, "limit": limit})
        return [TradeRow(*row) for row in rows]

    def _symbols_of(self, view: TableView, exchange: str | None) -> list[str]:
        unread = tuple(file for file in view.files if file.location not in self._symbols)
        found: dict[str, set[tuple[str, str]]] = {file.location: set() for file in unread}
        for file in unread:
            found[file.location].update((symbol, of) for symbol, of in self._run(_SYMBOLS, [file], {}))
        known = self._symbols | {location: frozenset(pairs) for location, pairs in found.items()}
        self._symbols = {file.location: known[file.location] for file in view.files}
        return sorted({symbol for file in view.files for symbol, of in known[file.location] if exchange in (None, of)})

    def _summary_of(self, view: TableView, trades: Trades) -> Row | None:
        condition, parameters = trades.condition()
        files = view.holding(trades.symbol, trades.since, trades.until)
        rows = self._run(_SUMMARY.format(condition=condition), files, parameters)
        return rows[0] if rows and rows[0][5] else None

    def _run(self, sql: str, files: Iterable[DataFile], parameters: dict[str, object]) -> list[Row]:
        chosen = list(files)
        if not chosen:
            return []
        with self._reading():
            paths = self._cache.paths(chosen)
            return self._cursor().execute(sql, {**parameters, "files": paths}).fetchall()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what goes wrong with a file into a sentence.

        Raises:
            TableUnreadableError: A file is missing or damaged, or the store does not answer.
        """
        import duckdb

        try:
            yield
        except (duckdb.IOException, duckdb.InvalidInputException, OSError) as error:
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

"""Where the stream's trades come from: a seeded market, a recorded file, or the exchange itself."""

from __future__ import annotations

import importlib
import queue
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from k2run.k2.platform import trade
from k2run.k2.platform.program import give_up, log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from k2run.k2.platform.counters import StreamMetrics

HOSTS = ("wss://stream.binance.com:9443", "wss://stream.binance.us:9443")
FIRST_DELAY_S, LONGEST_DELAY_S, ATTEMPTS = 5.0, 60.0, 10
STALE_S = 60.0  # no trade for this long means a dead connection, even if the socket is open
_KEPT = 100_000  # trades held while the broker does not take them


class Event(msgspec.Struct, rename={"event_time": "E", "symbol": "s", "number": "t", "trade_time": "T", "maker": "m"}):
    """One `trade` event of the exchange; times in milliseconds."""

    event_time: int
    symbol: str
    number: int
    trade_time: int
    maker: bool
    p: str
    q: str


class _Envelope(msgspec.Struct):
    data: Event


_decode = msgspec.json.Decoder(_Envelope).decode


def to_trade(event: Event) -> trade.Trade:
    """The exchange's event in K2's fields: T becomes the timestamp, `m` (buyer is the maker) means a sale."""
    base, quote = trade.split_pair(event.symbol)
    vendor = {
        "is_buyer_maker": str(event.maker).lower(),
        "event_type": "trade",
        "event_time": str(event.event_time),
        "trade_time": str(event.trade_time),
        "base_asset": base,
        "quote_asset": quote,
        "is_best_match": "true",
    }
    return trade.Trade(
        message_id=str(uuid.uuid4()),
        trade_id=f"{trade.EXCHANGE}-{event.number}",
        symbol=event.symbol,
        exchange=trade.EXCHANGE,
        asset_class="crypto",
        timestamp=event.trade_time * 1000,
        price=event.p,
        quantity=event.q,
        currency=quote,
        side="SELL" if event.maker else "BUY",
        ingestion_timestamp=time.time_ns() // 1000,
        vendor_data=msgspec.Raw(trade.encode(vendor)),
    )


def delays() -> Iterator[float]:
    """Seconds to wait before each reconnection: 5, 10, 20, 40, then 60, ten in all."""
    for attempt in range(ATTEMPTS):
        yield min(FIRST_DELAY_S * 2**attempt, LONGEST_DELAY_S)


class Binance:
    """Trades as the exchange sends them; the rate is the exchange's own."""

    def __init__(self, symbols: Sequence[str], metrics: StreamMetrics, stopping: threading.Event) -> None:
        try:
            websocket = importlib.import_module("websockets.sync.client")
        except ImportError:
            give_up("the binance source needs the package websockets: pip install websockets")
        self._connect = websocket.connect
        self._path = "/stream?streams=" + "/".join(f"{symbol.lower()}@trade" for symbol in symbols)
        self._metrics = metrics
        self._stopping = stopping
        self._arrived: queue.Queue[trade.Trade] = queue.Queue(_KEPT)
        threading.Thread(target=self._listen, name="binance", daemon=True).start()

    def take(self, due: int) -> Iterable[trade.Trade]:  # noqa: ARG002  the exchange sets the pace
        """Everything that has arrived."""
        for _ in range(self._arrived.qsize()):
            yield self._arrived.get_nowait()

    def _listen(self) -> None:
        """Connect again and again; a connection that brought a trade makes the delays start over."""
        waits, attempt = delays(), 0
        while not self._stopping.is_set():
            if self._one_connection(HOSTS[attempt % len(HOSTS)]):
                waits, attempt = delays(), 0
            attempt += 1
            delay = next(waits, None)
            if delay is None:
                log("binance_max_reconnects_exceeded", "error", attempts=ATTEMPTS)
                return
            log("binance_reconnecting", "warning", attempt=attempt, delay_seconds=delay)
            self._metrics.reconnects.inc()
            self._stopping.wait(delay)

    def _one_connection(self, host: str) -> bool:
        """Read trades until the connection fails or falls silent; whether there was any."""
        log("binance_connecting", url=host)
        any_trade = False
        try:
            with self._connect(host + self._path, open_timeout=10) as connection:
                self._metrics.connected.set(1)
                log("binance_connected", url=host)
                while not self._stopping.is_set():
                    self._arrived.put(to_trade(_decode(connection.recv(timeout=STALE_S)).data))
                    any_trade = True
        except TimeoutError:
            log("binance_connection_stale_reconnecting", "warning", silent_seconds=STALE_S)
        except Exception as problem:  # noqa: BLE001  whatever ends a connection, the answer is the next one
            log("binance_connection_closed", "warning", error=problem)
            self._metrics.connection_error(type(problem).__name__)
        self._metrics.connected.set(0)
        return any_trade


class Source(Protocol):
    """Something that has trades."""

    def take(self, due: int) -> Iterable[trade.Trade]:
        """The next trades, `due` of them when the source can be paced."""
        ...


class Synthetic:
    """Trades of a seeded market that happen as they are asked for."""

    def __init__(self, symbols: Sequence[str], seed: int) -> None:
        # Trade numbers rise from run to run, like an exchange's, so that a restarted stream repeats none.
        self._market = trade.Market(symbols, seed, first_trade=time.time_ns() // 1_000_000)

    def take(self, due: int) -> Iterable[trade.Trade]:
        """`due` trades of this very moment."""
        now = time.time_ns() // 1000
        return self._market.trades(due, now - 1, now)

    def history(self, count: int, seconds: float) -> Iterable[trade.Trade]:
        """`count` trades spread evenly over the last `seconds`."""
        now = time.time_ns() // 1000
        return self._market.trades(count, now - int(seconds * 1e6), now)


class Replay:
    """The trades of a file, one JSON object a line, as recorded; after the last one the stream falls silent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._lines = path.open("rb")
        except OSError as problem:
            give_up(f"cannot replay {path}: {problem.strerror}")
        self._line = 0
        self._over = False

    def take(self, due: int) -> Iterable[trade.Trade]:
        """The next `due` lines; fewer at the end."""
        for _ in range(0 if self._over else due):
            line = self._lines.readline()
            if not line:
                self._over = True
                log("replay_finished", file=self._path, trades=self._line)
                return
            self._line += 1
            try:
                yield trade.decode(line)
            except msgspec.MsgspecError as problem:
                give_up(f"{self._path}:{self._line}: not a trade: {problem}")


def open_source(
    name: str, symbols: Sequence[str], seed: int, metrics: StreamMetrics, stopping: threading.Event
) -> Source:
    """The source called `synthetic`, `replay:FILE` or `binance`."""
    kind, _, argument = name.partition(":")
    if kind == "binance":
        return Binance(symbols, metrics, stopping)
    metrics.connected.set(1)
    if kind == "replay" and argument:
        return Replay(Path(argument))
    if kind != "synthetic":
        give_up(f"unknown source {name!r}: expected synthetic, replay:FILE or binance")
    return Synthetic(symbols, seed)

"""The stream: trades from a source to the broker at a set rate, and a trickle of reference data beside them."""

from __future__ import annotations

import argparse
import itertools
import time
from typing import TYPE_CHECKING

from k2run.sandbox import reference, trade
from k2run.sandbox.program import LOOPBACK, give_up, log, require_free_port, serve_metrics, stop_signal, wait_until

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

    from k2run.sandbox.outlet import Outlet
    from k2run.sandbox.sources import Source
    from k2run.sandbox.stream_metrics import StreamMetrics

TICK_S = 0.01
PROGRESS_EVERY = 100
HISTORY_S = 20 * 60.0
REFERENCE_EVERY_S = 1.0
FLUSH_S = 1.5  # within the 2 s a program may take to end


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.sandbox.stream", description=__doc__)
    parser.add_argument("--bootstrap", default="127.0.0.1:19092", help="the broker (default: 127.0.0.1:19092)")
    parser.add_argument("--metrics-port", type=int, default=19091, help="port of /metrics (default: 19091)")
    parser.add_argument("--host", default=LOOPBACK, help="address that /metrics listens on (default: this host alone)")
    parser.add_argument("--rate", type=float, default=200.0, help="trades a second (default: 200)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the synthetic market (default: 7)")
    parser.add_argument("--symbols", default="BTCUSDT,ETHUSDT,BNBUSDT", help="comma-separated symbols")
    parser.add_argument("--source", default="synthetic", help="synthetic, replay:FILE.jsonl or binance")
    parser.add_argument(
        "--backfill", type=int, default=0, metavar="N", help="first send N trades spread over the last 20 minutes"
    )
    parser.add_argument(
        "--leave-out", default="", metavar="FIELD", help="send trades without this field, as a producer gone wrong does"
    )
    return parser


class Stream:
    """Moves trades from a source into the broker and keeps count."""

    def __init__(
        self, source: Source, outlet: Outlet, metrics: StreamMetrics, stopping: threading.Event, leave_out: str = ""
    ) -> None:
        self._source = source
        self._leave_out = leave_out
        self._outlet = outlet
        self._metrics = metrics
        self._stopping = stopping
        self._streamed = 0

    def backfill(self, trades: Iterable[trade.Trade]) -> None:
        """Send `trades` as fast as the broker takes them."""
        started = time.monotonic()
        before = self._streamed
        rest = iter(trades)
        while not self._stopping.is_set() and (chunk := list(itertools.islice(rest, 1000))):
            self._send(chunk, progress_every=100 * PROGRESS_EVERY)
        log("backfill_finished", trades=self._streamed - before, duration_seconds=time.monotonic() - started)

    def live(self, rate: float, symbols: tuple[str, ...]) -> None:
        """Send `rate` trades a second, and one symbol's reference data every second, until told to stop."""
        described = reference.rotation(symbols)
        now = time.monotonic()
        trades_until, reference_until = now, now
        while not self._stopping.is_set():
            now = time.monotonic()
            # A stream that was held up has missed trades, as a disconnected one has; it does not make up for them.
            trades_until = max(trades_until, now - 1.0)
            due = int((now - trades_until) * rate)
            trades_until += due / rate if rate else 0.0
            self._send(list(self._source.take(due)), progress_every=PROGRESS_EVERY)
            if now >= reference_until:
                reference_until = now + REFERENCE_EVERY_S
                record = reference.describe(next(described), time.time_ns() // 1000)
                self._outlet.send(reference.TOPIC, record.company_id, reference.encode(record))
            self._stopping.wait(TICK_S)

    def _send(self, trades: list[trade.Trade], progress_every: int) -> None:
        for sent in trades:
            self._outlet.send(trade.TOPIC, sent.symbol, self._encode(sent))
            self._streamed += 1
            if self._streamed % progress_every == 0:
                self._report(sent)
        self._outlet.settle()
        for symbol in {sent.symbol for sent in trades} & self._metrics.received.keys():
            self._metrics.received[symbol].inc(sum(1 for sent in trades if sent.symbol == symbol))
        if trades:
            self._metrics.newest.set(time.time())

    def _encode(self, sent: trade.Trade) -> bytes:
        if not self._leave_out:
            return trade.encode(sent)
        fields = trade.fields(sent)
        fields.pop(self._leave_out, None)
        return trade.encode(fields)

    def _report(self, last: trade.Trade) -> None:
        log(
            "streaming_progress",
            trades_streamed=self._streamed,
            errors=self._outlet.errors,
            symbol=last.symbol,
            last_price=last.price,
            last_quantity=last.quantity,
        )
        print(
            f"Streamed {self._streamed} trades (errors: {self._outlet.errors}) | Last: {last.symbol} @ {last.price}",
            flush=True,
        )


def main() -> None:
    """Run the stream until a signal ends it."""
    options = arguments().parse_args()
    symbols = tuple(filter(None, options.symbols.split(",")))
    if not symbols or options.rate < 0:
        give_up("--symbols needs at least one symbol and --rate must not be negative")
    stopping = stop_signal()
    require_free_port(options.metrics_port, options.host)

    from k2run.sandbox.outlet import Outlet, TopicKeeper
    from k2run.sandbox.sources import Synthetic, open_source
    from k2run.sandbox.stream_metrics import StreamMetrics

    metrics = StreamMetrics(symbols)
    serve_metrics(options.metrics_port, options.host)
    source = open_source(options.source, symbols, options.seed, metrics, stopping)
    keeper = TopicKeeper(options.bootstrap, stopping)
    if not wait_until(keeper.ready, stopping, f"the broker at {options.bootstrap}"):
        return
    keeper.watch()
    outlet = Outlet(options.bootstrap, keeper, metrics)
    stream = Stream(source, outlet, metrics, stopping, options.leave_out)
    log("stream_started", source=options.source, symbols=options.symbols, rate=options.rate)
    if options.backfill and isinstance(source, Synthetic):
        stream.backfill(source.history(options.backfill, HISTORY_S))
    stream.live(options.rate, symbols)
    log("stream_stopped", undelivered=outlet.close(FLUSH_S))


if __name__ == "__main__":
    main()

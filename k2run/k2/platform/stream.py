"""The stream: trades from a source to the broker at a set rate, and a trickle of reference data beside them.

The source is a seeded market, a recorded file, or the exchange itself. Long because each source waits and gives up in
its own way, and the sender follows all of them.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import queue
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from k2run.k2.platform import topics, trade
from k2run.k2.platform.program import (
    LOOPBACK,
    add_broker,
    give_up,
    log,
    require_free_port,
    serve_metrics,
    stop_signal,
    wait_until,
)
from k2run.k2.platform.schemas import RefusedError, RegistryClient, StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from confluent_kafka import Message

    from k2run.k2.platform.counters import StreamMetrics

HOSTS = ("wss://stream.binance.com:9443", "wss://stream.binance.us:9443")
FIRST_DELAY_S, LONGEST_DELAY_S, ATTEMPTS = 5.0, 60.0, 10
STALE_S = 60.0  # no trade for this long means a dead connection, even if the socket is open
_KEPT = 100_000  # trades held while the broker does not take them
LINGER_MS = 200
"""The real platform's is 10. Tansu keeps every batch in memory, with some 1,600 bytes of its own, and each fetch looks
through all that there are: so these are few and large."""
_CHECK_S = 0.5
_PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)  # noqa: SLF001  librdkafka names local errors with _
_FORGOTTEN = (
    KafkaError._FATAL,  # noqa: SLF001
    KafkaError.UNKNOWN_PRODUCER_ID,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
    KafkaError.UNKNOWN,
)
"""The broker does not know the producer any more: it came back, or has another topic of that name. What the producer
had on its way is sent again by another one, refused or not: Tansu may show a message later that it has refused. The
consumer writes each trade once, whatever reached the broker twice."""
TICK_S = 0.01
PROGRESS_EVERY = 100
HISTORY_S = 20 * 60.0
REFERENCE_EVERY_S = 1.0
FLUSH_S = 1.5  # within the 2 s a program may take to end


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


class TopicKeeper:
    """Makes the topics when they are missing and notices when they are not the ones they were."""

    def __init__(self, bootstrap: str, stopping: threading.Event) -> None:
        self._admin = topics.admin(bootstrap)
        self._stopping = stopping
        self._lives: dict[str, str] = {}
        self.generation = 0

    def ready(self) -> bool:
        """Whether the topics exist now; makes the missing ones."""
        try:
            found = topics.ensure(self._admin)
        except KafkaException:
            return False
        if found != self._lives:
            self._lives = found
            self.generation += 1
        return True

    def watch(self) -> None:
        """Check again every half second, in a thread of its own, until told to stop."""
        threading.Thread(target=self._watch, name="topics", daemon=True).start()

    def _watch(self) -> None:
        while not self._stopping.wait(_CHECK_S):
            self.ready()


class TradeProducer:
    """Sends messages with all acknowledgements; what an earlier life of a topic did not take goes to the next."""

    def __init__(self, bootstrap: str, keeper: TopicKeeper, metrics: StreamMetrics) -> None:
        self._settings = {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": LINGER_MS,
            "compression.type": "zstd",
            "message.timeout.ms": 120_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 256 * 1024,
            **topics.CLIENT,
        }
        self._keeper = keeper
        self._metrics = metrics
        self._producer = Producer(self._settings)
        self._generation = keeper.generation
        self._returned: list[Message] = []
        self._forgotten = False
        self._delivered: Counter[str] = Counter()
        self.errors = 0

    def send(self, topic: str, key: str, value: bytes) -> None:
        """Queue one message, waiting while the queue is full, and while a broker that came back has no topics yet."""
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._settled)
            except BufferError:
                self.settle(0.1)
            except KafkaException as error:
                code = error.args[0].code()
                self._forgotten |= code in _FORGOTTEN
                if code not in {*_FORGOTTEN, KafkaError._UNKNOWN_TOPIC}:  # noqa: SLF001 - librdkafka's own name for it
                    raise
                self.settle(0.1)
            else:
                return

    def settle(self, seconds: float = 0.0) -> None:
        """Take in what the broker has answered, waiting at most `seconds` for it."""
        if self._generation != self._keeper.generation:
            self._start_over("the topics are new")
        elif self._forgotten:
            self._start_over("the broker does not know it")
        self._producer.poll(seconds)
        for topic, count in self._delivered.items():
            self._metrics.produced(topic, count)
        self._delivered.clear()

    def close(self, seconds: float) -> int:
        """Wait at most `seconds` for the last answers; the number of messages left without one."""
        left = self._producer.flush(seconds)
        self.settle()
        return left

    def _settled(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._delivered[message.topic() or ""] += 1
        elif error.code() in {*_PURGED, *_FORGOTTEN}:
            self._forgotten |= error.code() in _FORGOTTEN
            self._returned.append(message)
        else:
            self.errors += 1
            self._metrics.failed(message.topic() or "", error.name())
            log("trade_produce_error", "error", error=error.str())

    def _start_over(self, reason: str) -> None:
        """A producer keeps sequence numbers for a topic that is gone and would wait for ever; a new one does not."""
        self._generation = self._keeper.generation
        self._producer.purge()
        self._producer.flush(1)
        returned, self._returned = self._returned, []
        self._producer = Producer(self._settings)
        self._forgotten = False
        log("producer_restarted", "warning", reason=reason, resent=len(returned))
        for message in returned:
            self.send(message.topic() or "", (message.key() or b"").decode(), message.value() or b"")


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.stream", description=(__doc__ or "").partition("\n\n")[0])
    add_broker(parser, "sent")
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


class Form(NamedTuple):
    """How messages are written."""

    trade: Callable[[trade.Trade], bytes]
    reference: Callable[[trade.ReferenceData], bytes]


def json_form(leave_out: str = "") -> Form:
    """Messages as JSON, trades without that field."""

    def trade_without(sent: trade.Trade) -> bytes:
        fields = trade.fields(sent)
        fields.pop(leave_out, None)
        return trade.encode(fields)

    return Form(trade_without if leave_out else trade.encode, trade.encode_reference)


def avro_form(client: RegistryClient, leave_out: str = "") -> Form:
    """Messages as Avro in the registry's frame, their schemas registered; trades without that field.

    Raises:
        RefusedError: The registry does not take a schema.
        StoppedError: The program was told to end while no registry answered.
    """
    from k2run.k2.platform import schemas
    from k2run.k2.platform.avro_trades import Writer

    trades = schemas.without(schemas.TRADE, leave_out) if leave_out else schemas.TRADE
    writers = []
    for topic, kind, schema in (
        (trade.TOPIC, "trades", trades),
        (trade.REFERENCE_TOPIC, "reference_data", schemas.REFERENCE_DATA),
    ):
        ids = {subject: client.register(subject, schema) for subject in schemas.subjects(topic, kind)}
        number = ids[f"{topic}-value"]
        log("schema_registered", topic=topic, schema_id=number, subjects=",".join(ids))
        writers.append(Writer(schema, number))
    return Form(writers[0].trade, writers[1].reference)


class Stream:
    """Moves trades from a source into the broker and keeps count."""

    def __init__(
        self,
        source: Source,
        producer: TradeProducer,
        metrics: StreamMetrics,
        stopping: threading.Event,
        form: Form,
    ) -> None:
        self._source = source
        self._form = form
        self._producer = producer
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
        described = trade.rotation(symbols)
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
                record = trade.describe(next(described), time.time_ns() // 1000)
                self._producer.send(trade.REFERENCE_TOPIC, record.company_id, self._form.reference(record))
            self._stopping.wait(TICK_S)

    def _send(self, trades: list[trade.Trade], progress_every: int) -> None:
        for sent in trades:
            self._producer.send(trade.TOPIC, sent.symbol, self._form.trade(sent))
            self._streamed += 1
            if self._streamed % progress_every == 0:
                self._report(sent)
        self._producer.settle()
        for symbol in {sent.symbol for sent in trades} & self._metrics.received.keys():
            self._metrics.received[symbol].inc(sum(1 for sent in trades if sent.symbol == symbol))
        if trades:
            self._metrics.newest.set(time.time())

    def _report(self, last: trade.Trade) -> None:
        log(
            "streaming_progress",
            trades_streamed=self._streamed,
            errors=self._producer.errors,
            symbol=last.symbol,
            last_price=last.price,
            last_quantity=last.quantity,
        )
        print(
            f"Streamed {self._streamed} trades (errors: {self._producer.errors}) | Last: {last.symbol} @ {last.price}",
            flush=True,
        )


def _form(options: argparse.Namespace, stopping: threading.Event) -> Form:
    if not options.registry:
        return json_form(options.leave_out)
    try:
        return avro_form(RegistryClient(options.registry, stopping), options.leave_out)
    except RefusedError as refused:
        give_up(f"the schema registry does not take the stream's schema: {refused}")


def main() -> None:
    """Run the stream until a signal ends it."""
    options = arguments().parse_args()
    symbols = tuple(filter(None, options.symbols.split(",")))
    if not symbols or options.rate < 0:
        give_up("--symbols needs at least one symbol and --rate must not be negative")
    stopping = stop_signal()
    require_free_port(options.metrics_port, options.host)

    from k2run.k2.platform.counters import StreamMetrics

    metrics = StreamMetrics(symbols)
    serve_metrics(options.metrics_port, options.host)
    source = open_source(options.source, symbols, options.seed, metrics, stopping)
    keeper = TopicKeeper(options.bootstrap, stopping)
    if not wait_until(keeper.ready, stopping, f"the broker at {options.bootstrap}"):
        return
    keeper.watch()
    producer = TradeProducer(options.bootstrap, keeper, metrics)
    try:
        form = _form(options, stopping)
    except StoppedError:
        return
    stream = Stream(source, producer, metrics, stopping, form)
    log("stream_started", source=options.source, symbols=options.symbols, rate=options.rate)
    if options.backfill and isinstance(source, Synthetic):
        stream.backfill(source.history(options.backfill, HISTORY_S))
    stream.live(options.rate, symbols)
    log("stream_stopped", undelivered=producer.close(FLUSH_S))


if __name__ == "__main__":
    main()

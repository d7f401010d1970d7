"""Where the stream's trades come from: a seeded market, a recorded file, or the exchange itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from k2run.sandbox import trade
from k2run.sandbox.program import give_up, log

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Sequence

    from k2run.sandbox.stream_metrics import StreamMetrics


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
        from k2run.sandbox.binance import Binance

        return Binance(symbols, metrics, stopping)
    metrics.connected.set(1)
    if kind == "replay" and argument:
        return Replay(Path(argument))
    if kind != "synthetic":
        give_up(f"unknown source {name!r}: expected synthetic, replay:FILE or binance")
    return Synthetic(symbols, seed)

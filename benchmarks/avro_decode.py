"""How fast one core decodes framed trades, and turns them into columns; beside it the general decoder and JSON.

python benchmarks/avro_decode.py [--trades 50000]
"""

from __future__ import annotations

import argparse
import gc
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from k2run.k2.platform import avro_trades, rows, schemas, trade
from k2run.k2.trade_generator import framed_trades

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
NUMBER = 7
BAR = 150_000
"""Trades a second, of one core, that a drain of 50,000 rows a second needs."""


class Registered:
    """A registry's client that knows TradeV2."""

    def schema(self, _number: int, _subject: str) -> Any:
        return schemas.TRADE


def best(count: int, do: Callable[[], object]) -> float:
    """The best of some rounds, a second of the processor."""
    rates = []
    for _ in range(ROUNDS):
        started = time.process_time()
        do()
        rates.append(count / (time.process_time() - started))
    return max(rates)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--trades", type=int, default=50_000)
    count = options.parse_args().trades
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)  # as the consumer has it
    form = rows.forms(Registered())[0]  # type: ignore[arg-type]  # all that is asked of it
    market = trade.Market(["BTCUSDT", "ETHUSDT", "BNBUSDT"], 1, 10**12)
    single = list(market.trades(count, 1_772_600_000_000_000, 1_772_600_100_000_000))
    writer, parsed = avro_trades.Writer(schemas.TRADE, NUMBER), avro_trades.parsed(schemas.TRADE)
    values = [writer.trade(one) for one in single]
    bursts = [
        value for _, value in islice(framed_trades("K2RUN-", 1, ["BTCUSDT", "ETHUSDT", "BNBUSDT"], NUMBER), count)
    ]
    slowest = best(count, lambda: avro_trades.decode(values))
    print(f"by hand, times of their own    {slowest:>9,.0f}/s")
    print(f"by hand, in bursts             {best(count, lambda: avro_trades.decode(bursts)):>9,.0f}/s")
    few = values[: count // 5]
    general = best(len(few), lambda: [avro_trades.decode_any(value, parsed, parsed) for value in few])
    print(f"by the general decoder         {general:>9,.0f}/s")
    taken = [rows.Taken(0, at, value) for at, value in enumerate(values)]
    print(f"to columns                     {best(count, lambda: form.columns(form.read(taken).records, {})):>9,.0f}/s")
    plain = [rows.Taken(0, at, trade.encode(one)) for at, one in enumerate(single)]
    read = best(count, lambda: rows.TRADES.columns(rows.TRADES.read(plain).records, {}))
    print(f"JSON to columns                {read:>9,.0f}/s")
    encoded = best(len(few), lambda: [writer.trade(one) for one in single[: len(few)]])
    print(f"encoded by the stream          {encoded:>9,.0f}/s")
    print(f"bar {BAR:,}/s: {'met' if slowest >= BAR else 'MISSED'}")


if __name__ == "__main__":
    main()

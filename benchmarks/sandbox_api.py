"""Latency of /v1/trades?symbol=...&limit=100 on a million rows, asked at a steady rate.

    python benchmarks/sandbox_api.py                  a table written in ten commits of 100,000 rows, standing still
    python benchmarks/sandbox_api.py --live           the table the consumer made of a backlog, while trades keep coming

The bar is p99 < 50 ms at 20 requests a second. Requests leave by the clock, whether or not earlier ones have been
answered, and a latency counts from the moment the request was due. An answer that is not 200 or has not 100 rows of its
symbol is not a sample but an error.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from sandbox_programs import KEY, Programs, Storage, free_port, programs, start_registries, start_storage

from k2run.k2.platform.trade import Market

if TYPE_CHECKING:
    from collections.abc import Sequence

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT")
LIMIT = 100
COMMITS = 10
BAR_MS = 50.0
NOBODY = "127.0.0.1:9"


def write_table(storage: Storage, rows: int) -> None:
    from k2run.k2.platform import table
    from k2run.k2.platform.rows import trade_columns

    trades = table.open_table(table.open_catalog(storage.catalog, storage.s3_endpoint), table.TRADES)
    market, end = Market(SYMBOLS, seed=7, first_trade=1), time.time_ns() // 1000
    span = 20 * 60 * 1_000_000 // COMMITS
    for commit in range(COMMITS):
        start = end - span * (COMMITS - commit)
        trades.append(trade_columns(list(market.trades(rows // COMMITS, start, start + span)), {}))
    print(f"wrote {trades.current_snapshot().summary['total-records']} rows")  # type: ignore[union-attr,index]


def start_live(run: Programs, storage: Storage, rows: int) -> tuple[str, ...]:
    """A broker with a backlog of `rows`, 200 trades a second after it, and the consumer; options for the API."""
    bootstrap = f"127.0.0.1:{free_port()}"
    run.start("broker", "--port", bootstrap.rpartition(":")[2])
    where = ("--bootstrap", bootstrap, *start_registries(run))
    run.start("stream", *where, "--metrics-port", free_port(), "--backfill", rows, "--rate", 200)
    state = ("--state", run.directory / "consumer")
    run.start("consumer", *where, "--metrics-port", free_port(), *storage.options, *state)
    return where


def stats(client: httpx.Client) -> dict[str, int]:
    try:
        answer = client.get("/v1/stats")
    except httpx.TransportError:
        return {"trades_count": -1}
    return answer.json()["data"] if answer.status_code == 200 else {"trades_count": -1}


def ask(client: httpx.Client, symbol: str, due: float) -> float | str:
    """Milliseconds from when the request was due, or what was wrong with its answer."""
    time.sleep(max(0.0, due - time.perf_counter()))
    try:
        answer = client.get("/v1/trades", params={"symbol": symbol, "limit": LIMIT})
    except httpx.HTTPError as error:
        return type(error).__name__
    took = (time.perf_counter() - due) * 1000
    if answer.status_code != 200:
        return str(answer.status_code)
    found = [row for row in answer.json()["data"] if row["symbol"] == symbol]
    return took if len(found) == LIMIT else f"{len(found)} rows"


def measure(client: httpx.Client, rate: float, seconds: float) -> list[float | str]:
    start = time.perf_counter() + 0.2
    symbols = itertools.cycle(SYMBOLS)
    with ThreadPoolExecutor(16) as threads:
        due = [start + number / rate for number in range(int(rate * seconds))]
        asked = [threads.submit(ask, client, next(symbols), moment) for moment in due]
        return [one.result() for one in asked]


def report(found: Sequence[float | str], rate: float) -> None:
    samples = sorted(one for one in found if isinstance(one, float))
    errors = [one for one in found if isinstance(one, str)]
    p50, p95, p99 = (samples[min(len(samples) - 1, int(len(samples) * share))] for share in (0.50, 0.95, 0.99))
    print(
        f"{len(samples)} samples at {rate:g}/s: p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms, "
        f"max {samples[-1]:.1f} ms; {len(errors)} errors {sorted(set(errors))}; bar p99 < {BAR_MS:.0f} ms; "
        f"load average {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--live", action="store_true", help="measure beside a running stream and consumer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="k2-api-") as name, programs(Path(name)) as run:
        storage, port = start_storage(run), free_port()
        broker = start_live(run, storage, options.rows) if options.live else ("--bootstrap", NOBODY)
        if not options.live:
            write_table(storage, options.rows)
        run.start("api", "--port", port, *broker, *storage.options, "--cache", run.directory / "cache")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=KEY, timeout=10) as client:
            deadline = time.monotonic() + 180
            while stats(client)["trades_count"] < options.rows:
                if time.monotonic() > deadline:
                    raise SystemExit(f"not {options.rows} rows within 180 s: {stats(client)}")
                time.sleep(0.2)
            held = stats(client)
            print(f"{held['trades_count']} rows in {held['data_files']} files, {held['data_bytes'] / 1e6:.0f} MB")
            measure(client, options.rate, 2)  # connections and first reads are not what is measured
            report(measure(client, options.rate, options.seconds), options.rate)


if __name__ == "__main__":
    main()

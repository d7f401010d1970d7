"""Counts what a fault loses: probe trades sent throughout, acknowledged by the broker, and looked up in the table."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from k2run.actions.deadline import Deadline
from k2run.errors import K2runError
from k2run.recovery.drill import Cost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from k2run.engine.dispatch import Caller

BATCH = 5
PAUSE_S = 0.2
"""Seconds between two batches: the resolution at which a loss can be seen."""
SEND_S = 5.0
LOOK_S = 15.0


def ledger_of(roles: Mapping[str, Any]) -> Callable[[Caller, str], TradeLedger] | None:
    """How to count the loss of a drill on a stack with a topic, a table and probe messages; None for others."""
    if not {"topic", "table", "format", "probe"} <= roles.keys():
        return None
    return lambda caller, tag: TradeLedger(caller, roles, tag)


class TradeLedger:
    """Sends probe trades from beginning to end, whatever is broken meanwhile.

    Args:
        caller: Calls the actions.
        roles: Those of the stack: topic, table, and how a probe is made.
        tag: Part of the ids of its trades.
    """

    def __init__(self, caller: Caller, roles: Mapping[str, Any], tag: str) -> None:
        self._caller = caller
        self._roles = roles
        self._table = str(roles["table"])
        self._tag = tag
        self._acked = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send, name="ledger", daemon=True)

    def begin(self) -> None:
        """Start sending."""
        self._thread.start()

    def end(self) -> None:
        """Stop sending."""
        self._stopped.set()
        self._thread.join(SEND_S + 1)

    def settle(self, deadline: Deadline) -> Cost:
        """Wait until all that was acknowledged is in the table, or the deadline; then count.

        Raises:
            K2runError: The table could not be read.
            Interrupted: The run was asked to end.
        """
        while True:
            rows, ids = self._found(deadline)
            if ids >= self._acked:
                break
            try:
                deadline.sleep(1.0)
            except K2runError:
                deadline = Deadline(LOOK_S)
                rows, ids = self._found(deadline)
                break
        return Cost(acked=self._acked, lost=max(0, self._acked - ids), doubled=rows - ids)

    def _send(self) -> None:
        args = {
            "topic": self._roles["topic"],
            "count": BATCH,
            "template": self._roles["probe"].template,
            "symbols": [self._roles["probe"].key],
            "format": str(self._roles["format"]),
            "subject": self._roles.get("subject", ""),
            "tag": self._tag,
            "allow_failed": True,
        }
        while not self._stopped.wait(PAUSE_S):
            try:
                self._acked += self._caller.call("kafka.produce", args, Deadline(SEND_S)).acked
            except K2runError:
                continue  # what was not acknowledged is not lost

    def _found(self, deadline: Deadline) -> tuple[int, int]:
        name = self._table.rpartition(".")[2]
        sql = (
            f"select count(*) as n, count(distinct message_id) as ids from {name} "  # noqa: S608 - names of a runbook
            f"where trade_id like 'K2RUN-{self._tag}-%'"
        )
        found: Any = self._caller.call("duckdb.query", {"table": self._table, "sql": sql}, deadline)
        return found.rows[0]["n"], found.rows[0]["ids"]

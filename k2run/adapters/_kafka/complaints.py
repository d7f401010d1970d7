"""What a Kafka client says while it tries in vain: its errors tell no more than that the time is over."""

from __future__ import annotations

import logging
import re
from collections import deque
from typing import TYPE_CHECKING

from k2run.errors import Refused, Unreachable

if TYPE_CHECKING:
    from k2run.errors import ActionError

KEPT = 50
_SEE = "see connections.kafka.config in the stack file"
_LOST = re.compile(
    r"^FAIL \[\S+\] \[thrd:[^\]]*\]: (?P<said>.*?) \(after \d+ms in state (?P<state>[A-Z_0-9]+)\b", re.DOTALL
)
"""A connection that was lost, and how far it had come; librdkafka's own words."""


class Complaints:
    """Hears the log of one or more clients.

    Attributes:
        logger: To be given to the clients; what they log goes nowhere else.
    """

    def __init__(self) -> None:
        self.logger = logging.Logger("k2run.kafka")  # noqa: LOG001 - not shared: each hears its own clients
        self._said: deque[str] = deque(maxlen=KEPT)
        self.logger.addHandler(_Ear(self._said))

    def cause(self, address: str) -> ActionError | None:
        """Why a cluster lets nobody in, when the last lost connection tells that.

        Args:
            address: Of the cluster, for the message.
        """
        lost = next((found for line in reversed(self._said) if (found := _LOST.match(line))), None)
        if lost is None:
            return None
        said, state = lost["said"], lost["state"]
        if state.startswith("AUTH"):
            return Refused(
                f"Kafka at {address} refuses the login: {said}",
                hint=f"{_SEE}: sasl.mechanism, sasl.username, sasl.password, security.protocol",
            )
        if state == "SSL_HANDSHAKE":
            return Refused(
                f"Kafka at {address} and k2run agree on no TLS: {said}",
                hint=f"{_SEE}: security.protocol, ssl.ca.location",
            )
        if state in {"APIVERSION_QUERY", "UP"}:
            return Unreachable(
                f"Kafka at {address} hangs up when it is asked: {said}",
                hint=f"is it a Kafka broker, and does it want TLS or a login? {_SEE}: security.protocol",
            )
        return None


class _Ear(logging.Handler):
    def __init__(self, said: deque[str]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())

"""One conversation with a Kafka cluster: its clients, their deadlines, and what their errors mean to a runbook."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Self, TypeVar

from msgspec import structs

from k2run.actions.connection import Connection, Site
from k2run.adapters.schema_registry.client import SchemaRegistry
from k2run.errors import Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from confluent_kafka import Consumer, KafkaError, Producer
    from confluent_kafka.admin import AdminClient

    from k2run.actions.deadline import Deadline
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
        """Why a cluster refuses every connection, when the last lost connection tells that."""
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
                f"Kafka at {address} and k2run: TLS handshake failed:  {said}",
                hint=f"{_SEE}: security.protocol, ssl.ca.location",
            )
        if state in {"APIVERSION_QUERY", "UP"}:
            return Unreachable(
                f"Kafka at {address} closes the connection: {said}",
                hint=f"is it a Kafka broker, and does it want TLS or a login? {_SEE}: security.protocol",
            )
        return None


class _Ear(logging.Handler):
    def __init__(self, said: deque[str]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())


T = TypeVar("T")
Setting = str | int | float | bool

ANSWER_S = 5.0
"""How long one request may take; a broker that needs longer is down for every purpose of a runbook."""
CONNECT_S = 3.0
CLOSE_S = 1.0

# A client that outlives a broker's restart would otherwise wait up to 10 s before it tries again.
_PATIENCE = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500}


class Kafka(Connection, frozen=True, kw_only=True, key="kafka"):
    """A Kafka cluster.

    Attributes:
        bootstrap: `host:port`, or several with commas between.
        config: Further settings of librdkafka, as they are: TLS (`security.protocol`, `ssl.ca.location`), SASL, ….
        registry: The schema registry of its messages; without it the one of the stack, where it has one.
    """

    bootstrap: str
    config: dict[str, Setting] = {}
    registry: SchemaRegistry | None = None

    @classmethod
    def of(cls, site: Site) -> Self:
        """This cluster as the stack describes it, with the stack's schema registry."""
        kafka = super().of(site)
        if kafka.registry is not None or site.settings(SchemaRegistry.key) is None:
            return kafka
        return structs.replace(kafka, registry=SchemaRegistry.of(site))


class Link:
    """A cluster that has been seen to listen, with an admin client made when first asked for.

    Args:
        kafka: Where it is.
        deadline: Bounds every request made through this link.

    Raises:
        Unreachable: No bootstrap address accepts a connection.
    """

    def __init__(self, kafka: Kafka, deadline: Deadline) -> None:
        self.kafka = kafka
        self.deadline = deadline
        self._admin: AdminClient | None = None
        self._complaints = Complaints()
        self._answered = False
        _knock(kafka, deadline)

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"kafka {self.kafka.bootstrap}"

    @property
    def admin(self) -> AdminClient:
        """The admin client of this link."""
        if self._admin is None:
            from confluent_kafka.admin import AdminClient

            with self.judged("connect"):
                self._admin = AdminClient(self.settings())
        return self._admin

    @contextlib.contextmanager
    def consumer(self, settings: Mapping[str, Setting]) -> Iterator[Consumer]:
        """A consumer that commits nothing and joins no group as long as it is assigned its partitions."""
        from confluent_kafka import Consumer

        with self.judged("connect"):
            consumer = Consumer({**self.settings(), "group.id": "k2run", "enable.auto.commit": False, **settings})
        patience = CLOSE_S
        try:
            yield consumer
            # The broker answers, so it can end in order. It must: librdkafka ends the process when a topic is deleted
            # under a fetch and the answer names none, as Tansu's does.
            patience = ANSWER_S
        finally:
            # It waits without a limit for a broker that has gone in the middle of a request.
            closing = threading.Thread(target=consumer.close, daemon=True)
            closing.start()
            closing.join(patience)

    def producer(self, settings: Mapping[str, Setting]) -> Producer:
        """A producer; what the stack says under `config` goes before `settings`."""
        from confluent_kafka import Producer

        with self.judged("connect"):
            return Producer({**settings, **self.settings()})

    def settings(self) -> dict[str, Any]:  # Any: one of them is a logger
        """The settings that every client has."""
        own = {"bootstrap.servers": self.kafka.bootstrap, "logger": self._complaints.logger}
        return {**_PATIENCE, **own, **self.kafka.config}

    def ask(self, request: Callable[..., T], *args: Any, **settings: Any) -> T:
        """Call a method of the admin client with a request timeout; it returns futures."""
        with self.judged(request.__name__):
            return request(*args, request_timeout=self.deadline.at_most(ANSWER_S), **settings)

    def answer(self, future: Future[T], doing: str) -> T:
        """What the cluster answered.

        `doing` is what was asked, for the message of an error: "describe topic 'orders'".

        Raises:
            Unreachable: No answer in time.
            TimedOut: The deadline passed while a cluster that had answered before was asked once more.
            Refused: The cluster said no.
            Unknown: There is no such topic or group.
        """
        with self.judged(doing):
            # librdkafka's own timeout comes first; this one only guards against a client that never answers.
            told = future.result(self.deadline.at_most(ANSWER_S) + 0.3)
        self._answered = True
        return told

    @contextlib.contextmanager
    def judged(self, doing: str) -> Iterator[None]:
        """Turn the client's errors into those of k2run."""
        from confluent_kafka import KafkaException

        try:
            yield
        except KafkaException as error:
            raise self.judge(error.args[0], doing) from error
        except TimeoutError as error:
            raise self._no_answer(doing, "no answer in time") from error

    def judge(self, error: KafkaError, doing: str) -> ActionError:
        """What a Kafka error means: no broker, no such thing, or a refusal."""
        code = error.code()
        if code in _codes(_SILENCE):
            return self._no_answer(doing, error.str())
        if code in _codes(_ABSENCE):
            return Unknown(f"cannot {doing} at {self.kafka.bootstrap}: {error.str()}", hint="check the name")
        hint = "see connections.kafka.config in the stack file" if code in _codes(_ENTRY) else ""
        return Refused(f"{self.kafka.bootstrap} refused to {doing}: {error.str()}", hint=hint)

    def _no_answer(self, doing: str, cause: str) -> ActionError:
        """Why nothing came: what the client noticed meanwhile tells more than that the time is up."""
        if self._admin is not None:
            self._admin.poll(0)  # hands over what it has logged
        told = self._complaints.cause(self.kafka.bootstrap)
        if told is not None:
            return told
        if self._answered and self.deadline.has_passed(within=0.1):  # librdkafka counts in whole milliseconds
            late = f"not done within {self.deadline.seconds:g}s"
            return TimedOut(
                f"{late}; last, Kafka at {self.kafka.bootstrap} was asked to {doing}",
                hint="raise the step's timeout, or find what is slow",
            )
        return Unreachable(
            f"Kafka at {self.kafka.bootstrap} gave no answer to: {doing} ({cause})",
            hint="is it a Kafka broker, and do its advertised listeners reach this host?",
        )


_SILENCE = (
    "_TRANSPORT",
    "_ALL_BROKERS_DOWN",
    "_RESOLVE",
    "_TIMED_OUT",
    "_TIMED_OUT_QUEUE",
    "_MSG_TIMED_OUT",
    "_WAIT_COORD",
    "REQUEST_TIMED_OUT",
    "BROKER_NOT_AVAILABLE",
    "COORDINATOR_NOT_AVAILABLE",
    "NETWORK_EXCEPTION",
)
_ABSENCE = ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "GROUP_ID_NOT_FOUND", "_NOENT")
_ENTRY = (
    "_AUTHENTICATION",
    "_SSL",
    "_INVALID_ARG",
    "SASL_AUTHENTICATION_FAILED",
    "UNSUPPORTED_SASL_MECHANISM",
    "ILLEGAL_SASL_STATE",
    "TOPIC_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED",
    "CLUSTER_AUTHORIZATION_FAILED",
)


def _codes(names: Iterable[str]) -> frozenset[int]:
    from confluent_kafka import KafkaError

    return frozenset(getattr(KafkaError, name) for name in names)


def _knock(kafka: Kafka, deadline: Deadline) -> None:
    """Connect to one bootstrap address and hang up: a closed port is told at once and with its cause.

    librdkafka would go on trying until the timeout and then say no more than that it timed out.
    """
    causes = []
    addresses = [address.strip() for address in kafka.bootstrap.split(",") if address.strip()]
    for address in addresses:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), deadline.at_most(CONNECT_S)).close()
        except ValueError:
            causes.append(f"{address!r} is not host:port")
        except OSError as error:
            causes.append(error.strerror or str(error))
        else:
            return
    raise Unreachable(
        f"no Kafka broker listens at {kafka.bootstrap or '(no address)'}: {'; '.join(dict.fromkeys(causes))}",
        hint="is it running? see connections.kafka.bootstrap in the stack file",
    )

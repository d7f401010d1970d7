"""One connection to a RabbitMQ broker, under a deadline and with errors that say who must act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from k2run.actions.connection import Connection
from k2run.adapters._clients import apart, require_client
from k2run.adapters.http.client import Api, basic
from k2run.errors import ActionError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika import BlockingConnection
    from pika.adapters.blocking_connection import BlockingChannel

    from k2run.actions.deadline import Deadline

T = TypeVar("T")
_SETTING = "see connections.rabbitmq in the stack file"
_OK = 200
_NOT_FOUND = 404


class Rabbitmq(Connection, frozen=True, kw_only=True, key="rabbitmq"):
    """A RabbitMQ broker.

    Attributes:
        host: Name or address.
        port: TCP port for AMQP 0-9-1.
        vhost: The virtual host.
        user: Who logs in.
        password: Their password.
        tls: Whether the connection is encrypted, and the broker's certificate and name are verified.
        ca: File with the certificates to trust, instead of the system's.
        management: URL of the management plugin, for what AMQP does not tell: alarms, nodes, unacknowledged messages.
    """

    host: str = "127.0.0.1"
    port: int = 5672
    vhost: str = "/"
    user: str = "guest"
    password: str = ""
    tls: bool = False
    ca: str = ""
    management: str = ""

    @property
    def address(self) -> str:
        """Where it is."""
        return f"{self.host}:{self.port}/{self.vhost.lstrip('/')}"

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"rabbitmq {self.address}"


def managed(rabbitmq: Rabbitmq, deadline: Deadline, path: str, kind: Any) -> Any:
    """What the management plugin says; None where the stack names none.

    Raises:
        Refused: It does not let this user in.
        Unreachable: It does not answer.
    """
    if not rabbitmq.management:
        return None
    url, headers = rabbitmq.management, basic(rabbitmq.user, rabbitmq.password)
    api = Api("the management plugin of RabbitMQ", url, "connections.rabbitmq.management", headers)
    answer = api.ask(deadline, path)
    if answer.status != _OK:
        raise api.refusal(answer, f"show {path}")
    return api.read(answer, kind)


def on_channel(rabbitmq: Rabbitmq, deadline: Deadline, work: Callable[[BlockingChannel], T], what: str) -> T:
    """What some work on a channel returns.

    Args:
        rabbitmq: Where to.
        deadline: Of the step.
        work: With the channel.
        what: For the error when it does not exist.
    """
    return ask(rabbitmq, deadline, lambda link: work(link.channel()), what)


def ask(rabbitmq: Rabbitmq, deadline: Deadline, work: Callable[[BlockingConnection], T], what: str = "") -> T:
    """What some work on a connection of its own returns.

    Raises:
        Unreachable: Nothing answers, or it is no RabbitMQ.
        Refused: The broker says no, or the client is not installed here.
        Unknown: It has no such thing.
        TimedOut: The deadline passed first.
    """
    require_client("rabbitmq", "pika")
    from pika.adapters.utils.connection_workflow import AMQPConnectorException
    from pika.exceptions import AMQPError

    try:
        return apart(lambda: _session(rabbitmq, deadline, work), deadline)
    except TimedOut as error:
        message = f"{rabbitmq.address} has not answered within {deadline.seconds:g}s"
        hint = f"is it up, and does an alarm block its publishers? {_SETTING}, or raise the step's timeout"
        raise TimedOut(message, hint=hint) from error
    except (AMQPError, AMQPConnectorException, OSError, ValueError) as error:
        raise _judge(rabbitmq, error, what) from error


def _session(rabbitmq: Rabbitmq, deadline: Deadline, work: Callable[[BlockingConnection], T]) -> T:
    import logging
    import ssl

    import pika

    logging.getLogger("pika").addHandler(logging.NullHandler())  # it prints what it also raises
    left = deadline.remaining()
    tls = pika.SSLOptions(ssl.create_default_context(cafile=rabbitmq.ca or None), rabbitmq.host)
    link = pika.BlockingConnection(
        pika.ConnectionParameters(
            rabbitmq.host,
            rabbitmq.port,
            rabbitmq.vhost,
            pika.PlainCredentials(rabbitmq.user, rabbitmq.password),
            connection_attempts=1,
            socket_timeout=left,
            stack_timeout=left,
            blocked_connection_timeout=left,
            ssl_options=tls if rabbitmq.tls else None,
        )
    )
    try:
        return work(link)
    finally:
        if link.is_open:
            link.close()


def _judge(rabbitmq: Rabbitmq, error: Exception, what: str) -> ActionError:
    from pika import exceptions as known

    cause = _cause(error).replace(rabbitmq.password or "\0", "***")
    where = rabbitmq.address
    match error:
        case known.ProbableAuthenticationError() | known.ProbableAccessDeniedError() | known.AuthenticationError():
            verdict: ActionError = Refused(f"{where} refuses: {cause}", hint=f"user, password, vhost: {_SETTING}")
        case known.ChannelClosedByBroker() if error.reply_code == _NOT_FOUND:
            verdict = Unknown(f"{where} has no {what}", hint="are its name and the vhost right?")
        case known.UnroutableError():
            verdict = Refused(f"{where} has no queue for the message", hint="are exchange and routing_key right?")
        case known.NackError():
            verdict = Refused(f"{where} did not take the message", hint="is the queue full, or its leader away?")
        case known.ChannelClosedByBroker() | known.ConnectionClosedByBroker():
            verdict = Refused(f"{where} refuses: {cause}", hint=_SETTING)
        case known.IncompatibleProtocolError() | known.ProtocolVersionMismatch() | known.InvalidFrameError():
            verdict = Refused(f"{where} does not speak AMQP 0-9-1: {cause}", hint=_SETTING)
        case FileNotFoundError() if error.filename:
            verdict = Refused(f"{error.filename} is missing on this machine", hint=f"ca: {_SETTING}")
        case _:
            verdict = Unreachable(f"{where} does not answer: {cause}", hint=f"is it up, and RabbitMQ? {_SETTING}")
    return verdict


def _cause(error: BaseException) -> str:
    """What an error says; pika wraps the socket's own error several times, and often says nothing itself."""
    inner = getattr(error, "exception", None) or next((one for one in error.args if isinstance(one, Exception)), None)
    return _cause(inner) if inner is not None else " ".join(str(error).split()) or type(error).__name__

"""One connection to a NATS server, under a deadline and with errors that say who must act."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from k2run.actions.connection import Connection
from k2run.adapters._clients import punctually, require_client
from k2run.errors import ActionError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from nats.aio.client import Client
    from nats.js import JetStreamContext

    from k2run.actions.deadline import Deadline

T = TypeVar("T")
_SETTING = "see connections.nats in the stack file"
_LET_IN = ("authorization", "authentication", "permissions", "nkeys", "user credentials")


class Nats(Connection, frozen=True, kw_only=True, key="nats"):
    """A NATS server, or a cluster of them.

    Attributes:
        servers: URLs, tried one after another: `nats://10.0.0.1:4222`, `tls://…`, `ws://…`.
        user: Who logs in.
        password: Their password.
        token: To log in with, instead of a user.
        credentials: File with a user's JWT and seed (`.creds`).
        ca: File with the certificates to trust, instead of the system's.
    """

    servers: list[str]
    user: str = ""
    password: str = ""
    token: str = ""
    credentials: str = ""
    ca: str = ""

    @property
    def address(self) -> str:
        """Where it is."""
        return ", ".join(self.servers)


def ask_streams(
    nats: Nats, deadline: Deadline, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]], what: str
) -> T:
    """What some work with the streams of a server returns."""
    return ask(nats, deadline, lambda client: work(client.jetstream(timeout=deadline.remaining())), what)


def ask(nats: Nats, deadline: Deadline, work: Callable[[Client], Coroutine[Any, Any, T]], what: str = "") -> T:
    """What some work on a connection of its own returns.

    Args:
        nats: Where to.
        deadline: Of the step.
        work: With the client.
        what: For the error when it does not exist.

    Raises:
        Unreachable: Nothing answers, or it is no NATS.
        Refused: The server says no, or the client is not installed here.
        Unknown: It has no such thing.
        TimedOut: The deadline passed first.
    """
    if nats.credentials and not Path(nats.credentials).is_file():  # the client reads it only where it is asked for
        raise Refused(f"{nats.credentials} is missing on this machine", hint=f"credentials: {_SETTING}")
    require_client("nats", "nats", *(["nkeys"] if nats.credentials else []))
    from nats.errors import Error

    try:
        return punctually(_session(nats, deadline, work), deadline)
    except TimedOut as error:
        message = f"{nats.address} has not answered within {deadline.seconds:g}s"
        raise TimedOut(message, hint=f"is it up and healthy? {_SETTING}, or raise the step's timeout") from error
    except (Error, OSError, ValueError) as error:
        raise _judge(nats, error, what) from error


async def _session(nats: Nats, deadline: Deadline, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    import ssl

    from nats.aio.client import Client
    from nats.errors import NoServersError

    heard: list[Exception] = []

    async def hear(error: Exception) -> None:
        heard.append(error)

    given: dict[str, Any] = {
        "user": nats.user,
        "password": nats.password,
        "token": nats.token,
        "user_credentials": nats.credentials,
    }
    client = Client()
    try:
        await client.connect(
            servers=list(nats.servers),
            allow_reconnect=False,
            max_reconnect_attempts=1,  # a step says itself how often it tries
            reconnect_time_wait=0,
            connect_timeout=max(1, round(deadline.remaining())),
            error_cb=hear,
            tls=ssl.create_default_context(cafile=nats.ca) if nats.ca else None,
            **{name: value for name, value in given.items() if value},
        )
    except NoServersError as error:
        raise heard[-1] if heard else error from error
    try:
        return await work(client)
    finally:
        await client.close()


def _judge(nats: Nats, error: Exception, what: str) -> ActionError:
    from nats import errors as known
    from nats.js import errors as streams

    cause = " ".join(str(error).split()) or type(error).__name__
    for secret in filter(None, (nats.password, nats.token)):
        cause = cause.replace(secret, "***")
    match error:
        case streams.NotFoundError() | streams.NoStreamResponseError():
            verdict: ActionError = Unknown(f"{nats.address} has no {what}", hint="are the names right?")
        case streams.ServiceUnavailableError() | known.NoRespondersError():
            hint = "is JetStream on, and does it have a leader?"
            verdict = Unknown(f"{nats.address} keeps no streams: {cause}", hint=hint)
        case streams.APIError():
            verdict = Refused(f"{nats.address} refuses: {cause}")
        case _ if any(word in cause.lower() for word in _LET_IN):
            verdict = Refused(f"{nats.address} refuses the login: {cause}", hint=f"user, password, token: {_SETTING}")
        case known.MaxPayloadError():
            verdict = Refused(f"{nats.address} refuses: {cause}", hint="nats.health says its max_payload")
        case FileNotFoundError() if error.filename:
            verdict = Refused(f"{error.filename} is missing on this machine", hint=f"credentials, ca: {_SETTING}")
        case _:
            verdict = Unreachable(f"{nats.address} does not answer: {cause}", hint=f"is it up, and NATS? {_SETTING}")
    return verdict

"""One session with another host over SSH, under a deadline and with errors that say who must act."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from k2run.actions.connection import Connection
from k2run.adapters._clients import punctually, require_client
from k2run.errors import ActionError, Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from asyncssh import SSHClientConnection

    from k2run.actions.deadline import Deadline

T = TypeVar("T")
PORT = 22
_SETTING = "see connections.ssh in the stack file"


class Host(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A host that steps name.

    Attributes:
        address: Its name in DNS, or its IP address.
        port: Its SSH port; the connection's when 0.
        user: Who logs in; the connection's when empty.
    """

    address: str
    port: int = 0
    user: str = ""


class Ssh(Connection, frozen=True, kw_only=True, key="ssh"):
    """Hosts that are reached over SSH. `~/.ssh/config`, its keys and the agent apply as they do for the program `ssh`.

    Attributes:
        hosts: By the name that steps use; a step may also name an address that is not listed.
        user: Who logs in.
        port: TCP port.
        private_key: File with the key to log in with; those of the agent and of `~/.ssh` when empty.
        passphrase: Of that key.
        password: To log in with, where keys are not accepted.
        known_hosts: File with the keys of the hosts; `~/.ssh/known_hosts` when empty. A host that it does not name is
            refused.
    """

    hosts: dict[str, Host] = {}
    user: str = ""
    port: int = PORT
    private_key: str = ""
    passphrase: str = ""
    password: str = ""
    known_hosts: str = ""

    def find(self, host: str) -> Host:
        """The host of that name, or at that address, with the connection's settings where it has none of its own."""
        named = self.hosts.get(host) or Host(address=host)
        return Host(address=named.address, port=named.port or self.port, user=named.user or self.user)


def session(
    ssh: Ssh, host: str, deadline: Deadline, work: Callable[[SSHClientConnection], Coroutine[Any, Any, T]]
) -> T:
    """What some work in a session on a host returns; the session ends with it.

    Raises:
        Unreachable: Nothing answers there, or the connection broke.
        Refused: The host is not known, it lets the user not in, or the client is not installed here.
        TimedOut: The deadline passed first.
    """
    require_client("ssh", "asyncssh")
    import asyncssh

    there = ssh.find(host)
    try:
        return punctually(_session(ssh, there, deadline, work), deadline)
    except TimedOut as error:
        message = f"{shown(there)} did not finish within {deadline.seconds:g}s"
        raise TimedOut(
            message, hint=f"is it up, and is the work fast enough? {_SETTING}, or raise the step's timeout"
        ) from error
    except (asyncssh.Error, asyncssh.KeyImportError, OSError, ValueError) as error:
        raise _judge(ssh, host, there, error) from error


def shown(host: Host) -> str:
    """Where a host is: `ops@db1.example:22`."""
    return f"{host.user}@{host.address}:{host.port}" if host.user else f"{host.address}:{host.port}"


async def _session(
    ssh: Ssh, host: Host, deadline: Deadline, work: Callable[[SSHClientConnection], Coroutine[Any, Any, T]]
) -> T:
    async with _connected(ssh, host, deadline) as link:
        return await work(link)


@contextlib.asynccontextmanager
async def _connected(ssh: Ssh, host: Host, deadline: Deadline) -> AsyncIterator[SSHClientConnection]:
    import asyncssh

    patience = deadline.remaining()
    settings: dict[str, Any] = {"username": host.user, "client_keys": ssh.private_key, "known_hosts": ssh.known_hosts}
    link = await asyncssh.connect(
        host.address,
        host.port,
        connect_timeout=patience,
        login_timeout=patience,
        password=ssh.password or None,
        passphrase=ssh.passphrase or None,
        **{name: value for name, value in settings.items() if value},
    )
    try:
        yield link
    finally:
        link.abort()  # at once: a polite farewell waits for an answer


async def end(link: SSHClientConnection, pid: int) -> None:
    """End the process group of a command on the other host; politely first, then for good.

    By a second command: a server ends nothing with a connection, and sshd passes no signals on to what root runs.
    """
    import asyncssh

    ends = (f"kill -s {name} -- -{pid} 2>/dev/null || kill -s {name} {pid} 2>/dev/null" for name in ("TERM", "KILL"))
    with contextlib.suppress(asyncssh.Error, OSError):
        await link.run(f"sh -c '{'; sleep 0.1; '.join(ends)}'")


def _judge(ssh: Ssh, host: str, there: Host, error: Exception) -> ActionError:
    import asyncssh

    cause = " ".join(str(error).split()) or type(error).__name__
    for secret in filter(None, (ssh.password, ssh.passphrase)):
        cause = cause.replace(secret, "***")
    where, unlisted = shown(there), bool(ssh.hosts) and host not in ssh.hosts
    hint = f"connections.ssh.hosts names {', '.join(ssh.hosts)}" if unlisted else _SETTING
    match error:
        case asyncssh.HostKeyNotVerifiable():
            advice = f"compare the host's key, then add it: ssh-keyscan -p {there.port} {there.address}; {hint}"
            verdict: ActionError = Refused(f"{where} is not known here: {cause}", hint=advice)
        case asyncssh.PermissionDenied():
            verdict = Refused(f"{where} denies access: {cause}", hint=f"user, key, password: {hint}")
        case asyncssh.KeyImportError() | asyncssh.KeyEncryptionError():
            verdict = Refused(f"the key for {where} cannot be used: {cause}", hint=f"private_key, passphrase: {hint}")
        case asyncssh.SFTPError():
            verdict = Refused(
                f"{where} refuses: {error.reason}", hint="does the path exist there, and may the user use it?"
            )
        case FileNotFoundError() if error.filename:
            verdict = Refused(f"{error.filename} is missing on this machine", hint=hint)
        case asyncssh.ConnectionLost() | asyncssh.DisconnectError() | OSError():
            verdict = Unreachable(
                f"{where} does not answer: {cause}", hint=f"is it up, and is that its SSH port? {hint}"
            )
        case _:
            verdict = Refused(f"{where} refuses: {cause}", hint=hint)
    return verdict

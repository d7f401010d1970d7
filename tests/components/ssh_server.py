"""A real sshd on a free port, as the user of the tests, with keys of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import asyncssh
import pytest
from wheel_programs import free_ports

from k2run.adapters.ssh import Host, Ssh

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin yes
Subsystem sftp internal-sftp
"""
PRIVILEGE_SEPARATION = Path("/run/sshd")


class Sshd(NamedTuple):
    """A running sshd, what reaches it (as the host `db1`), and its process."""

    ssh: Ssh
    folder: Path
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    """An sshd with its keys in a folder: `host_key`, `user_key`, and the latter with a passphrase, `locked_key`."""
    program = shutil.which("sshd", path=os.pathsep.join((os.environ["PATH"], "/usr/sbin")))
    if program is None:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    port = free_ports(1)[0]
    _make_keys(folder)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stdout=log, stderr=log)
    ssh = Ssh(
        hosts={"db1": Host(address="127.0.0.1", port=port)},
        user=getpass.getuser(),
        private_key=str(folder / "user_key"),
        known_hosts=str(folder / "known_hosts"),
    )
    try:
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end
                time.sleep(0.02)
        yield Sshd(ssh, folder, process)
    finally:
        process.terminate()
        process.wait()


def _make_keys(folder: Path) -> None:
    for name in ("host_key", "user_key"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / name))
        if name == "user_key":
            key.write_private_key(str(folder / "locked_key"), passphrase="open sesame")
        key.write_public_key(str(folder / f"{name}.pub"))
        (folder / name).chmod(0o600)

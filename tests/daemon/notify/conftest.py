"""Receivers of messages that are real servers on ports of their own, and can be made to fail."""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from k2run.engine.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class WebReceiver(ThreadingHTTPServer):
    """Keeps what is posted; answers with the statuses that it is given first, then 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.received: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.open = threading.Event()
        self.open.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Post(BaseHTTPRequestHandler):
    server: WebReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.open.wait(30)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            self.server.received.append({"headers": dict(self.headers.items()), "raw": body, "json": _json(body)})
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        pass


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


class MailReceiver(socketserver.ThreadingTCPServer):
    """A mail server that speaks as much SMTP as it takes to deliver a message."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Mail)
        self.messages: list[str] = []


class _Mail(socketserver.StreamRequestHandler):
    server: MailReceiver

    def handle(self) -> None:
        self._say("220 ready")
        while line := self.rfile.readline().decode().strip():
            word = line.split(":")[0].upper()
            if word == "DATA":
                self._say("354 go on")
                lines = []
                while (text := self.rfile.readline().decode()) != ".\r\n":
                    lines.append(text)
                self.server.messages.append("".join(lines))
            if word == "QUIT":
                self._say("221 bye")
                return
            self._say("250 ok")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


def _serve(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


RECOVERY = """\
runbook: 1
kind: recovery
name: {name}
title: {name} recovers
stack: {stack}
alerts: [{{labels: {{alertname: {name}}}, start: {start}, stack: {stack}}}]
symptoms: [{{name: It is broken, file.exists: {{path: "{broken}"}}}}]
sections: [{{steps: [{{name: Mend it, shell.run: {{command: "true"}}}}, {{name: It holds, assert: {{that: {that}}}}}]}}]
"""


@pytest.fixture
def recovery() -> Callable[..., str]:
    """The text of a recovery runbook, of its `name`, `stack`, `start`, the file `broken` and what holds (`that`)."""
    return RECOVERY.format


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    yield from _serve(WebReceiver())


@pytest.fixture
def mail() -> Iterator[MailReceiver]:
    yield from _serve(MailReceiver())


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    def wait(true: Callable[[], Any], seconds: float = 60.0) -> Any:
        end = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < end, "it did not come true in time"
            time.sleep(0.05)
        return found

    return wait


class Place:
    """A folder in which runbooks are run by the command line, with settings of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "home")
        self._started: list[subprocess.Popen[bytes]] = []
        (folder / "stack.yaml").write_text("stack: 1\nname: nothing\n")

    def settings(self, text: str) -> None:
        (self.folder / "k2run.yaml").write_text(textwrap.dedent(text))

    def start(self, steps: str, kind: str = "readiness", **environment: str) -> subprocess.Popen[bytes]:
        text = (
            f"runbook: 1\nkind: {kind}\nname: test\ntitle: The test\nstack: ./stack.yaml\nsections:\n  - name: Only\n"
        )
        (self.folder / "test.yaml").write_text(f"{text}    steps:\n{textwrap.indent(textwrap.dedent(steps), '      ')}")
        process = subprocess.Popen(
            [sys.executable, "-m", "k2run", "run", "test.yaml", "--json"],
            cwd=self.folder,
            env={**os.environ, "K2RUN_HOME": str(self.store.home), **environment},
            stdout=subprocess.DEVNULL,
        )
        self._started.append(process)
        return process

    def run(self, steps: str, kind: str = "readiness", **environment: str) -> int:
        return self.start(steps, kind, **environment).wait(30)

    def messengers(self) -> list[psutil.Process]:
        """The messengers of this home: they outlive their runs, for as long as there is something to send."""
        return [each for each in psutil.process_iter(["cmdline"]) if _is_messenger(each, self.store.home)]

    def end(self) -> None:
        """Leave no process behind: neither a run, nor a messenger whose receiver is gone."""
        for process in self._started:
            process.kill()
            process.wait(10)
        for messenger in self.messengers():
            with contextlib.suppress(psutil.NoSuchProcess):
                messenger.kill()
                messenger.wait(10)


def _is_messenger(process: psutil.Process, home: Path) -> bool:
    words = process.info["cmdline"] or []
    return "k2run.daemon.messenger" in words and str(home) in words


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.end()

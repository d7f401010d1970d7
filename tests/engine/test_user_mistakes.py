"""What a user can get wrong, or a system send, is never called a defect of the action."""

from __future__ import annotations

import os
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import Outcome, StepTried

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Bench

ODD_FILES = {
    "u16.json": '{"a":1}'.encode("utf-16"),
    "bom.json": b'\xef\xbb\xbf{"a":1}',
    "nan.json": b'{"a": NaN}',
    "huge.json": b'{"a": 1e400}',
    "deep.json": b"[" * 200_000,
    "latin.json": b'{\n"a": "caf\xe9"}',
}
MISTAKES = {
    "file.hash: {path: fifo}": "it is a named pipe",
    "file.lines: {path: fifo}": "it is a named pipe",
    "file.json: {path: fifo}": "it is a named pipe",
    "file.image: {path: fifo}": "it is a named pipe",
    "file.lines: {path: /dev/zero}": "it is a device",
    "file.hash: {path: /dev/zero}": "it is a device",
    "file.json: {path: .}": "it is a directory",
    "file.json: {path: u16.json}": "it is UTF-16",
    "file.json: {path: nan.json}": "JSON knows no NaN at line 1, column 7",
    "file.json: {path: huge.json}": "out of range",
    "file.json: {path: deep.json}": "nested too deep",
    "file.json: {path: latin.json}": "not UTF-8: byte 0xe9 at line 2, column 10",
    "file.exists: {path: loop}": "Too many levels of symbolic links",
    'file.exists: {path: "a\\0b"}': "NUL character",
    'file.exists: {path: "~nobodyatall/x"}': "there is no such user",
    'file.exists: {path: "{{ nothing }}"}': "`path` is empty",
    'shell.run: {command: "{{ nothing }}"}': "`command` is empty",
    'shell.run: {command: " "}': "`command` is empty",
    'shell.run: {command: "a\\0b"}': "null byte",
    'shell.run: {command: "{{ none_at_all }}"}': "`command` is empty",
    'shell.run: {command: ["{{ nothing }}", x]}': "has no program",
    'browser.screenshot: {url: "http://127.0.0.1:1/", file: "~nobodyatall/x.png"}': "a user that there is not",
    'http.get: {url: "http://127.0.0.1:1/", headers: {X-Name: "caf\u00e9"}}': "the header 'X-Name' has",
    'http.get: {url: "http://127.0.0.1:1/", headers: {X-Name: "a\\nb"}}': "the header 'X-Name' has a character",
    'http.get: {url: "http://[::1/"}': "the URL cannot be asked: Invalid IPv6 URL",
    'http.get: {url: "http://[::1/", params: {a: b}}': "the URL cannot be asked: Invalid IPv6 URL",
}


@pytest.fixture
def odd(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with files that are not what they are taken for."""
    for name, content in ODD_FILES.items():
        (bench.folder / name).write_bytes(content)
    os.mkfifo(bench.folder / "fifo")
    (bench.folder / "loop").symlink_to("loop")
    monkeypatch.chdir(bench.folder)
    return bench.folder


@pytest.mark.usefixtures("odd")
def test_a_mistake_says_what_is_wrong_at_once_and_accuses_no_action(bench: Bench, readiness: Callable) -> None:
    steps = "".join(
        f"- {{name: 'step {number}', severity: warning, timeout: 5s, {action}}}\n"
        for number, action in enumerate(MISTAKES)
    )
    started = time.monotonic()
    bench.run(
        readiness(steps, "vars: {nothing: '', none_at_all: []}\n").replace(
            "name: Only", "name: Only\n    after_failure: continue"
        )
    )
    assert time.monotonic() - started < 5
    for number, (action, said) in enumerate(MISTAKES.items()):
        step = bench.steps()[f"step {number}"]
        assert step.outcome is Outcome.FAILED, action
        assert said in step.message, action
        assert "defect" not in step.hint


@pytest.mark.usefixtures("odd")
def test_what_can_be_read_is_read(bench: Bench, readiness: Callable) -> None:
    assert bench.run(readiness("- {file.json: {path: bom.json}, expect: result.content.a == 1}\n")).exit_code == 0


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="the system has no /proc")  # noqa: PTH110 - a path of the system
def test_a_file_whose_size_the_system_does_not_tell_is_not_empty(bench: Bench, readiness: Callable) -> None:
    bench.run(readiness("- {name: Size, file.size: {path: /proc/cpuinfo}}\n"))
    assert bench.steps()["Size"].outcome is Outcome.UNKNOWN


def test_until_ends_with_what_failed_when_says(bench: Bench, readiness: Callable) -> None:
    step = (
        "- name: Job\n  shell.run: {command: echo error}\n  until: result.stdout in ['done', 'error']\n"
        "  failed_when: result.stdout == 'error'\n  every: 100ms\n  within: 20s\n"
    )
    started = time.monotonic()
    assert bench.run(readiness(step)).exit_code == 1
    assert time.monotonic() - started < 5
    assert "failed_when is true" in bench.steps()["Job"].message
    assert not [event for event in bench.seen if isinstance(event, StepTried)]


@pytest.fixture
def unreadable() -> Iterator[str]:
    """A server whose answer is said to be JSON, and is not."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"error": NaN}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.parametrize(
    "judged", ["result.body is none", "result.body.error is not defined", "not (result.body or {}).get('error')"]
)
def test_of_an_answer_that_cannot_be_read_nothing_is_known(
    bench: Bench, readiness: Callable, unreadable: str, judged: str
) -> None:
    bench.run(readiness(f'- {{name: Ask, http.get: {{url: "{unreadable}"}}, expect: "{judged}"}}\n'))
    step = bench.steps()["Ask"]
    assert step.outcome is Outcome.UNKNOWN
    assert "JSON knows no NaN" in step.message

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from k2run.actions.deadline import Deadline
from k2run.errors import Interrupted, StackUnavailable, UsageError
from k2run.stack import lifecycle
from k2run.stack.backend import State
from k2run.stack.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

Make = Callable[..., Stack]

ANSWERS_ONCE = (
    "import http.server as web, sys; "
    'web.HTTPServer(("127.0.0.1", int(sys.argv[1])), web.SimpleHTTPRequestHandler).handle_request(); '
    'sys.exit("error: the key is wrong")'
)
SLEEPER = "{run: process, command: [sleep, 600]}"


def web(port: int, status: str = "healthy", **ready: object) -> str:
    probe = "".join(f", {key}: {value}" for key, value in ready.items())
    return (
        f"{{run: process, command: [python, '{{{{ here }}}}/web.py', {port}, {status}], ports: [{port}], "
        f"ready: {{http: 'http://127.0.0.1:{port}/', body: {{status: healthy, parts: {{disk: ok}}}}{probe}}}}}"
    )


@pytest.fixture
def unhealthy() -> Iterator[str]:
    """The address of a page that answers from the first moment on, and says `unhealthy`."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"status": "unhealthy"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def states(stack: Stack) -> dict[str, State]:
    return {look.service.name: look.status.state for look in lifecycle.status(stack)}


def test_services_are_up_when_start_returns_and_a_second_start_changes_nothing(
    make_stack: Make, free_port: int
) -> None:
    stack = make_stack(f"services:\n  web: {web(free_port)}\n  other: {SLEEPER}\n")
    assert lifecycle.start(stack, None, Deadline(10)) == ["web", "other"]
    [look, other] = lifecycle.status(stack)
    assert look.status.state is State.RUNNING
    assert look.probe is not None
    assert look.probe.ready
    assert other.probe is None
    assert lifecycle.start(stack, None, Deadline(10)) == []
    assert lifecycle.stop(stack) == ["web", "other"]
    assert lifecycle.stop(stack) == []
    assert set(states(stack).values()) == {State.STOPPED}


def test_a_service_that_was_ready_and_ends_while_another_is_waited_for_fails_the_start_with_its_last_words(
    make_stack: Make, free_port: int, unhealthy: str
) -> None:
    brief = (
        f"{{run: process, command: [python, -c, '{ANSWERS_ONCE}', {free_port}], "
        f"ready: {{http: 'http://127.0.0.1:{free_port}/'}}}}"
    )
    ready = f"{{http: '{unhealthy}', body: {{status: healthy}}, within: 20s}}"
    slow = f"{{run: process, command: [sleep, 600], ready: {ready}}}"
    stack = make_stack(f"services:\n  slow: {slow}\n  brief: {brief}\n")
    began = time.monotonic()
    with pytest.raises(StackUnavailable, match=r"brief .*while it was started(?s:.*)the key is wrong"):
        lifecycle.start(stack, None, Deadline(30))
    assert time.monotonic() - began < 10
    assert set(states(stack).values()) <= {State.STOPPED, State.ABSENT}


def test_only_what_is_asked_for_and_what_that_needs_is_started(make_stack: Make) -> None:
    sleeper = SLEEPER.rstrip("}")
    stack = make_stack(f"services:\n  a: {SLEEPER}\n  b: {sleeper}, needs: [c]}}\n  c: {sleeper}, needs: [b]}}\n")
    assert lifecycle.start(stack, ["b"], Deadline(10)) == ["b", "c"]
    assert states(stack)["a"] is State.STOPPED
    with pytest.raises(UsageError, match="no service 'bb'"):
        lifecycle.start(stack, ["bb"], Deadline(10))


def test_a_program_that_is_not_installed_is_left_out_and_said(make_stack: Make) -> None:
    stack = make_stack(
        f"services:\n  graphs: {{run: process, command: [x], program: no-such-program}}\n  a: {SLEEPER}\n"
    )
    said: list[str] = []
    assert lifecycle.start(stack, None, Deadline(10), said.append) == ["a"]
    assert said == ["not applicable: no-such-program is not installed"]
    assert states(stack)["graphs"] is State.ABSENT


def test_a_service_that_dies_while_starting_takes_the_others_down_and_is_quoted(make_stack: Make) -> None:
    dying = "{run: process, command: [sh, -c, 'echo no such table; exit 3'], ready: {tcp: '127.0.0.1:1'}}"
    stack = make_stack(f"services:\n  a: {SLEEPER}\n  b: {dying}\n")
    with pytest.raises(StackUnavailable, match=r"b ended with exit code 3 while it was started\n  \| no such table"):
        lifecycle.start(stack, None, Deadline(10))
    assert set(states(stack).values()) == {State.STOPPED}


def test_a_service_without_probe_that_dies_at_once_is_noticed(make_stack: Make) -> None:
    stack = make_stack("services: {a: {run: process, command: [sh, -c, 'echo oh no; exit 1']}}")
    with pytest.raises(StackUnavailable, match="oh no"):
        lifecycle.start(stack, None, Deadline(10))


def test_a_service_that_is_not_ready_in_time_is_told_with_what_was_wrong(make_stack: Make, unhealthy: str) -> None:
    ready = f"{{http: '{unhealthy}', body: {{status: healthy}}, within: 700ms}}"
    stack = make_stack(f"services:\n  web: {SLEEPER.rstrip('}')}, ready: {ready}}}\n")
    began = time.monotonic()
    with pytest.raises(
        StackUnavailable, match=r"web was not ready within 0\.7s: .* status is 'unhealthy' instead of 'healthy'"
    ):
        lifecycle.start(stack, None, Deadline(10))
    assert time.monotonic() - began < 2
    assert states(stack) == {"web": State.STOPPED}


def test_a_taken_port_stops_what_was_started_before_it(make_stack: Make) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        stack = make_stack(f"services:\n  a: {SLEEPER}\n  web: {web(port)}\n")
        with pytest.raises(StackUnavailable, match=f"port {port} is taken by pid {os.getpid()}"):
            lifecycle.start(stack, None, Deadline(10))
    assert states(stack)["a"] is State.STOPPED


def test_an_interrupted_start_leaves_nothing_running(make_stack: Make, free_port: int) -> None:
    stack = make_stack(f"services:\n  a: {SLEEPER}\n  web: {web(free_port, 'unhealthy')}\n")
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        lifecycle.start(stack, None, Deadline(10, stop))
    assert time.monotonic() - began < 2
    assert set(states(stack).values()) == {State.STOPPED}


def test_what_ran_before_an_unsuccessful_start_is_left_running(make_stack: Make) -> None:
    stack = make_stack(f"services:\n  a: {SLEEPER}\n  b: {{run: process, command: [/no/such/program]}}\n")
    lifecycle.start(stack, ["a"], Deadline(10))
    with pytest.raises(StackUnavailable):
        lifecycle.start(stack, None, Deadline(10))
    assert states(stack)["a"] is State.RUNNING


def test_an_external_service_is_only_looked_at(make_stack: Make) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        stack = make_stack(f"""
            services:
              near: {{ready: {{tcp: '127.0.0.1:{port}'}}}}
              gone: {{ready: {{tcp: '127.0.0.1:1'}}}}
              dark: {{url: 'http://nowhere'}}
        """)
        assert lifecycle.start(stack, None, Deadline(5)) == []
        assert states(stack) == {"near": State.RUNNING, "gone": State.STOPPED, "dark": State.UNKNOWN}
        assert lifecycle.stop(stack) == []


def test_a_read_only_home_is_told(make_stack: Make, tmp_path: Path) -> None:
    stack = make_stack(f"services:\n  a: {SLEEPER}\n")
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(StackUnavailable, match="K2RUN_HOME"):
        lifecycle.start(stack, None, Deadline(5))


@pytest.mark.parametrize(
    ("ready", "why"), [("http: '{{ where }}'", "'/' is not an http URL"), ("tcp: here", "'here' is not HOST:PORT")]
)
def test_an_address_that_is_none_ends_a_start_at_once(make_stack, ready: str, why: str) -> None:
    services = f"services:\n  one: {{run: process, command: [sleep, 60], ready: {{{ready}}}}}\n"
    stack = make_stack(f"vars: {{where: /}}\n{services}")  # what is written as a path is refused before
    began = time.monotonic()
    with pytest.raises(StackUnavailable, match=why):
        lifecycle.start(stack, None, Deadline(30))
    assert time.monotonic() - began < 10

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.errors import Refused, StackUnavailable, Unknown
from k2run.stack.backend import State
from k2run.stack.process_group import Record
from k2run.stack.processes import ProcessBackend
from k2run.stack.stack import Stack

if TYPE_CHECKING:
    from pathlib import Path

Make = Callable[..., Stack]
Python = Callable[..., ProcessBackend]
SOON = 5.0


@pytest.fixture
def python(make_stack: Make, tmp_path: Path) -> Python:
    """A service that runs a Python program."""

    def make(program: str = "import time; time.sleep(600)", **more: object) -> ProcessBackend:
        (tmp_path / "program.py").write_text(program)
        options = "".join(f"    {key}: {value}\n" for key, value in more.items())
        command = f"[python, -S, {tmp_path}/program.py]"
        stack = make_stack(f"services:\n  it:\n    run: process\n    command: {command}\n{options}")
        return ProcessBackend(stack.services["it"], stack.state)

    return make


def until(condition: Callable[[], object], seconds: float = SOON) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def pid_of(backend: ProcessBackend) -> int:
    record = backend.record()
    assert record is not None
    return record.pid


def test_a_started_service_leads_a_session_of_its_own(python: Python) -> None:
    it = python()
    assert it.status().state is State.STOPPED
    assert it.start(Deadline(SOON)) is True
    seen = it.status()
    assert seen.state is State.RUNNING
    assert seen.restarts == 0
    assert seen.uptime_s is not None
    assert seen.uptime_s < SOON
    assert os.getsid(pid_of(it)) == os.getpgid(pid_of(it)) == pid_of(it)
    assert it.start(Deadline(SOON)) is False


def test_a_killed_service_is_gone_with_everything_that_it_started(python: Python, tmp_path: Path) -> None:
    it = python(f"""
import subprocess
children = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
open({str(tmp_path / "children")!r}, "w").write(" ".join(str(child.pid) for child in children))
children[0].wait()
""")
    it.start(Deadline(SOON))
    until(lambda: (tmp_path / "children").exists() and (tmp_path / "children").read_text())
    children = [int(pid) for pid in (tmp_path / "children").read_text().split()]
    it.kill(Deadline(SOON))
    assert it.status().state is State.STOPPED
    assert it.status().detail == "ended by SIGKILL"
    for pid in children:
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_paused_service_stands_still_until_it_is_resumed(python: Python) -> None:
    it = python()
    it.start(Deadline(SOON))
    it.pause(Deadline(SOON))
    assert it.status().state is State.PAUSED
    assert psutil.Process(pid_of(it)).status() == psutil.STATUS_STOPPED
    with pytest.raises(Refused, match="paused already"):
        it.pause(Deadline(SOON))
    assert it.resume(Deadline(SOON)) is True
    assert it.status().state is State.RUNNING
    assert it.resume(Deadline(SOON)) is False


def test_starting_a_paused_service_lets_it_go_on(python: Python) -> None:
    it = python()
    it.start(Deadline(SOON))
    pid = pid_of(it)
    it.pause(Deadline(SOON))
    assert it.start(Deadline(SOON)) is True
    assert (it.status().state, pid_of(it)) == (State.RUNNING, pid)


def test_a_service_is_asked_to_end_before_it_is_killed(python: Python) -> None:
    it = python("""
import signal, sys, time
def bye(*_):
    print("good bye", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
print("ready", flush=True)
time.sleep(600)
""")
    it.start(Deadline(SOON))
    until(lambda: "ready" in it.last_words())
    assert it.stop(Deadline(SOON)) is True
    assert "good bye" in it.last_words()
    assert it.status().detail == "ended with exit code 0"
    assert it.stop(Deadline(SOON)) is False


def test_a_service_that_will_not_end_is_killed_at_the_deadline(python: Python) -> None:
    it = python("""
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
""")
    it.start(Deadline(SOON))
    until(lambda: "ready" in it.last_words())
    began = time.monotonic()
    assert it.stop(Deadline(0.3)) is True
    assert 0.3 <= time.monotonic() - began < 1.5
    assert it.status().detail == "ended by SIGKILL"


def test_a_paused_service_can_be_stopped(python: Python) -> None:
    it = python()
    it.start(Deadline(SOON))
    it.pause(Deadline(SOON))
    began = time.monotonic()
    it.stop(Deadline(SOON))
    assert time.monotonic() - began < 2
    assert it.status().detail == "ended by SIGTERM"


def test_what_does_not_run_cannot_be_broken(python: Python) -> None:
    it = python()
    for strike in (it.kill, it.pause):
        with pytest.raises(Refused, match="it is not running"):
            strike(Deadline(SOON))
    with pytest.raises(Refused, match="it is not running"):
        it.usage(0.1, Deadline(SOON))


def test_a_service_that_ended_by_itself_is_stopped_and_reaped(python: Python) -> None:
    it = python("import sys; print('last words'); sys.exit(7)")
    it.start(Deadline(SOON))
    until(lambda: it.status().state is State.STOPPED)
    assert it.status().detail == "ended with exit code 7"
    assert not psutil.pid_exists(pid_of(it))
    assert it.last_words() == "last words"


def test_a_pid_that_belongs_to_somebody_else_now_is_left_alone(python: Python) -> None:
    it = python()
    it.start(Deadline(SOON))
    it.stop(Deadline(SOON))
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        record = Record(pid=stranger.pid, created=time.time() - 1000)
        it._record_file.write_bytes(msgspec.json.encode(record))
        assert it.status().state is State.STOPPED
        assert it.stop(Deadline(SOON)) is False
        with pytest.raises(Refused):
            it.kill(Deadline(SOON))
        assert stranger.poll() is None
        it.start(Deadline(SOON))
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_restarts_are_counted_until_the_stack_is_taken_down(python: Python) -> None:
    it = python()
    for expected in (0, 1, 2):
        it.start(Deadline(SOON))
        assert it.status().restarts == expected
        it.kill(Deadline(SOON))
    it.forget()
    it.start(Deadline(SOON))
    assert it.status().restarts == 0


def test_a_taken_port_is_told_with_its_holder_and_the_way_out(python: Python) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        it = python(ports=[port])
        with pytest.raises(StackUnavailable, match=rf"port {port} is taken by pid {os.getpid()} \(.+\)") as refusal:
            it.start(Deadline(SOON))
        assert "another port" in refusal.value.hint
    assert it.record() is None


def test_a_port_held_by_another_stack_names_that_stack(make_stack: Make, tmp_path: Path, free_port: int) -> None:
    program = f"import socket, time; s = socket.create_server(('127.0.0.1', {free_port})); time.sleep(600)"
    (tmp_path / "server.py").write_text(program)
    it = f"services: {{it: {{run: process, command: [python, -S, {tmp_path}/server.py], ports: [{free_port}]}}}}"
    one, two = make_stack(it, "one"), make_stack(it, "two")
    ProcessBackend(one.services["it"], one.state).start(Deadline(SOON))
    until(lambda: _listens(free_port))
    with pytest.raises(StackUnavailable) as refusal:
        ProcessBackend(two.services["it"], two.state).start(Deadline(SOON))
    assert f"it belongs to the stack in {one.state}" in refusal.value.hint


def test_a_program_that_is_not_there_is_told_by_name(make_stack: Make) -> None:
    stack = make_stack("services: {it: {run: process, command: [/no/such/program]}}")
    with pytest.raises(StackUnavailable, match="/no/such/program: No such file or directory"):
        ProcessBackend(stack.services["it"], stack.state).start(Deadline(SOON))


def test_a_service_outlives_the_k2run_that_started_it(python: Python, tmp_path: Path) -> None:
    it = python("import time; print('up', flush=True); time.sleep(600)")
    program = (
        "from pathlib import Path; from k2run.stack.stack import load_stack; from k2run.stack import lifecycle\n"
        "from k2run.actions.deadline import Deadline\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "stack = load_stack(str(folder / 'bench.yaml'), near=None, home=folder / 'home', overrides={})\n"
        "print(lifecycle.start(stack, None, Deadline(5)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['it']", done.stderr
    assert it.status().state is State.RUNNING
    it.kill(Deadline(SOON))  # an orphan: it cannot be reaped here, and counts as dead all the same
    assert it.status().state is State.STOPPED
    assert it.start(Deadline(SOON)) is True


def test_a_service_whose_note_was_lost_is_known_by_its_port_again(python: Python, free_port: int) -> None:
    it = python(
        f"import socket, time; s = socket.create_server(('127.0.0.1', {free_port})); time.sleep(600)", ports=[free_port]
    )
    it.start(Deadline(SOON))
    pid = pid_of(it)
    until(lambda: _listens(free_port))
    it.forget()  # as if k2run had been killed between the start and the note
    assert it.status().state is State.STOPPED
    assert it.start(Deadline(SOON)) is False
    assert pid_of(it) == pid
    it.stop(Deadline(SOON))
    assert it.status().state is State.STOPPED


def test_what_a_dead_service_left_behind_is_ended_before_it_is_started_again(python: Python, tmp_path: Path) -> None:
    it = python(f"""
import subprocess, time
child = subprocess.Popen(["sleep", "600"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
time.sleep(600)
""")
    it.start(Deadline(SOON))
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    child = int((tmp_path / "child").read_text())
    os.kill(pid_of(it), signal.SIGKILL)  # the leader alone
    until(lambda: it.status().state is State.STOPPED)
    assert psutil.pid_exists(child)
    it.start(Deadline(SOON))
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_service_with_many_threads_gives_its_port_free_when_it_is_killed(
    python: Python, free_port: int, tmp_path: Path
) -> None:
    program = f"""
import socket, threading, time
server = socket.create_server(("127.0.0.1", {free_port}))
memory = bytearray(200_000_000)
for _ in range(50):
    threading.Thread(target=time.sleep, args=(600,)).start()
time.sleep(600)
"""
    it = python(program, ports=[free_port])
    starter = (
        "from pathlib import Path; from k2run.stack.stack import load_stack; from k2run.stack import lifecycle\n"
        "from k2run.actions.deadline import Deadline\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "stack = load_stack(str(folder / 'bench.yaml'), near=None, home=folder / 'home', overrides={})\n"
        "lifecycle.start(stack, None, Deadline(5))"
    )
    subprocess.run([sys.executable, "-c", starter], check=True)  # so that it is no child of ours
    for _ in range(3):
        until(lambda: _listens(free_port))
        it.kill(Deadline(SOON))
        assert not _listens(free_port)
        assert it.start(Deadline(SOON)) is True


def test_a_log_is_searched_by_time_where_its_lines_tell_it(python: Python) -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    old = (now - timedelta(hours=1)).isoformat()
    it = python(
        f"print({old!r}, 'old'); print('  more'); print('\\x1b[32m{now.isoformat()}\\x1b[0m new'); print('  more')"
    )
    it.start(Deadline(SOON))
    until(lambda: "new" in it.last_words())
    recent = it.log(lines=10, since=now - timedelta(minutes=1), deadline=Deadline(SOON))
    assert [line.text for line in recent] == [f"{now.isoformat()} new", "  more"]
    assert len(it.log(lines=10, since=None, deadline=Deadline(SOON))) == 4
    assert [line.text for line in it.log(lines=1, since=None, deadline=Deadline(SOON))] == ["  more"]


def test_a_log_without_times_cannot_be_searched_by_time(python: Python) -> None:
    from datetime import UTC, datetime

    it = python("print('no time at all')")
    with pytest.raises(Unknown, match="no log"):
        it.log(lines=10, since=None, deadline=Deadline(SOON))
    it.start(Deadline(SOON))
    until(it.last_words)
    with pytest.raises(Unknown, match="does not say when"):
        it.log(lines=10, since=datetime.now(UTC), deadline=Deadline(SOON))


def test_the_last_words_are_of_the_last_start_alone(python: Python) -> None:
    it = python("print('once')")
    for _ in range(2):
        it.start(Deadline(SOON))
        until(lambda: it.status().state is State.STOPPED)
    assert it.last_words() == "once"
    assert len(it.log(lines=10, since=None, deadline=Deadline(SOON))) == 2


def test_only_the_end_of_a_long_log_is_read(python: Python) -> None:
    it = python("for n in range(200_000): print('line', n)")
    it.start(Deadline(SOON))
    until(lambda: it.status().state is State.STOPPED, 15)
    began = time.perf_counter()
    tail = it.log(lines=3, since=None, deadline=Deadline(SOON))
    assert [line.text for line in tail] == ["line 199997", "line 199998", "line 199999"]
    assert time.perf_counter() - began < 0.1


def test_use_of_processor_and_memory_counts_children_in(python: Python) -> None:
    it = python("import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', 'while True: pass'])")
    it.start(Deadline(SOON))
    until(lambda: len(psutil.Process(pid_of(it)).children()) == 1)
    until(lambda: it.usage(0.5, Deadline(SOON)).cpu_percent > 10)  # a busy machine lets it begin late
    used = it.usage(0.5, Deadline(SOON))
    assert used.processes == 2
    assert used.rss_bytes > 2**20


def _listens(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_service_is_asked_to_end_by_the_signal_that_its_stack_names(python: Python, tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGINT, lambda *_: (pathlib.Path({str(told)!r}).write_text('int'), sys.exit()))\n"
        "print('up', flush=True)\ntime.sleep(600)\n"
    )
    it = python(program, stop_signal="SIGINT")
    it.start(Deadline(SOON))
    until(lambda: "up" in it.last_words())
    assert it.stop(Deadline(SOON))
    assert told.read_text() == "int"

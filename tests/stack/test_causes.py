"""Why a service fails is read where it is written: its log, its ports, the machine."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from msgspec.structs import replace

from k2run.actions.deadline import Deadline
from k2run.adapters import storage
from k2run.adapters.host import actions as host
from k2run.adapters.service import actions as service
from k2run.errors import StackUnavailable
from k2run.files import account_name
from k2run.stack import lifecycle
from k2run.stack.backend import State
from k2run.stack.causes import Kind, causes_of, kind_of
from k2run.stack.process_group import busy_port
from k2run.stack.services import Services, backend_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from k2run.stack.stack import Stack

SAID = {
    "OSError: [Errno 28] No space left on device": Kind.DISK,
    "sqlite3.OperationalError: database is locked": Kind.LOCK,
    "error: port 19095 is already in use": Kind.PORT,
    "PermissionError: [Errno 13] Permission denied: '/var/k2'": Kind.PERMISSION,
    "OSError: [Errno 30] Read-only file system: 'x'": Kind.READ_ONLY,
    "MemoryError": Kind.MEMORY,
    "OSError: [Errno 24] Too many open files": Kind.FILES,
    "pyarrow.lib.ArrowInvalid: Parquet magic bytes not found in footer": Kind.DAMAGED,
    "FileNotFoundError: [Errno 2] No such file or directory: 'a.parquet'": Kind.MISSING,
    "pyiceberg.exceptions.NoSuchTableError: NoSuchTableException: Table does not exist: a.b": Kind.MISSING,
    "botocore.exceptions.ClientError: the bucket answers 404": Kind.ERROR,
}
WEB = """
one:
  run: process
  command: [python, "{{{{ here }}}}/web.py", {port}, healthy]
  ports: [{port}]
  ready: {{http: "http://127.0.0.1:{port}/"}}
  metrics: "http://127.0.0.1:{port}/metrics"
"""


def services_in(make_stack: Callable[..., Stack], lines: str) -> Stack:
    return make_stack("services:\n" + "".join(f"  {line}\n" for line in lines.strip().splitlines()))


def ended(stack: Stack) -> lifecycle.Look:
    """The only service of a stack, when it has ended."""
    backend_of(stack, next(iter(stack.services.values()))).start(Deadline(5))
    for _ in range(500):
        [look] = lifecycle.status(stack)
        if look.status.state is State.STOPPED:
            return look
        time.sleep(0.01)
    raise AssertionError("it goes on")


def causes(stack: Stack, look: lifecycle.Look) -> list[tuple[Kind, str]]:
    return [(cause.kind, cause.says) for cause in causes_of(stack, look)]


@contextmanager
def impostor(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A foreign server, which answers 200 to everything."""
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            for _ in range(500):
                if busy_port(port):
                    break
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("line", "kind"), SAID.items())
def test_a_line_says_what_is_lacking(line: str, kind: Kind) -> None:
    assert kind_of(line) is kind


@pytest.mark.parametrize(
    "line",
    [
        "W1130 17:38:06.619765 worker.go:180 stream ended: rpc error: dial tcp 127.0.0.1:37375: connection refused",
        "I1130 17:37:56.490854 worker.go:474 started, after error: connection refused",
        "2026-11-30T17:37:52.835872Z [info    ] broker_answers_again after='connection refused'",
    ],
)
def test_a_line_that_calls_itself_no_failure_is_no_cause(line: str) -> None:
    assert kind_of(line) is None
    assert kind_of(line.replace("W1130", "E1130").replace("I1130", "E1130").replace("[info ", "[error ")) is not None
    assert kind_of(f"{line}: no space left on device") is Kind.DISK


def test_the_line_of_a_log_that_says_why_a_service_ended_comes_before_its_effects(make_stack) -> None:
    line = next(iter(SAID))
    text = f"serving\\nerror: the broker did not answer within 30 s\\n{line}\\nerror: giving up"
    stack = services_in(make_stack, f"one: {{run: process, command: [sh, -c, \"printf '{text}\\\\n'; exit 1\"]}}")
    found = causes(stack, ended(stack))
    assert found[0] == (Kind.DISK, line)
    assert found[-1] == (Kind.EXIT, "ended with exit code 1")


def test_of_a_traceback_it_is_the_last_line_that_says_why_and_no_line_of_code(make_stack, tmp_path: Path) -> None:
    program = tmp_path / "raises.py"
    program.write_text(
        "class RefusedError(Exception): ...\n"
        "try:\n"
        "    exception = 1 / 0\n"
        "except ZeroDivisionError as error:\n"
        "    raise RefusedError('by the exception of others') from error\n"
    )
    stack = services_in(make_stack, f"one: {{run: process, command: [python, '{program}']}}")
    assert causes(stack, ended(stack))[0] == (Kind.ERROR, "RefusedError: by the exception of others")


def test_a_service_that_ended_without_a_word_has_its_end_as_the_only_cause(make_stack) -> None:
    stack = services_in(make_stack, "one: {run: process, command: [sh, -c, 'echo well; kill -9 $$']}")
    assert causes(stack, ended(stack)) == [(Kind.EXIT, "ended by SIGKILL")]


def test_a_service_that_was_stopped_on_purpose_has_that_as_its_cause_and_no_old_line_of_its_log(make_stack) -> None:
    line = next(iter(SAID))
    stack = services_in(make_stack, f"one: {{run: process, command: [sh, -c, \"echo '{line}'; exec sleep 60\"]}}")
    for how, end in (
        ("stopped", lambda: backend_of(stack, stack.services["one"]).stop(Deadline(5))),
        ("killed", lambda: backend_of(stack, stack.services["one"]).kill(Deadline(5))),
        ("stopped", lambda: lifecycle.stop(stack)),
    ):
        lifecycle.start(stack, None, Deadline(5))
        end()
        [look] = lifecycle.status(stack)
        [(kind, says)] = causes(stack, look)
        assert kind is Kind.STOPPED
        assert re.fullmatch(rf"{how} on \d{{4}}-\d\d-\d\d at \d\d:\d\d:\d\d UTC by .+ of {account_name()}", says)


def test_a_service_that_ends_by_itself_after_it_was_stopped_once_has_its_own_end_as_the_cause(make_stack) -> None:
    stack = services_in(make_stack, "one: {run: process, command: [sh, -c, 'test -e again && exit 7; exec sleep 60']}")
    lifecycle.start(stack, None, Deadline(5))
    lifecycle.stop(stack)
    (stack.state / "again").touch()
    assert causes(stack, ended(stack)) == [(Kind.EXIT, "ended with exit code 7")]


def test_a_service_that_is_stopped_because_it_was_not_ready_keeps_the_line_that_says_why(
    make_stack, free_port: int
) -> None:
    line = next(iter(SAID))
    stack = services_in(
        make_stack,
        f"one: {{run: process, command: [sh, -c, \"echo '{line}'; exec sleep 60\"],"
        f' ready: {{http: "http://127.0.0.1:{free_port}/", within: 300ms}}}}',
    )
    with pytest.raises(StackUnavailable):
        lifecycle.start(stack, None, Deadline(5))
    [look] = lifecycle.status(stack)
    assert causes(stack, look)[0] == (Kind.DISK, line)


def test_a_line_written_long_before_the_end_of_a_service_is_not_why_it_ended(make_stack) -> None:
    stack = services_in(
        make_stack,
        "one: {run: process, command: [sh, -c, \"printf '2026-03-01T10:00:00Z MemoryError\\nMemoryError\\n"
        "2026-03-01T13:00:00Z all is well\\n'; exit 3\"]}",
    )
    look = ended(stack)
    look = replace(look, status=replace(look.status, started_at=datetime(2026, 3, 1, 9, tzinfo=UTC)))
    assert causes(stack, look) == [(Kind.EXIT, "ended with exit code 3")]


def test_somebody_else_on_the_port_of_a_service_is_told_with_its_pid_and_is_no_answer_of_the_service(
    make_stack, free_port: int
) -> None:
    stack = services_in(make_stack, WEB.format(port=free_port))
    lifecycle.start(stack, None, Deadline(10))
    services = Services.of(stack)
    assert service.strangers(services).taken == []
    assert service.probe(services, Deadline(5), "one").answered
    backend_of(stack, stack.services["one"]).kill(Deadline(5))
    with impostor(free_port) as other:
        [look] = lifecycle.status(stack)
        assert causes(stack, look)[0][0] is Kind.PORT
        seen = service.probe(services, Deadline(5), "one")
        found = service.strangers(services)
    assert not seen.answered
    assert "another process answers" in seen.detail
    assert f"pid {other.pid}" in seen.detail
    assert (found.services, found.pids) == (["one"], [other.pid])


@pytest.mark.skipif(not psutil.LINUX, reason="the processes of this system are not read from a folder")
def test_strangers_on_many_ports_are_found_without_reading_the_machines_processes_for_each(make_stack) -> None:
    with ExitStack() as listening:
        ports = [_listen(listening) for _ in range(12)]
        stack = services_in(make_stack, f"one: {{run: process, command: [sleep, 60], ports: {ports}}}")
        with readings_of_processes() as readings:
            found = service.strangers(Services.of(stack))
    assert len(found.taken) == len(ports)
    assert found.pids == [os.getpid()]
    assert len(readings) <= 2  # for the sockets, and to find the stack's own processes


def _listen(until: ExitStack) -> int:
    server = until.enter_context(socket.create_server(("127.0.0.1", 0)))
    return int(server.getsockname()[1])


@contextmanager
def readings_of_processes() -> Iterator[list[str]]:
    """Notes each time that this thread lists the processes of the machine."""
    seen: list[str] = []

    def note(frame: FrameType, event: str, called: object) -> None:
        if event == "c_call" and called is os.listdir and frame.f_code.co_name == "pids":
            seen.append("/proc")

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_NOFILE"), reason="this system does not say how many files may be open")
def test_a_process_that_runs_and_can_open_no_more_files_has_that_as_its_cause(make_stack, free_port: int) -> None:
    stack = services_in(make_stack, WEB.format(port=free_port))
    lifecycle.start(stack, None, Deadline(10))
    [look] = lifecycle.status(stack)
    assert causes(stack, look) == []
    process = psutil.Process(look.status.pid)
    opened = process.num_fds()
    process.rlimit(psutil.RLIMIT_NOFILE, (opened, opened))
    assert causes(stack, look) == [(Kind.FILES, f"it has {opened} files open and may have {opened}")]


def test_the_clock_of_a_service_is_told_by_its_answers(make_stack, free_port: int) -> None:
    stack = services_in(make_stack, WEB.format(port=free_port))
    lifecycle.start(stack, None, Deadline(10))
    found = service.clocks(Services.of(stack), Deadline(5))
    assert found.wrong == []
    assert abs(found.offsets_s["one"]) < 5


def test_a_machine_that_has_all_lacks_nothing(make_stack) -> None:
    stack = services_in(make_stack, "one: {run: process, command: [sleep, 60]}")
    stack.state.mkdir(parents=True)
    found = host.lacks(Services.of(stack))
    assert (found.full, found.read_only, found.memory) == ([], [], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_and_one_mounted_read_only_are_told_with_the_folder(make_stack) -> None:
    stack = services_in(make_stack, 'one: {run: process, command: [sleep, "--at={{ state }}/data"]}')
    folder = stack.state / "data"
    folder.mkdir(parents=True)
    with small_disk(folder):
        services = Services.of(stack)
        assert host.lacks(services).full == []
        (folder / "large").write_bytes(b"\0" * (20 * 2**20))
        assert str(folder) in host.lacks(services).full[0]
        (folder / "large").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert "mounted read-only" in host.lacks(services).read_only[0]
        with pytest.raises(Exception, match="mounted read-only"):
            storage.allow_writing(services, Deadline(10), "data")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_owners_right_to_write_is_given_back(make_stack) -> None:
    stack = services_in(make_stack, "one: {run: process, command: [sleep, 60]}")
    inner = stack.state / "data" / "inner"
    inner.mkdir(parents=True)
    inner.chmod(0o500)
    inner.parent.chmod(0o500)
    done = storage.allow_writing(Services.of(stack), Deadline(10), "data")
    assert done.changed
    assert [Path(folder).name for folder in done.folders] == ["data", "inner"]
    assert storage.allow_writing(Services.of(stack), Deadline(10), "data").changed is False

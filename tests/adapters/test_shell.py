from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters import shell
from k2run.errors import Interrupted, Refused, TimedOut, Unreachable

TESTED_ON = {"shell": "system programs"}

OPEN_FILES = Path("/proc/self/fd")
TELLS = "from k2run.actions.deadline import Deadline; from k2run.adapters.shell import run; import os, signal; "


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def pid_in(file: Path, within: float = 3) -> int:
    end = time.monotonic() + within
    while not (file.exists() and file.read_text().strip()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(file.read_text())


def test_a_line_runs_in_the_shell_and_keeps_both_outputs():
    result = shell.run(Deadline(10), "echo one | tr a-z A-Z; echo trouble >&2")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "ONE", "trouble")
    assert result.headline() == "exit 0, ONE"


PLAIN = ("false", "ls  -d   /", "sh -c true", "no-such-program at all", "sort --key=1 /dev/null", "echo -n -e x")
MEANT = ("exit 3", "cd /", "A=1 printenv A", "echo $0", "ls -d /us*", "test a = a", "true && false", "[ a = b ]")
MEANT += ("echo ~", "")


@pytest.mark.parametrize("line", [*PLAIN, *MEANT])
def test_a_line_does_what_the_shell_would_do_with_it(line):
    ours = shell.run(Deadline(10), line, ok_codes=[*range(256)])
    shells = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)
    assert (ours.exit_code, ours.stdout) == (shells.returncode, shells.stdout.rstrip("\n"))
    assert re.sub(r"[\d.]+", "", ours.stderr) == re.sub(r"[\d.]+", "", shells.stderr.rstrip("\n"))


def test_a_line_has_the_whole_environment_that_we_were_started_with():
    show = f"{TELLS}import subprocess; shells = subprocess.run('A=1 env', shell=True, capture_output=True, text=True); "
    show += "print(run(Deadline(10), 'A=1 env').stdout == shells.stdout.rstrip())"
    environment = {"PATH": os.environ["PATH"], "HOME": "/", "MARK": "ü = ?", "EMPTY": ""}
    done = subprocess.run([sys.executable, "-c", show], env=environment, capture_output=True, check=True)
    assert done.stdout == b"True\n"


def test_a_program_is_looked_for_on_the_path_that_it_is_given(tmp_path):
    program = tmp_path / "greet"
    program.write_text("#!/bin/sh\necho hello from $(basename $0)\n")
    program.chmod(0o755)
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert shell.run(Deadline(10), "greet you", env=given).stdout == "hello from greet"
    program.unlink()
    assert shell.run(Deadline(10), "greet you", env=given, ok_codes=[127]).exit_code == 127


def test_a_list_runs_without_a_shell():
    assert shell.run(Deadline(10), ["echo", "$HOME; true"]).stdout == "$HOME; true"


def test_it_gets_its_environment_its_directory_and_its_input(tmp_path):
    result = shell.run(
        Deadline(10), 'echo "$COLOUR"; pwd; cat', env={"COLOUR": "green"}, cwd=str(tmp_path), stdin="fed"
    )
    assert result.stdout.split("\n") == ["green", str(tmp_path), "fed"]


def test_a_large_input_and_a_large_output_do_not_wait_for_each_other():
    text = "x" * 3_000_000
    result = shell.run(Deadline(20), ["cat"], stdin=text)
    assert result.stdout_bytes == len(text)
    assert (result.stdout, result.truncated) == (text, False)
    assert len(result.plain()["stdout"]) < 100_000
    assert "left out" in result.plain()["stdout"]


def test_a_command_that_does_not_read_its_input_is_not_a_problem():
    assert shell.run(Deadline(10), "exit 0", stdin="y" * 1_000_000).exit_code == 0


def test_another_exit_code_is_a_failure_with_the_last_words():
    with pytest.raises(Refused, match=r"exited 3: no disk"):
        shell.run(Deadline(10), "echo no disk >&2; exit 3")


def test_exit_codes_can_be_declared_good():
    assert shell.run(Deadline(10), "exit 3", ok_codes=[0, 3]).exit_code == 3


def test_a_command_that_a_signal_ended_says_which():
    with pytest.raises(Refused, match="SIGKILL"):
        shell.run(Deadline(10), "kill -9 $$")


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(Unreachable, match="no-such-program"):
        shell.run(Deadline(10), ["no-such-program", "-x"])
    with pytest.raises(Unreachable, match="no/such/place"):
        shell.run(Deadline(10), ["true"], cwd="/no/such/place")


def test_the_whole_group_ends_at_the_deadline(tmp_path):
    pids = tmp_path / "pid"
    started = time.monotonic()
    with pytest.raises(TimedOut):
        shell.run(Deadline(0.5), f"sleep 60 & echo $! > {pids}; wait")
    assert time.monotonic() - started < 1.0
    assert not alive(pid_in(pids))


def test_a_command_that_ignores_sigterm_ends_as_well(tmp_path):
    pids = tmp_path / "pid"
    started = time.monotonic()
    with pytest.raises(TimedOut):
        shell.run(Deadline(0.5), f"trap '' TERM; echo $$ > {pids}; while true; do sleep 0.05; done")
    assert time.monotonic() - started < 1.2
    assert not alive(pid_in(pids))


def test_a_descendant_that_left_the_group_ends_with_it(tmp_path):
    pids = tmp_path / "pid"
    program = f"import os,time; os.setsid(); open({str(pids)!r},'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(TimedOut):
        shell.run(
            Deadline(1.5), [sys.executable, "-c", f"import os,time\nif os.fork()==0:\n  {program}\ntime.sleep(60)"]
        )
    pid = pid_in(pids)
    for _ in range(50):
        if not alive(pid):
            break
        time.sleep(0.01)
    assert not alive(pid)


def test_a_server_left_behind_does_not_hold_the_step(tmp_path):
    pids = tmp_path / "pid"
    started = time.monotonic()
    result = shell.run(Deadline(10), f"echo started; sleep 30 & echo $! > {pids}")
    assert time.monotonic() - started < 1
    assert result.stdout == "started"
    os.kill(pid_in(pids), 9)


def test_a_server_left_behind_that_goes_on_talking_does_not_hold_the_step(tmp_path):
    pids = tmp_path / "pid"
    started = time.monotonic()
    shell.run(Deadline(10), f"yes & echo $! > {pids}; sleep 0.1")
    assert time.monotonic() - started < 2
    pid = pid_in(pids)
    if alive(pid):  # its pipe is closed by now, which may have ended it
        os.kill(pid, 9)


def test_a_request_to_stop_ends_the_command(tmp_path):
    pids = tmp_path / "pid"
    deadline = Deadline(30)
    threading.Timer(0.3, deadline.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        shell.run(deadline, f"echo $$ > {pids}; exec sleep 60")
    assert time.monotonic() - started < 1.0
    assert not alive(pid_in(pids))


ASKS = """
from k2run.actions.deadline import Deadline
from k2run.adapters import shell
open("/dev/tty").close()
print(shell.run(Deadline(10), "sh -c 'read answer < /dev/tty' 2>&1 || echo no terminal to ask on").stdout)
"""


def test_on_a_terminal_a_command_finds_none_to_ask_on_and_does_not_wait_for_an_answer():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", ASKS])
    said = b""
    with suppress(OSError):  # its terminal is gone when it has ended
        while part := os.read(terminal, 1024):
            said += part
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert "no terminal to ask on" in said.decode()


def test_without_a_terminal_a_command_is_in_a_group_of_its_own():
    show = "import os; from k2run.actions.deadline import Deadline; from k2run.adapters import shell; print(shell.run("
    show += "Deadline(10), ['python3', '-c', 'import os; print(os.getpid() == os.getpgid(0))']).stdout)"
    done = subprocess.run([sys.executable, "-c", show], start_new_session=True, capture_output=True, check=True)
    assert done.stdout == b"True\n"


def test_a_chatty_command_takes_bounded_memory():
    result = shell.run(Deadline(20), "head -c 50000000 /dev/zero")
    assert result.stdout_bytes == 50_000_000
    assert len(result.stdout) < 100_000
    assert result.truncated


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="the system does not list open files")
def test_no_file_descriptor_stays_open():
    shell.run(Deadline(10), "true")
    before = len(list(OPEN_FILES.iterdir()))
    for _ in range(20):
        shell.run(Deadline(10), "true", stdin="x")
    assert len(list(OPEN_FILES.iterdir())) <= before


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="the system does not list open files")
@pytest.mark.parametrize("way", [{}, {"cwd": "/"}, {"stdin": "x"}])
def test_a_command_finds_none_of_our_files_open(way, tmp_path):
    ours = os.open(tmp_path / "ours", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(ours, True)
    try:
        assert shell.run(Deadline(10), "ls /proc/self/fd", **way).stdout.split() == ["0", "1", "2", "3"]
    finally:
        os.close(ours)


@pytest.mark.parametrize("way", [{}, {"cwd": "/"}])
def test_a_command_ignores_no_signal_that_python_ignores(way):
    ignored = int(shell.run(Deadline(10), "grep SigIgn /proc/self/status", **way).stdout.split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


@pytest.mark.parametrize("closed", [1, 2, 3])
def test_without_standard_streams_of_our_own_outputs_are_not_mixed_up(closed, tmp_path):
    told = tmp_path / "told"
    tell = f"os.closerange(0, {closed}); told = run(Deadline(10), 'echo out; echo err >&2; cat'); "
    tell += f"open({str(told)!r}, 'w').write(told.stdout + ' ' + told.stderr)"
    subprocess.run([sys.executable, "-c", TELLS + tell], check=True)
    assert told.read_text() == "out err"


@pytest.mark.parametrize("way", ["'exit 3'", "'exit 3', cwd='/'", "'cat; exit 3', stdin='x'", "'sleep 0.2; exit 3'"])
def test_an_exit_code_that_the_system_does_not_keep_is_unknown_and_not_0(way):
    done = subprocess.run(
        [sys.executable, "-c", f"{TELLS}signal.signal(signal.SIGCHLD, signal.SIG_IGN); run(Deadline(10), {way})"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Unknown: the command has ended, and how is not known" in done.stderr


def test_a_probe_answers_with_the_codes_that_are_an_answer_and_refuses_the_others(tmp_path):
    log = tmp_path / "log"
    log.write_text("fine\n")
    look = ["grep", "-c", "ERROR", str(log)]
    assert shell.probe(Deadline(10), look, ok_codes=[0, 1]).exit_code == 1
    with pytest.raises(Refused, match="exited 2"):
        shell.probe(Deadline(10), ["grep", "ERROR", str(tmp_path / "gone")], ok_codes=[0, 1])

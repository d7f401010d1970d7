from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.service import actions
from k2run.errors import Interrupted, NotApplicable, Refused, Unknown, Unreachable
from k2run.language.quantities import Duration
from k2run.stack import lifecycle
from k2run.stack.services import Services
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.actions.action import Striking, Undo

TESTED_ON = {"service": "processes and containers"}

PROGRAM = """\
import datetime, http.server, socketserver, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "21")
        self.end_headers()
        self.wfile.write(b'{"status": "healthy"}')
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page)
print(datetime.datetime.now(datetime.UTC).isoformat(), "level=INFO serving", flush=True)
server.serve_forever()
"""
SOON = 10.0


@pytest.fixture
def services(tmp_path: Path, free_tcp_port: int) -> Iterator[Services]:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "bench.yaml").write_text(f"""\
stack: 1
services:
  api:
    run: process
    command: [python, "{{{{ here }}}}/program.py", {free_tcp_port}]
    ports: [{free_tcp_port}]
    ready: {{http: "http://127.0.0.1:{free_tcp_port}/", body: {{status: healthy}}}}
  sleeper: {{run: process, command: [sleep, 600]}}
  busy: {{run: process, command: [python, -c, "while True: pass"]}}
  user: {{run: process, command: [sleep, "600"], needs: [between]}}
  between: {{run: process, command: [sleep, "600"], needs: [busy]}}
  dying: {{run: process, command: [sh, -c, "echo no such table; exit 3"], ready: {{tcp: "127.0.0.1:1"}}}}
  graphs: {{run: process, command: [x], program: no-such-program}}
  far: {{ready: {{tcp: "127.0.0.1:1"}}}}
  away: {{run: external}}
""")
    stack = load_stack(str(tmp_path / "bench.yaml"), near=None, home=tmp_path / "home", overrides={})
    yield Services.of(stack)
    lifecycle.stop(stack)


def soon() -> Deadline:
    return Deadline(SOON)


def strike(fault: Striking[Any]) -> tuple[list[Undo], Any]:
    """Play the engine: keep each undo, let the fault continue, and take its result."""
    undos = []
    try:
        while True:
            undos.append(next(fault))
    except StopIteration as end:
        return undos, end.value


def play(services: Services, undo: Undo) -> Any:
    return getattr(actions, undo.action.removeprefix("service."))(services, soon(), **undo.args)


def test_a_started_service_is_ready_when_the_step_ends(services: Services) -> None:
    assert actions.status(services, "api").state == "stopped"
    revived = actions.start(services, soon(), "api")
    assert (revived.changed, revived.ready) == (True, True)
    seen = actions.status(services, "api")
    assert (seen.state, seen.running, seen.pid, seen.restarts) == ("running", True, revived.pid, 0)
    assert "running for" in seen.headline()
    again = actions.start(services, soon(), "api")
    assert (again.changed, again.pid) == (False, revived.pid)


@pytest.mark.parametrize("name", ["kill", "stop", "pause"])
def test_a_fault_names_its_undo_before_it_strikes_and_the_undo_puts_it_back(services: Services, name: str) -> None:
    actions.start(services, soon(), "api")
    fault = getattr(actions, name)(services, soon(), "api")
    undo = next(fault)
    assert undo.args == {"service": "api"}
    assert actions.status(services, "api").state == "running"
    _, struck = strike(fault)
    assert struck.state == ("paused" if name == "pause" else "stopped")
    play(services, undo)
    assert actions.status(services, "api").state == "running"
    assert actions.ready(services, soon(), "api", Duration(5)).ready


@pytest.mark.parametrize("name", ["kill", "stop", "pause"])
def test_an_undo_does_no_harm_twice_or_when_nothing_is_broken(services: Services, name: str) -> None:
    actions.start(services, soon(), "api")
    [undo], _ = strike(getattr(actions, name)(services, soon(), "api"))
    play(services, undo)
    pid = actions.status(services, "api").pid
    play(services, undo)
    assert actions.status(services, "api").pid == pid


def test_an_undo_works_from_a_process_that_knows_nothing_of_the_fault(services: Services) -> None:
    actions.start(services, soon(), "api")
    strike(actions.kill(services, soon(), "api"))
    program = (
        "from pathlib import Path; from k2run.stack.stack import load_stack\n"
        "from k2run.stack.services import Services; from k2run.actions.deadline import Deadline\n"
        "from k2run.adapters.service import actions as service\n"
        f"home = Path({str(services.stack.state.parents[1])!r})\n"
        f"stack = load_stack({str(services.stack.path)!r}, near=None, home=home,"
        " overrides={})\n"
        "print(service.start(Services.of(stack), Deadline(10), 'api').ready)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr
    assert actions.status(services, "api").state == "running"


def test_a_fault_that_is_abandoned_before_it_strikes_breaks_nothing(services: Services) -> None:
    actions.start(services, soon(), "api")
    fault = actions.kill(services, soon(), "api")
    next(fault)
    fault.close()
    assert actions.status(services, "api").state == "running"


def test_faults_at_the_same_time_are_undone_newest_first(services: Services) -> None:
    actions.start(services, soon(), "api")
    first, _ = strike(actions.pause(services, soon(), "api"))
    second, _ = strike(actions.kill(services, soon(), "api"))
    for undo in (*second, *first):
        play(services, undo)
    assert actions.ready(services, soon(), "api", Duration(5)).ready


@pytest.mark.parametrize("name", ["kill", "stop", "pause"])
def test_what_does_not_run_or_is_not_ours_is_not_broken(services: Services, name: str) -> None:
    fault = getattr(actions, name)
    with pytest.raises(Refused, match="sleeper is not running; cannot inject"):
        next(fault(services, soon(), "sleeper"))
    with pytest.raises(NotApplicable, match="k2run does not run far"):
        next(fault(services, soon(), "far"))
    with pytest.raises(NotApplicable, match="no-such-program is not installed"):
        next(fault(services, soon(), "graphs"))
    with pytest.raises(NotApplicable, match="no service 'ap'; did you mean `api`"):
        next(fault(services, soon(), "ap"))


def test_a_service_that_was_ending_as_it_was_seen_to_run_is_started(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = actions.start(services, soon(), "api")
    await_ready = lifecycle.await_ready

    def after_its_end(*given: Any) -> Any:
        monkeypatch.undo()
        process = psutil.Process(first.pid)
        process.kill()
        process.wait(SOON)
        return await_ready(*given)

    monkeypatch.setattr(lifecycle, "await_ready", after_its_end)
    again = actions.start(services, soon(), "api")
    assert (again.changed, again.ready) == (True, True)
    assert again.pid != first.pid


def test_a_restarted_service_is_a_new_process_that_is_ready(services: Services) -> None:
    before = actions.start(services, soon(), "api")
    after = actions.restart(services, soon(), "api")
    assert after.pid != before.pid
    assert after.ready
    assert actions.status(services, "api").restarts == 1


def test_a_restart_that_is_interrupted_does_not_leave_the_service_down(services: Services, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + PROGRAM)
    actions.start(services, soon(), "api")
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(Interrupted):
        actions.restart(services, Deadline(SOON, stop), "api")
    assert actions.status(services, "api").state == "running"


def test_a_service_that_dies_while_it_is_started_is_refused_with_its_last_words(services: Services) -> None:
    with pytest.raises(Refused, match=r"dying ended with exit code 3 .*\n  \| no such table"):
        actions.start(services, soon(), "dying")


def test_readiness_is_an_answer_not_a_process(services: Services) -> None:
    with pytest.raises(Unreachable, match=r"api is not ready \(stopped: not started\).*refused"):
        actions.ready(services, soon(), "api")
    actions.start(services, soon(), "api")
    seen = actions.ready(services, soon(), "api")
    assert seen.source.startswith("http://127.0.0.1:")
    os.killpg(actions.status(services, "api").pid or 0, signal.SIGSTOP)
    with pytest.raises(Unreachable, match=r"api is not ready \(paused\): .*: no answer"):
        actions.ready(services, Deadline(0.5), "api")
    actions.resume(services, soon(), "api")


def test_without_a_probe_only_what_is_known_to_be_stopped_is_not_ready(services: Services) -> None:
    with pytest.raises(Unreachable, match="sleeper is not ready: stopped: not started"):
        actions.ready(services, soon(), "sleeper")
    assert not actions.probe(services, soon(), "sleeper").answered
    actions.start(services, soon(), "sleeper")
    with pytest.raises(Unknown, match="whether sleeper is ready cannot be known"):
        actions.ready(services, soon(), "sleeper")
    with pytest.raises(NotApplicable, match="does not say how"):
        actions.probe(services, soon(), "sleeper")
    with pytest.raises(Unknown, match="whether away is ready cannot be known"):
        actions.ready(services, soon(), "away")
    with pytest.raises(NotApplicable, match="does not say how"):
        actions.probe(services, soon(), "away")


def test_readiness_can_be_waited_for(services: Services) -> None:
    services.backend("api").start(soon())
    seen = actions.ready(services, soon(), "api", Duration(5))
    assert 0 < seen.waited_s < 5


def test_a_log_is_searched_for_a_pattern(services: Services) -> None:
    with pytest.raises(Unknown, match="api has no log"):
        actions.logs(services, soon(), "api")
    actions.start(services, soon(), "api")
    actions.ready(services, soon(), "api")
    found = actions.logs(services, soon(), "api", pattern=r"level=\w+ serving", since=Duration(60))
    assert (found.matches, len(found.lines)) == (1, 1)
    assert str(datetime.now(UTC).year) in found.lines[0]
    assert actions.logs(services, soon(), "api", pattern="no such thing").matches == 0
    with pytest.raises(Refused, match="not a regular expression"):
        actions.logs(services, soon(), "api", pattern="(")


def test_what_a_service_uses_is_measured(services: Services) -> None:
    actions.start(services, soon(), "api")
    used = actions.resources(services, soon(), "api", Duration(0.2))
    assert used.rss > 5 * 2**20
    assert used.rss_mib == round(used.rss / 2**20, 1)
    assert 0 <= used.cpu_percent < 100 * psutil.cpu_count()
    with pytest.raises(Refused, match="is not running"):
        actions.resources(services, soon(), "sleeper")


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not say how long threads wait")
def test_a_service_that_waits_for_a_core_or_needs_one_that_does_is_not_judged_idle(services: Services) -> None:
    actions.start(services, soon(), "busy")
    pid = services.backend("busy").status().pid
    assert pid is not None
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(pid, {core})
    others = [
        subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, "-c", "while True: pass"],
            start_new_session=True,  # Linux shares a core out among sessions first: each of them shall count as one
        )
        for _ in range(3)
    ]
    try:
        waited = actions.resources(services, soon(), "busy", Duration(1)).waiting_percent
        assert waited is not None
        assert waited > 30
        with pytest.raises(Unknown, match=r"busy waited for a core [\d.]+ % of the time"):
            actions.resources(services, soon(), "busy", Duration(1), most_waiting=30)
        actions.start(services, soon(), "user")
        assert actions.resources(services, soon(), "user", Duration(1)).cpu_percent < 10
        with pytest.raises(Unknown, match=r"busy waited for a core [\d.]+ % of the time"):
            actions.resources(services, soon(), "user", Duration(1), most_waiting=30)
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_a_probe_tells_a_service_that_is_down_instead_of_failing(services):
    seen = actions.probe(services, Deadline(SOON), "far")
    assert (seen.ready, seen.answered) == (False, False)
    assert "refused" in seen.detail.lower()


def test_a_roll_call_tells_who_does_the_work_who_is_held_and_who_is_down(services: Services) -> None:
    actions.start(services, soon(), "api")
    actions.start(services, soon(), "sleeper")
    strike(actions.pause(services, soon(), "sleeper"))
    found = actions.roll_call(services, soon())
    assert "api" in found.well
    assert found.held == ["sleeper"]
    assert "dying" in found.down
    assert "graphs" not in {*found.well, *found.down, *found.silent}
    assert "down: " in found.headline()

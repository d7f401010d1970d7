"""What comes and goes is seen by looking more than once, and named as flapping."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from k2run.recovery.diagnosis import Word
from k2run.recovery.looks import BLIND_S, LATE_S, Heartbeat, diagnose, together, watch

HELD = """\
- name: It is held
  service.status: {service: worker}
  expect: result.state == 'paused'
"""


def looks(site, *held: bool):
    """Diagnoses of the same stack, with its worker held in some of them."""
    runbook = site.symptoms("worker-held", HELD)
    process = psutil.Process(site.pid("worker"))
    found = []
    for one in held:
        process.send_signal(signal.SIGSTOP if one else signal.SIGCONT)
        time.sleep(0.05)
        found.append(diagnose([runbook], site.stack(), site.catalogue))
    process.send_signal(signal.SIGCONT)
    return together(found, 1.0)


def test_a_failure_that_comes_and_goes_is_flapping_and_no_health(site):
    found = looks(site, False, True, False)
    assert not found.healthy
    assert {(flap.name, flap.kind, flap.ill, flap.looks) for flap in found.flapping} == {
        ("worker-held", "failure", 1, 3),
        ("worker", "service", 1, 3),
    }
    assert [suspect.runbook for suspect in found.matches] == ["worker-held"]


def test_a_failure_that_begins_while_it_is_looked_is_no_flapping(site):
    found = looks(site, False, True, True)
    assert not found.healthy
    assert found.flapping == []


def test_a_stack_that_is_well_in_every_look_is_healthy(site):
    found = watch([site.symptoms("worker-held", HELD)], site.stack(), site.catalogue, threading.Event(), 1.2)
    assert found.healthy
    assert found.looks > 1


LATE = """\
- name: It answers with an error
  http.get: {url: 'http://127.0.0.1:PORT/'}
  expect: result.status >= 500
"""


def test_what_cannot_be_seen_yet_is_looked_at_again(site):
    """A stack that has just come up: its consumer has no group yet, its API does not listen yet."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler, bind_and_activate=False)
    server.server_bind()

    def come_up() -> None:
        server.server_activate()
        server.serve_forever()

    coming = threading.Timer(1.5, come_up)
    began = time.monotonic()
    coming.start()
    runbook = site.symptoms("late", LATE.replace("PORT", str(server.server_port)))
    found = watch([runbook], site.stack(), site.catalogue, threading.Event(), 0)
    coming.join(0.1)
    server.shutdown()
    server.server_close()
    assert (found.word, found.looks) == (Word.HEALTHY, 1)
    assert time.monotonic() - began >= 1.5


def test_a_failure_is_named_at_the_first_look_whatever_else_cannot_be_seen(site):
    site.kill("worker")
    runbook = site.symptoms("late", LATE.replace("PORT", "1"))
    found = watch([runbook], site.stack(), site.catalogue, threading.Event(), 0)
    assert (found.word, found.seconds < BLIND_S) == (Word.UNHEALTHY, True)


HELD_UP = """\
import time
from k2run.recovery.looks import Heartbeat
with Heartbeat() as beat:
    print("ready", flush=True)
    time.sleep(2)
print(beat.worst_s)
"""


def test_a_process_that_was_held_up_knows_how_late_it_was():
    with subprocess.Popen([sys.executable, "-c", HELD_UP], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        assert float(process.stdout.readline()) > 1.2


@pytest.mark.parametrize(("late", "word"), [(0.0, Word.UNHEALTHY), (LATE_S + 1, Word.HEALTHY)])
def test_what_a_starved_process_found_is_looked_for_once_more(site, monkeypatch, late, word):
    process = psutil.Process(site.pid("worker"))
    process.suspend()
    while process.status() != psutil.STATUS_STOPPED:  # a busy machine stops it later than it was told to
        time.sleep(0.01)

    def end(beat: Heartbeat, *_: object) -> None:
        beat.worst_s = late
        process.resume()

    monkeypatch.setattr(Heartbeat, "__exit__", end)
    found = watch([site.symptoms("worker-held", HELD)], site.stack(), site.catalogue, threading.Event(), 0)
    assert found.word is word


def test_the_command_names_what_flaps(site):
    process = psutil.Process(site.pid("worker"))
    over = threading.Event()

    def flap() -> None:
        while not over.wait(0.9):
            process.send_signal(signal.SIGSTOP)
            over.wait(0.9)
            process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=flap)
    thread.start()
    code, said = site.command("diagnose", "--stack", "stack.yaml", "--for", "6s")
    over.set()
    thread.join()
    assert code == 1
    assert "flapping: worker (service)" in said
    assert site.command("diagnose", "--stack", "stack.yaml", "--for", "often")[0] == 2


def test_a_resource_is_freed_before_any_service_is_repaired(site):
    site.kill("worker")
    free = site.symptoms(
        "disk-full", "- name: Full\n  service.status: {service: worker}\n  expect: not result.running\n"
    )
    found = site.diagnose(site.repair("worker"), free)
    assert [suspect.runbook for suspect in found.matches] == ["disk-full", "worker-down"]
    assert [(why.service, why.kind) for why in found.causes] == [("worker", "exit")]

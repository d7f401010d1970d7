from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from k2run.app.guided import GuidedFace, TerminalGuide
from k2run.engine.events import Noted, Outcome, StepFinished
from k2run.engine.prompts import Decision, Guide, Move, Planned
from k2run.engine.run import run
from k2run.recovery.repairs import Repairs

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

THREE = """\
runbook: 1
kind: recovery
name: three
sections:
  - name: Only
    steps:
      - name: first
        assert: {that: true}
      - name: second
        assert: {that: true}
      - name: third
        assert: {that: true}
"""


class Script(Guide):
    """Decides as it is written beforehand, and goes on when there is no more."""

    def __init__(self, before: list[Decision], after: list[Decision] | None = None) -> None:
        self.asked: list[Planned] = []
        self._before: Iterator[Decision] = iter(before)
        self._after: Iterator[Decision] = iter(after or [])

    def before(self, planned: Planned, stop: threading.Event) -> Decision:  # noqa: ARG002 - the form of a guide
        self.asked.append(planned)
        return next(self._before, Decision())

    def after(self, planned: Planned, outcome: Outcome, stop: threading.Event) -> Decision:  # noqa: ARG002 - likewise
        return next(self._after, Decision())


def finished(site) -> list[tuple[str, str]]:
    return [(event.name, event.outcome.value) for event in site.seen if isinstance(event, StepFinished)]


def test_a_skipped_step_is_recorded_with_who_skipped_it(site):
    guide = Script([Decision(), Decision(move=Move.SKIP, by="ann")])
    run(site.request(site.runbook(THREE), guide=guide))
    assert finished(site) == [("first", "passed"), ("second", "skipped"), ("third", "passed")]
    [skipped] = [event for event in site.seen if isinstance(event, StepFinished) and event.outcome is Outcome.SKIPPED]
    assert skipped.message == "skipped by ann"


def test_the_step_before_can_be_done_again(site):
    run(site.request(site.runbook(THREE), guide=Script([Decision(), Decision(move=Move.REDO)])))
    assert [name for name, _ in finished(site)] == ["first", "first", "second", "third"]


def test_a_step_that_failed_can_be_done_again_until_it_passes(site):
    mark = site.folder / "ready"
    shell = f"shell.run: {{command: [sh, -c, 'test -e {mark} || (touch {mark}; exit 1)']}}"
    text = THREE.replace("assert: {that: true}", shell, 1)
    guide = Script([], [Decision(move=Move.REDO, by="ann")])
    ended = run(site.request(site.runbook(text), guide=guide))
    assert finished(site)[:2] == [("first", "failed"), ("first", "passed")]
    assert ended.outcome is Outcome.PASSED


def test_abort_ends_the_run_as_interrupted(site):
    ended = run(site.request(site.runbook(THREE), guide=Script([Decision(), Decision(move=Move.ABORT, by="ann")])))
    assert (ended.exit_code, ended.outcome) == (3, Outcome.INTERRUPTED)
    assert [name for name, _ in finished(site)] == ["first"]


def test_notes_are_kept_with_their_step(site):
    run(site.request(site.runbook(THREE), guide=Script([Decision(by="ann", notes=("the disk was full",))])))
    [note] = [event for event in site.seen if isinstance(event, Noted)]
    assert (note.message, note.hint) == ("ann: the disk was full", "noted at: first")


def test_the_guide_is_told_what_the_step_does_and_how_much_time_is_left(site):
    site.kill("worker")
    guide = Script([])
    ended = run(site.request(site.repair("worker"), guide=guide))
    [planned, *_] = guide.asked
    assert (planned.action, planned.effect, planned.args) == ("service.start", "changes", {"service": "worker"})
    assert planned.says.startswith("Start a service")
    assert planned.rto == 20
    assert 0 <= planned.elapsed < 10
    assert ended.outcome is Outcome.PASSED


def test_the_screen_says_in_how_much_of_its_time_a_failure_was_recovered(site):
    site.kill("worker")
    screen = io.StringIO()
    run(replace(site.request(site.repair("worker")), observers=(site, GuidedFace(screen))))
    assert re.search(r"recovered in [\d.]+m?s( ± [\d.]+m?s)? of 20s\n", screen.getvalue()), screen.getvalue()


def test_of_several_failures_each_shows_how_much_time_it_has_left(site, keyboard):
    stream, keys = keyboard
    runbooks = [site.repair("worker"), site.repair("store")]
    for service in ("worker", "store"):
        site.kill(service)
    repair = Repairs(runbooks, site.stack(), site.catalogue, 4).next(site.diagnose(*runbooks))
    assert repair is not None
    [other] = repair.waiting
    assert {repair.runbook.name, other.name} == {"worker-down", "store-down"}
    screen = io.StringIO()
    face = GuidedFace(screen, (), repair.waiting)
    os.write(keys, b"a\n")
    request = site.request(repair.runbook, guide=TerminalGuide(face, Unbuffered(stream.fileno())))
    run(replace(request, observers=(site, face)))
    assert re.search(rf"then +{other.name}, \S+ of 20s, \d+s left", screen.getvalue())


@pytest.fixture
def keyboard() -> Iterator[tuple[io.TextIOWrapper, int]]:
    reads, writes = os.pipe()
    stream = os.fdopen(reads)
    yield stream, writes
    stream.close()
    os.close(writes)


def test_keys_decide_at_the_terminal_and_the_screen_shows_what_is_asked(site, keyboard):
    stream, keys = keyboard
    screen = io.StringIO()
    face = GuidedFace(screen)
    # The input is read line by line, as it is typed: a note, a key without a meaning, skip, continue.
    guide = TerminalGuide(face, Unbuffered(stream.fileno()))
    os.write(keys, b"n tried this before\nx\ns\n\n\n")
    ended = run(replace(site.request(site.runbook(THREE), guide=guide), observers=(site, face)))
    shown = screen.getvalue()
    assert ended.outcome is Outcome.PASSED
    assert finished(site)[0] == ("first", "skipped")
    assert "step 1: first" in shown
    assert "one of these keys" in shown
    assert "tried this before" in shown
    assert "r redo the last" in shown


class Unbuffered(io.TextIOBase):
    """A keyboard that gives a line at a time and keeps nothing back, as a terminal does."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def readline(self, size: int = -1) -> str:  # noqa: ARG002 - the form of a stream
        typed = b""
        while not typed.endswith(b"\n"):
            more = os.read(self._number, 1)
            if not more:
                break
            typed += more
        return typed.decode()

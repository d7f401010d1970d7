"""Nothing beside the journal keeps `always` and undos from running: not a full disk, and nothing that is for people."""

from __future__ import annotations

import io
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from k2run.actions.action import Answer, Person
from k2run.actions.deadline import Deadline
from k2run.app.guided import GuidedFace
from k2run.engine.events import Noted, Outcome, RunFinished, UndoFinished, UndoPlanned
from k2run.engine.prompts import Decision, Guide, Planned
from k2run.engine.replay import pending_undos
from k2run.engine.run import run
from k2run.stack import lifecycle
from k2run.terminal.mode import open_face

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Bench

    from k2run.engine.events import AnyEvent
    from k2run.terminal.face import Face

SERVICES = ("one", "two", "three", "four")
STACK = "stack: 1\nname: five\nservices:\n" + "".join(
    f'  {name}: {{run: process, command: [sleep, "600"]}}\n' for name in SERVICES
)
FIVE = """\
runbook: 1
kind: scenario
name: five
title: Five faults at once
sections:
  - name: Break
    steps:
      - {name: Pause one, service.pause: {service: one}}
      - {name: Kill two, service.kill: {service: two}}
      - {name: Stop three, service.stop: {service: three}}
      - {name: Change four, settings.change: {service: four, options: {'600': '500'}, settle: 0s}}
      - {name: Hide the settings, storage.hide: {path: data/settings.toml}}
      - {name: Work, shell.run: {command: "true"}}
always:
  - {name: Tidy up, shell.run: {command: "echo done >> ALWAYS"}}
"""


class Site:
    """A stack of four real processes and a file, whose home may be a disk of its own."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.always = bench.folder / "always"
        self.text = FIVE.replace("ALWAYS", str(self.always))

    @property
    def settings(self) -> Path:
        return self.bench.store.stack_folder("five") / "data" / "settings.toml"

    def run(self, *observers: Any, **more: Any) -> RunFinished:
        self.always.unlink(missing_ok=True)
        self.bench.seen.clear()
        request = self.bench.request(self.text)
        fields = {name: getattr(request, name) for name in request.__struct_fields__} | more
        return run(type(request)(**{**fields, "observers": (*observers, self.bench)}))

    def is_whole(self) -> bool:
        """Whether all is as it was before the run."""
        running = self.bench.processes()
        states = {process.status() for process in running.values()}
        commands = {tuple(process.cmdline()[1:]) for process in running.values()}
        whole = set(running) == set(SERVICES) and psutil.STATUS_STOPPED not in states and commands == {("600",)}
        return whole and self.settings.read_text() == "rate = 200\n"

    def check(self, finished: RunFinished) -> None:
        """All is undone and said to be, `always` ran, and nothing is left to settle."""
        said = (finished.verdict, finished.reasons, finished.pending_undos)
        assert self.is_whole(), said
        assert self.always.read_text() == "done\n", said
        assert not finished.pending_undos, said
        assert self.bench.store.open_run("five") is None


@pytest.fixture
def site(bench: Bench) -> Iterator[Site]:
    yield from _raised(bench)


@pytest.fixture
def small(bench: Bench) -> Iterator[Site]:
    """The same, with a home of one megabyte."""
    home = bench.folder / "home"
    home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(home)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield from _raised(bench)
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)


def _raised(bench: Bench) -> Iterator[Site]:
    bench.stack_text = STACK
    site = Site(bench)
    site.settings.parent.mkdir(parents=True)
    site.settings.write_text("rate = 200\n")
    lifecycle.start(bench.stack(), None, Deadline(10), lambda _text: None)
    yield site
    lifecycle.stop(bench.stack(), SERVICES)


class Raises:
    """Who looks on, and raises: at one event, or at each."""

    def __init__(self, error: BaseException, at: int = 0) -> None:
        self._error = error
        self._at = at

    def see(self, event: AnyEvent) -> None:
        if self._at in {0, event.seq}:
            raise self._error


class Fills:
    """Fills the disk of a folder at one event, to the last byte."""

    def __init__(self, folder: Path, at: int) -> None:
        self.file = folder / "filler"
        self._at = at

    def see(self, event: AnyEvent) -> None:
        if event.seq == self._at:
            fill(self.file)


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):  # there is no more room
                while True:
                    file.write(bytes(size))


FAILURES = [OSError(5, "Input/output error"), RuntimeError("a defect"), SystemExit(0), KeyboardInterrupt()]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_an_observer_that_raises_at_every_event_ends_nothing(site: Site, error: BaseException) -> None:
    finished = site.run(Raises(error))
    site.check(finished)
    assert finished.exit_code == 0
    assert [event.message for event in site.bench.seen if isinstance(event, Noted)] == [
        f"Raises failed, and the run went on without it: {type(error).__name__}" + (f": {error}" if str(error) else "")
    ]


@pytest.mark.slow
def test_an_observer_that_raises_at_any_one_event_ends_nothing(site: Site) -> None:
    site.run()
    for number in range(1, len(site.bench.seen) + 1):
        finished = site.run(Raises(OSError(5, "Input/output error"), number))
        site.check(finished)
        assert finished.exit_code == 0


def test_a_disk_that_is_full_while_faults_are_in_force_keeps_no_undo_from_being_played(small: Site) -> None:
    small.run()
    struck = next(event.seq for event in small.bench.seen if isinstance(event, UndoPlanned) and "three" in event.says)
    _fill_at(small, struck)


@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_one_event_keeps_no_undo_from_being_played(small: Site) -> None:
    small.run()
    for number in range(1, len(small.bench.seen) + 1):
        _fill_at(small, number)


def _fill_at(small: Site, number: int) -> None:
    """A run whose disk is full from one event on: it ends cleanly, and the journal has all of it."""
    fills = Fills(small.bench.store.home, number)
    finished = small.run(fills)
    small.check(finished)
    events = small.bench.journal()
    assert isinstance(events[-1], RunFinished), f"filled at {number}"
    assert not pending_undos(events)
    full = any("No space left" in reason for reason in finished.reasons)
    assert finished.exit_code == (1 if full else 0)
    planned = sum(isinstance(event, UndoPlanned) for event in events)
    undone = [event for event in events if isinstance(event, UndoFinished)]
    assert [event.outcome for event in undone] == [Outcome.PASSED] * planned
    fills.file.unlink(missing_ok=True)
    for folder in small.bench.store.runs():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def test_a_disk_that_stays_full_loses_the_journal_and_nothing_else(small: Site) -> None:
    class Greedy(Fills):
        """Takes also what is given back."""

        def see(self, event: AnyEvent) -> None:
            if event.seq >= self._at:
                fill(self.file)

    for number in (8, 12):
        greedy = Greedy(small.bench.store.home, number)
        finished = small.run(greedy)
        small.check(finished)
        assert finished.exit_code == 1
        assert "No space left" in finished.verdict
        greedy.file.unlink()


def test_a_run_that_is_killed_on_a_full_disk_is_undone_on_it(small: Site) -> None:
    text = small.text.replace('command: "true"', f'command: "touch {small.always}; sleep 60"')
    path = small.bench.write(text)
    process = small.bench.command("run", str(path), "--stack", str(small.bench.stack_file), "--plain")
    _wait(small.always.exists)
    fill(small.bench.store.home / "filler")
    process.kill()
    process.communicate()
    code, out = small.bench.output("undo")
    assert code == 0, out
    assert small.is_whole(), out
    assert "Traceback" not in out


def test_a_command_on_a_full_disk_ends_with_its_own_exit_code_and_no_traceback(small: Site) -> None:
    text = small.text.replace('command: "true"', f'command: "cat /dev/zero > {small.bench.store.home}/filler; false"')
    path = small.bench.write(text)
    code, out = small.bench.output("run", str(path), "--stack", str(small.bench.stack_file), "--plain")
    assert code == 1, out
    assert small.is_whole(), out
    assert "Traceback" not in out
    assert "STILL BROKEN" not in out
    assert "No space left" in out
    (small.bench.store.home / "filler").unlink()


def _wait(holds: Callable[[], bool], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


class Broken(io.StringIO):
    """A stream that breaks at one write, or at each."""

    def __init__(self, error: BaseException, at: int = 0) -> None:
        super().__init__()
        self.writes = 0
        self._error = error
        self._at = at

    def write(self, text: str) -> int:
        self.writes += 1
        if self._at in {0, self.writes}:
            raise self._error
        return len(text)


FACES: dict[str, Callable[[Any], Face]] = {
    "plain": lambda stream: open_face("plain", stream),
    "json": lambda stream: open_face("json", stream),
    "live": lambda stream: open_face("live", stream),
    "guided": GuidedFace,
}


def _run_before(site: Site, face: Face, **more: Any) -> RunFinished:
    with face:
        return site.run(face, **more)


@pytest.mark.parametrize("error", FAILURES[:2], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", FACES)
def test_a_face_whose_terminal_breaks_ends_nothing(site: Site, name: str, error: Exception) -> None:
    finished = _run_before(site, FACES[name](Broken(error)))
    site.check(finished)
    assert finished.exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FACES)
def test_a_face_whose_terminal_breaks_at_any_one_write_ends_nothing(site: Site, name: str) -> None:
    quiet = Broken(OSError(), -1)
    _run_before(site, FACES[name](quiet))
    for number in range(1, quiet.writes + 1):
        for error in FAILURES[:2]:
            finished = _run_before(site, FACES[name](Broken(error, number)))
            site.check(finished)
            assert finished.exit_code == 0


class Gone(Guide, Person):
    """An operator who guides, or is asked, and whose terminal breaks at the n-th question."""

    def __init__(self, at: int) -> None:
        self._left = at

    def before(self, planned: Planned, stop: threading.Event) -> Decision:  # noqa: ARG002 - the form of a guide
        self._left -= 1
        if not self._left:
            raise OSError(5, "Input/output error")
        return Decision()

    def after(self, planned: Planned, outcome: Outcome, stop: threading.Event) -> Decision:  # noqa: ARG002 - likewise
        return Decision()

    def ask(self, question: str, **more: Any) -> Answer | None:  # noqa: ARG002 - likewise
        raise OSError(5, "Input/output error")


def test_a_guide_that_is_gone_at_any_step_has_ended_the_run(site: Site) -> None:
    for number in range(1, 8):
        finished = site.run(guide=Gone(number))
        site.check(finished)
        assert finished.exit_code == 3
        assert any("the guide failed" in getattr(event, "message", "") for event in site.bench.seen)


def test_a_person_who_cannot_be_asked_is_nobody(site: Site) -> None:
    site.text = site.text.replace(
        '{name: Work, shell.run: {command: "true"}}', "{name: Ask, manual.confirm: {that: ok}}"
    )
    finished = site.run(person=Gone(0))
    site.check(finished)
    assert site.bench.outcomes()["Ask"] == "not_confirmed"


@pytest.mark.parametrize("name", ["report.html", "debug.log", "messenger.log", "report.md"])
def test_a_file_for_people_that_cannot_be_written_changes_no_exit_code(site: Site, name: str) -> None:
    bench = site.bench
    place = bench.store.home / "messenger.log"
    (bench.folder / "k2run.yaml").write_text("notifications: [{desktop: true}]\n")
    text = site.text
    if name == "messenger.log":
        place.mkdir(parents=True)
    else:
        text = text.replace('command: "true"', f"command: 'mkdir $(echo {bench.store.home}/runs/*)/{name}'")
    code, out = bench.output("run", str(bench.write(text)), "--stack", str(bench.stack_file), "--plain")
    assert code == 0, out
    assert site.is_whole(), out
    assert "Traceback" not in out
    last = "warning: the report failed: " if name.startswith("report") else "report "
    assert out.splitlines()[-1].startswith(last)


def test_a_run_that_is_asked_to_end_on_a_full_disk_ends_as_one(small: Site) -> None:
    text = small.text.replace('command: "true"', f'command: "touch {small.always}; sleep 60"')
    process = small.bench.command(
        "run", str(small.bench.write(text)), "--stack", str(small.bench.stack_file), "--plain"
    )
    _wait(small.always.exists)
    fill(small.bench.store.home / "filler")
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 3, out
    assert small.is_whole(), out
    assert "Traceback" not in out

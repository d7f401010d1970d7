import io
import os
import pty
import re
import struct
import termios
import threading
import time
import xml.etree.ElementTree as ET
from fcntl import ioctl

import pytest
from msgspec.structs import replace

from k2run.engine.events import (
    FaultStruck,
    Outcome,
    OutlineSection,
    OutlineStep,
    RunStarted,
    SectionStarted,
    StackChanged,
    StepFinished,
    StepStarted,
    StepTried,
    UndoPlanned,
)
from k2run.terminal.lines import cells, cut, text_of, wrap
from k2run.terminal.live import picture, running
from k2run.terminal.mode import open_face
from k2run.terminal.transcript import Transcript

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|4[0-7]|9[0-7])(?:;\d+)*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class Terminal:
    """A pseudo-terminal of a given size that keeps what is written to it."""

    def __init__(self, columns=80, rows=24):
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.stream = os.fdopen(slave, "w")
        self.raw = b""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            while data := os.read(self.master, 65536):
                self.raw += data
        except OSError:
            pass  # the other side was closed

    def text(self):
        self.stream.close()
        self.thread.join(5)
        os.close(self.master)
        return self.raw.decode()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def told(events, width=80):
    story = Transcript(width)
    return [text_of(line) for event in events for line in story.tell(event)]


# --- the story --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("which", ["demo_day", "consumer_killed"])
def test_no_line_is_wider_than_the_terminal(which, width, request):
    for line in told(request.getfixturevalue(which), width):
        assert cells(line) <= width, line


def test_what_is_not_a_pass_says_so_in_words(consumer_killed):
    lines = told(consumer_killed)
    for sign in (
        "✗ Nothing is lost | or doubled",
        "FAILED",
        "? Lag is gone",
        "unknown",
        "- 1 not reached: Never reached",
        "UNDO FAILED",
        "NOT RECOVERED",
    ):
        assert any(sign in line for line in lines), sign


def test_a_fault_says_how_it_will_be_undone(demo_day):
    lines = told(demo_day)
    at = next(number for number, line in enumerate(lines) if "↯ Pause the consumer" in line)
    assert lines[at + 1].split() == ["undo", "resume", "consumer"]


def test_the_expectation_stands_beside_the_measured_value(demo_day):
    line = next(line for line in told(demo_day, 120) if "Trades table" in line)
    assert line.index("12,034 rows") < line.index("rows > 1000") < line.index("3.9s ≤ 20s")


def test_wide_characters_are_counted_as_the_terminal_counts_them():
    assert cells("日本") == 4
    assert cut("日本語", 5) == "日本…"
    assert cells("e\u0301") == 1
    assert wrap("日本 語 ab", 5) == ["日本", "語 ab"]
    assert wrap("x" * 12, 5) == ["xxxxx", "xxxxx", "xx"]


# --- the moving part --------------------------------------------------------------------------------------------------


def moment(*events, now=10.0):
    story = Transcript(80)
    for event in events:
        story.tell(event)
    return [text_of(line) for line in running(story, now, 0)]


def begun(steps=3, **more):
    outline = [OutlineStep(path=f"s.steps[{n}]", name=f"Step {n}", action="http.get") for n in range(steps)]
    section = OutlineSection(path="s", name="S", within=30.0, steps=outline)
    return RunStarted(
        run="r", runbook="", name="n", title="T", kind="scenario", digest="", stack="sandbox", outline=[section], **more
    )


SECTION = SectionStarted(section="s", name="S", within=30.0, t=2.0)


def step(number, **more):
    return StepStarted(step=f"s.steps[{number}]", section="s", name=f"Step {number}", action="http.get", **more)


def test_a_running_step_shows_its_last_value_and_its_elapsed_time_against_its_objective():
    tried = StepTried(step="s.steps[0]", attempt=6, headline="lag 4,000")
    lines = moment(begun(), SECTION, step(0, t=2.0, within=20.0), tried)
    assert "lag 4,000  try 7" in lines[0]
    assert lines[0].endswith("8.0s of 20s")
    assert lines[1].strip() == "· next: Step 1"


def test_both_clocks_and_the_progress_are_at_the_foot():
    done = StepFinished(
        step="s.steps[0]", section="s", name="Step 0", action="http.get", outcome=Outcome.FAILED, seconds=1
    )
    lines = moment(begun(within=720.0), SECTION, done)
    assert "1 of 3  1 FAILED" in lines[-1]
    assert lines[-1].endswith("section 8.0s of 30s  run 10.0s of 12m")


def test_a_fault_in_place_stays_in_sight_with_the_recovery_clock():
    lines = moment(
        begun(rto=90.0),
        SECTION,
        step(0),
        UndoPlanned(undo="u", step="s.steps[0]", action="service.resume", args={}, says="resume consumer"),
        FaultStruck(step="s.steps[0]", action="service.pause", name="Step 0", began=4.0),
    )
    assert any("fault in place, will be undone: resume consumer" in line for line in lines)
    assert any(line.strip() == "↺ since the fault 6.0s of 1m30s" for line in lines)


def test_before_the_first_section_it_says_what_is_waited_for():
    assert "bringing up sandbox" in moment(begun())[0]
    assert "starting" in moment(begun(), StackChanged(verb="started", services=["broker"], seconds=6.0))[0]


def test_hundreds_of_steps_at_once_leave_room_for_the_rest():
    lines = moment(begun(300), SECTION, *(step(n) for n in range(300)))
    assert len(lines) < 14
    assert any("and 292 more at the same time" in line for line in lines)


def test_a_step_that_has_not_come_back_says_when_it_will_be_given_up():
    assert "gives up after 1m" in moment(begun(), SECTION, step(0, timeout=60.0), now=45.0)[0]


# --- on a terminal ----------------------------------------------------------------------------------------------------


def test_a_long_run_scrolls_and_shows_every_step_once(terminal):
    finished = [
        StepFinished(
            step=f"s.steps[{n}]",
            section="s",
            name=f"Step number {n:03}.",
            action="http.get",
            outcome=Outcome.PASSED,
            seconds=0.1,
        )
        for n in range(200)
    ]
    with open_face("auto", terminal.stream) as face:
        face.see(begun(0))
        face.see(SECTION)
        for number, event in enumerate(finished):
            face.see(event)
            if number % 50 == 0:
                time.sleep(0.15)  # let it draw in the middle of things
    text = terminal.text()
    for event in finished:
        assert text.count(event.name) == 1


def test_the_engine_never_waits_for_the_drawing(terminal, demo_day):
    with open_face("live", terminal.stream) as face:
        began = time.thread_time()
        for event in demo_day * 20:
            face.see(event)
        spent = time.thread_time() - began
    terminal.text()
    assert spent / (20 * len(demo_day)) < 0.0001


def test_no_color_leaves_words_and_marks(terminal, demo_day, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    with open_face("live", terminal.stream) as face:
        for event in demo_day:
            face.see(event)
    text = terminal.text()
    assert not COLOUR.search(text)
    assert "✓ Broker answers" in text
    assert " GO " in text


def test_the_cursor_comes_back_even_when_the_run_ends_in_an_error(terminal, demo_day):
    def run():
        with open_face("live", terminal.stream) as face:
            for event in demo_day[:20]:
                face.see(event)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        run()
    text = terminal.text()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "API health" in text, "what had happened is told"


def test_control_keys_do_not_write_into_the_display_and_echo_again_afterwards(terminal, demo_day):
    def echoes():
        return bool(termios.tcgetattr(terminal.stream.fileno())[3] & termios.ECHOCTL)

    assert echoes()
    with open_face("live", terminal.stream) as face:
        face.see(demo_day[0])
        ends = time.monotonic() + 10  # the first drawing imports rich
        while echoes():
            assert time.monotonic() < ends
            time.sleep(0.05)
    assert echoes()
    terminal.text()


def test_a_terminal_that_goes_away_does_not_disturb_the_run(terminal, demo_day):
    with open_face("live", terminal.stream) as face:
        face.see(demo_day[0])
        time.sleep(0.3)
        os.close(terminal.master)
        for event in demo_day[1:]:
            face.see(event)
        time.sleep(0.3)


def test_while_it_is_paused_nothing_is_drawn(terminal, demo_day):
    with open_face("live", terminal.stream) as face:
        for event in demo_day[:12]:
            face.see(event)
        with face.paused():
            time.sleep(0.05)
            before = len(terminal.raw)
            for event in demo_day[12:]:
                face.see(event)
            time.sleep(0.3)
            assert len(terminal.raw) == before
    assert " GO " in CONTROL.sub("", terminal.text())


def test_a_stream_that_is_no_terminal_gets_plain_lines(demo_day):
    stream = io.StringIO()
    with open_face("auto", stream) as face:
        face.see(demo_day[0])
    assert "\x1b" not in stream.getvalue()


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_picture_is_one_small_document_of_the_whole_run(demo_day):
    drawn = picture(demo_day, 90)
    assert len(drawn.encode()) < 200_000
    text = "".join(ET.fromstring(drawn).itertext()).replace("\N{NO-BREAK SPACE}", " ")
    assert "Broker answers" in text
    assert "subject to 3 items for a person" in text
    assert "invoke run runbooks/demo-day.yaml" in text


def test_a_picture_may_fold_sections_and_reaches_for_nothing_outside_of_it(demo_day):
    drawn = picture(demo_day, 90, unfolded=["Resilience"])
    text = "".join(ET.fromstring(drawn).itertext()).replace("\N{NO-BREAK SPACE}", " ")
    assert "Back to NORMAL" in text
    assert "Broker answers" not in text
    assert "7 passed, 2 n/a" in text
    assert "url(" not in drawn.replace("url(#", "")


def test_the_picture_of_hostile_text_is_still_a_document(consumer_killed):
    events = [
        replace(event, headline="<b>&\x1b[31m") if isinstance(event, StepFinished) else event
        for event in consumer_killed
    ]
    ET.fromstring(picture(events, 80))

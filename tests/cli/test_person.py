import fcntl
import io
import os
import pty
import struct
import termios
import threading
import time

import pytest

from k2run.actions.deadline import Deadline
from k2run.errors import Interrupted
from k2run.files import account_name
from k2run.terminal.face import TerminalPerson, match_choice
from k2run.terminal.mode import open_face


class Desk:
    """A terminal with an operator at its keyboard."""

    def __init__(self):
        self.keyboard, screen = pty.openpty()
        self.reads = os.fdopen(os.dup(screen), "r")
        self.writes = os.fdopen(screen, "w")
        self.seen = ""
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        self.person = TerminalPerson(open_face("plain", io.StringIO()), self.reads, self.writes)

    def _look(self):
        try:
            while data := os.read(self.keyboard, 4096):
                self.seen += data.decode()
        except OSError:
            pass  # the desk was cleared

    def types(self, text, once):
        """Type as soon as something is on the screen."""
        until = time.monotonic() + 30
        while once not in self.seen and time.monotonic() < until:
            time.sleep(0.01)
        assert once in self.seen, self.seen
        os.write(self.keyboard, text.encode())

    def ask(
        self,
        *,
        question="The quick reference is printed",
        choices=("yes", "no"),
        default=None,
        seconds=5.0,
        deadline=None,
    ):
        self.answer = "nothing yet"
        self.error = None

        def ask():
            try:
                self.answer = self.person.ask(
                    question,
                    choices=choices,
                    default=default,
                    deadline=deadline or Deadline(seconds),
                )
            except Interrupted as error:
                self.error = error

        asking = threading.Thread(target=ask)
        asking.start()
        return asking

    def close(self):
        self.reads.close()
        self.writes.close()
        self.thread.join(5)
        os.close(self.keyboard)


@pytest.fixture
def desk():
    desk = Desk()
    yield desk
    desk.close()


def test_an_answer_carries_who_gave_it(desk):
    asking = desk.ask()
    desk.types("y\n", once="> ")
    asking.join(5)
    assert desk.answer.text == "yes"
    assert desk.answer.by == account_name()
    assert "The quick reference is printed" in desk.seen
    assert "yes / no" in desk.seen


def test_enter_takes_the_default_where_one_is_declared(desk):
    asking = desk.ask(default="no")
    desk.types("\n", once="Enter for no")
    asking.join(5)
    assert (desk.answer.text, desk.answer.by) == ("no", account_name())


def test_enter_alone_is_no_answer_where_there_is_no_default(desk):
    asking = desk.ask()
    desk.types("\n", once="> ")
    desk.types("maybe\n", once="please answer yes or no")
    desk.types("no\n", once="maybe")
    asking.join(5)
    assert desk.answer.text == "no"


def test_when_the_time_is_over_the_default_is_taken_in_nobodys_name(desk):
    asking = desk.ask(default="yes", seconds=0.5)
    asking.join(5)
    assert (desk.answer.text, desk.answer.by) == ("yes", "")


def test_when_the_time_is_over_and_there_is_no_default_it_stays_unconfirmed(desk):
    began = time.monotonic()
    asking = desk.ask(seconds=0.5)
    asking.join(5)
    assert desk.answer is None
    assert time.monotonic() - began < 1.5


def test_the_countdown_goes_on_while_nobody_types(desk):
    asking = desk.ask(seconds=3.0)
    desk.types("yes\n", once="2s left")
    asking.join(5)
    assert desk.answer.text == "yes"


def test_a_key_pressed_before_the_question_does_not_answer_it(desk):
    os.write(desk.keyboard, b"yes\n")
    time.sleep(0.1)
    asking = desk.ask(seconds=0.8)
    asking.join(5)
    assert desk.answer is None


def test_a_request_to_end_the_run_ends_the_question(desk):
    stop = threading.Event()
    asking = desk.ask(deadline=Deadline(30, stop))
    time.sleep(0.3)
    stop.set()
    asking.join(2)
    assert isinstance(desk.error, Interrupted)


def test_an_input_that_was_closed_is_nobody():
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading) as reads:
        person = TerminalPerson(open_face("plain", io.StringIO()), reads, io.StringIO())
        answer = person.ask("ready?", choices=[], default="no", deadline=Deadline(5))
    assert (answer.text, answer.by) == ("no", "")


def test_a_choice_may_be_abbreviated_or_given_by_its_number():
    choices = ["video", "notebook", "notes"]
    assert match_choice("VIDEO", choices) == "video"
    assert match_choice("v", choices) == "video"
    assert match_choice("2", choices) == "notebook"
    assert match_choice("not", choices) is None
    assert match_choice("notes", choices) == "notes"
    assert match_choice("", choices) is None
    assert match_choice("anything", []) == "anything"


def test_a_long_question_is_broken_between_words(desk):
    fcntl.ioctl(desk.keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    asking = desk.ask(question="Every service has metrics, and the first dashboard shows lag")
    desk.types("y\n", once="> ")
    asking.join(5)
    assert "  ? Every service has metrics, and the\r\n    first dashboard shows lag\r\n" in desk.seen

from __future__ import annotations

import threading

import pytest

from k2run.actions.action import Answer
from k2run.actions.deadline import Deadline
from k2run.app.answers import Inbox, InboxPerson
from k2run.errors import Interrupted, UsageError


def test_an_answer_in_the_inbox_reaches_the_question_it_is_for(tmp_path):
    Inbox(tmp_path).put(7, Answer(text="yes", by="eva"))
    person = InboxPerson().about(tmp_path, 7)
    answer = person.ask("ready?", choices=["yes", "no"], default=None, deadline=Deadline(5))
    assert answer == Answer(text="yes", by="eva")


def test_an_answer_to_another_question_is_not_taken(tmp_path):
    Inbox(tmp_path).put(6, Answer(text="yes", by="eva"))
    person = InboxPerson().about(tmp_path, 7)
    assert person.ask("ready?", choices=["yes", "no"], default=None, deadline=Deadline(0.3)) is None


def test_the_first_answer_counts_and_the_second_is_told_so(tmp_path):
    inbox = Inbox(tmp_path)
    inbox.put(1, Answer(text="yes", by="eva"))
    with pytest.raises(UsageError, match="eva answered 'yes' before"):
        inbox.put(1, Answer(text="no", by="ole"))
    assert inbox.take(1) == Answer(text="yes", by="eva")
    assert [path.name for path in (tmp_path / "inbox").iterdir()] == ["answer-1.json"]


def test_many_answers_at_once_leave_exactly_one(tmp_path):
    inbox, kept = Inbox(tmp_path), []

    def put(name: str) -> None:
        try:
            inbox.put(1, Answer(text=name, by=name))
            kept.append(name)
        except UsageError:
            pass

    threads = [threading.Thread(target=put, args=(f"person {number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 1
    assert inbox.take(1) == Answer(text=kept[0], by=kept[0])


def test_with_no_answer_the_default_is_taken_in_nobodys_name(tmp_path):
    person = InboxPerson().about(tmp_path, 1)
    assert person.ask("?", choices=[], default="later", deadline=Deadline(0.2)) == Answer(text="later")


def test_a_request_to_stop_ends_the_waiting_at_once(tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        InboxPerson().about(tmp_path, 1).ask("?", choices=[], default="x", deadline=Deadline(60, stop))


def test_what_is_no_answer_is_not_taken(tmp_path):
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "answer-1.json").write_text("<script>")
    assert InboxPerson().about(tmp_path, 1).ask("?", choices=[], default=None, deadline=Deadline(0.2)) is None

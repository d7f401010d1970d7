import pytest

from k2run.engine.events import Bound
from k2run.evidence.wording import against, clean, percent, points, span, timed


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.0002, "<1ms"),
        (0.34, "340ms"),
        (0.9996, "1s"),
        (3.14, "3.1s"),
        (9.96, "10s"),
        (59.6, "1m"),
        (65, "1m05s"),
        (720, "12m"),
        (7380, "2h03m"),
    ],
)
def test_a_time_is_as_long_as_it_needs_to_be(seconds, shown):
    assert span(seconds) == shown


def test_a_missed_objective_never_looks_met():
    assert against(3.1, 20, Bound.MET) == "3.1s ≤ 20s"
    assert against(34, 30, Bound.MISSED) == "34s > 30s"
    assert against(30.04, 30, Bound.MISSED) == "> 30s"
    assert against(3.1, 20, Bound.MISSED) == "3.1s of 20s", "it failed in time, so it did not meet it either"
    assert against(3.1, 20, Bound.NOT_MEASURED) == "3.1s"


def test_a_measured_time_carries_its_error():
    assert timed(49.42, 0.125) == "49.4s ± 0.1s"


def test_nearly_all_is_not_all():
    assert percent(0.9999) == "99 %"
    assert percent(1.0) == "100 %"
    assert points(12.0) == "12"
    assert points(12.54) == "12.5"


def test_what_a_system_answers_cannot_move_the_cursor_or_turn_the_text():
    assert clean("one\ntwo\tthree") == "one two three"
    hostile = "a\x1b[31mb\x07c\u202ed\x9be"
    assert clean(hostile) == "a\ufffd[31mb\ufffdc\ufffdd\ufffde"

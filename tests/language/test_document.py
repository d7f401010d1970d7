"""YAML documents: their values, and the places of what stands in them."""

from __future__ import annotations

import pytest

from k2run.errors import RunbookInvalid
from k2run.language.document import read_document
from k2run.language.problems import Place, Problem, did_you_mean, nearest, ordered, render

TEXT = """\
# a comment
title: Demo
flow: {a: [1, two], "b c": 'it''s'}
block: |
  first
  second word
folded: >-
  one
  two
double: "a\\tb \\u00e9 c"
12: number
base: &base {x: 1, y: 2}
derived: {<<: *base, y: 3}
empty:
"""


def test_values_follow_the_core_schema() -> None:
    data = read_document(
        "[1, 0x1f, 0o17, 1.5, 1e3, .5, true, no, null, ~, 1_000, 12:30, 'x', +1, -0.0, .inf]", "x"
    ).data
    assert data == [1, 31, 15, 1.5, 1000.0, 0.5, True, "no", None, None, "1_000", "12:30", "x", 1, 0.0, float("inf")]


@pytest.mark.parametrize(
    ("path", "key", "place"),
    [
        ((), False, (2, 1)),
        (("title",), False, (2, 8)),
        (("title",), True, (2, 1)),
        (("flow", "a", 1), False, (3, 15)),
        (("flow", "b c"), True, (3, 21)),
        ((12,), True, (11, 1)),
        (("derived", "x"), False, (12, 17)),
        (("derived", "y"), False, (13, 25)),
        (("flow", "missing", "deep"), False, (3, 7)),
        (("title", 0), False, (2, 8)),
    ],
)
def test_every_key_and_value_has_its_place(path: tuple[str | int, ...], key: bool, place: tuple[int, int]) -> None:
    found = read_document(TEXT, "x.yaml").place(path, key=key)
    assert (found.line, found.column) == place


@pytest.mark.parametrize(
    ("path", "part", "place"),
    [
        (("block",), "word", (6, 10)),
        (("folded",), "two", (9, 3)),
        (("double",), "c", (10, 22)),
        (("flow", "b c"), "s", (3, 33)),
        (("title",), "mo", (2, 10)),
    ],
)
def test_a_token_inside_a_text_has_its_place(path: tuple[str, ...], part: str, place: tuple[int, int]) -> None:
    document = read_document(TEXT, "x.yaml")
    value = document.data
    for step in path:
        value = value[step]
    problem = document.problem("K000", "here", path, at=value.rindex(part), length=len(part))
    assert (problem.place.line, problem.place.column, problem.length) == (*place, len(part))


def test_an_empty_value_is_shown_by_its_key() -> None:
    problem = read_document(TEXT, "x.yaml").problem("K000", "nothing here", ("empty",))
    assert (problem.place.line, problem.place.column, problem.length) == (14, 1, 5)


def test_windows_line_ends_do_not_move_places() -> None:
    document = read_document("a: 1\r\nb:\r\n  c: here\r\n", "x.yaml")
    assert str(document.place(("b", "c"))) == "x.yaml:3:6"
    assert document.problem("K000", "m", ("b", "c")).line == "  c: here"


def test_all_problems_of_the_yaml_itself_are_reported_together() -> None:
    with pytest.raises(RunbookInvalid) as caught:
        read_document("a: 1\na: 2\nb: 007\nc: !x 1\n", "x.yaml")
    assert [problem.code for problem in caught.value.problems] == ["K106", "K108", "K104"]


def test_a_report_shows_the_line_a_caret_and_the_way_out() -> None:
    document = read_document("runbook: 1\nkind: rehersal\n", "demo.yaml")
    problem = document.problem(
        "K205", "`kind` is one of rehearsal", ("kind",), found='the text "rehersal"', hint="did you mean?"
    )
    assert render([problem]) == (
        "demo.yaml:2:7: K205 `kind` is one of rehearsal\n"
        "  |\n"
        "2 | kind: rehersal\n"
        "  |       ^^^^^^^^\n"
        '  = found: the text "rehersal"\n'
        "  = hint: did you mean?"
    )


def test_a_report_keeps_its_caret_under_wide_characters_and_tabs() -> None:
    problem = Problem(code="K1", message="m", place=Place("x", 1, 5), length=1, line="日本\t:x")
    line, caret = render([problem]).splitlines()[2:4]
    assert line == "1 | 日本 :x"
    assert caret.index("^") == len("  | ") + 2 + 2 + 1 + 1


def test_a_long_line_is_cut_around_its_caret() -> None:
    problem = Problem(code="K1", message="m", place=Place("x", 1, 5001), length=3, line="a" * 5000 + "bcd" + "e" * 5000)
    _, _, line, caret = render([problem]).splitlines()
    assert len(line) < 140
    assert line[caret.index("^") :].startswith("bcd")


def test_no_escape_sequence_reaches_the_terminal() -> None:
    problem = Problem(code="K1", message="m", place=Place("x", 1, 1), line="\x1b[31mred")
    assert "\x1b" not in render([problem])


def test_problems_are_ordered_by_place_and_each_is_told_once() -> None:
    first = Problem(code="K2", message="m", place=Place("x", 2, 1))
    second = Problem(code="K1", message="m", place=Place("x", 10, 1))
    assert ordered([second, first, second]) == [first, second]


def test_the_nearest_name_is_suggested_and_a_far_one_is_not() -> None:
    assert nearest("kafka.lga", ["kafka.lag", "http.get"]) == "kafka.lag"
    assert nearest("Kafka.Lag", ["kafka.lag"]) == "kafka.lag"
    assert did_you_mean("zebra", ["kafka.lag"]) == ""

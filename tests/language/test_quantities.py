"""What is written as a quantity is one, everywhere; it keeps its text, and no text is ever compared with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2run.errors import ExpressionFailed
from k2run.language.expressions import Expression, Template
from k2run.language.quantities import QUANTITIES, Duration, Rate, Size, quantified


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *(("10MB", Size), ("9.5MiB", Size), ("1234567B", Size), ("1TB", Size)),
        *(
            ("1234567ms", Duration),
            ("90s", Duration),
            ("1234.567s", Duration),
            ("100d", Duration),
            ("1h 30m", Duration),
        ),
        *(("500/s", Rate), ("20/min", Rate), ("12345.678/s", Rate)),
    ],
)
def test_what_is_written_stays_as_it_is_written_in_every_text(text: str, kind: type) -> None:
    [value] = quantified([text])
    assert type(value) is kind
    assert Template("at {{ limit }} or {{ 'in ' ~ limit }}").render({"limit": value}) == f"at {text} or in {text}"
    assert str(value) == text or len(text) > 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Size(10_000_000), "10MB"),
        (Size(2**20), "1MiB"),
        (Size(1536), "1.5KiB"),
        (Size(1234567), "1234567B"),
        (Size(0), "0B"),
        (Duration(1234.567), "20m34.567s"),
        (Duration(0.0015), "1.5ms"),
        (Duration(90), "1m30s"),
        (Duration(-90), "-1m30s"),
        (Duration(0), "0s"),
        (Rate(1 / 3), "0.3333333333333333/s"),
    ],
)
def test_a_computed_quantity_is_written_exactly(value: object, text: str) -> None:
    assert Template("{{ value }}.").render({"value": value}) == f"{text}."


@given(st.one_of(st.integers(0, 10**15).map(Size), st.floats(1e-9, 1e9).map(Duration), st.floats(1e-9, 1e9).map(Rate)))
def test_the_text_of_any_quantity_reads_as_that_quantity(value: Size | Duration | Rate) -> None:
    assert type(value).parse(value.exact()) == pytest.approx(value, rel=1e-15, abs=1e-20)


def test_people_are_shown_a_long_quantity_rounded() -> None:
    assert [str(Size(195_352_133)), str(Duration(1 / 3)), str(Duration(4000.25))] == ["186.3MiB", "333ms", "1h6m40.25s"]


@pytest.mark.parametrize("text", ["", "5", "5x", "s", "sandbox", "10 apples", "1.2.3", "5s later", "2026-01-01", "v5m"])
def test_other_texts_stay_texts(text: str) -> None:
    assert quantified({"a": (text,)}) == {"a": (text,)}
    assert not isinstance(quantified(text), QUANTITIES)


@pytest.mark.parametrize(
    "expression",
    [
        *("said == 10MiB", "10MiB != said", "said < 10MiB", "said in [1MiB, 10MiB]", "limit in ['1MiB', '10MiB']"),
        *("limit == pause", "said == limit and true", "[limit] | select('eq', said) | list", "1 < 2 < limit == said"),
        *("limit is eq said", "limit is in ['10MiB']", "said | upper == limit"),
    ],
)
def test_a_text_and_a_quantity_are_neither_equal_nor_different(expression: str) -> None:
    with pytest.raises(ExpressionFailed, match="cannot be compared"):
        Expression(expression).evaluate({"said": "10MiB", "limit": Size.parse("10MiB"), "pause": Duration(10)})


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("said | to_size == 10MiB", True),
        ("1 < 2 < 3 == 3", True),
        ("1 in [1, 2] and 'a' in 'abc' and 'b' not in ['a']", True),
        ("none == 10MiB", False),
        ("limit in [1MiB, 10MiB]", True),
    ],
)
def test_what_can_be_compared_is(expression: str, value: object) -> None:
    assert Expression(expression).evaluate({"said": "10MiB", "limit": Size.parse("10MiB")}) is value


@pytest.mark.parametrize(
    "expression", ["'nan' | float < 500", "['1', 'nan'] | map('float') | max < 500", "'nan' | float > 1"]
)
def test_what_is_not_a_number_is_not_compared(expression: str) -> None:
    with pytest.raises(ExpressionFailed, match="nan is not a number"):
        Expression(expression).evaluate({})

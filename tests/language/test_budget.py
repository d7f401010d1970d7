"""What one expression may make and walk through: enough for any evidence, too little to stop a machine."""

from __future__ import annotations

import time
from typing import Any

import pytest

from k2run.errors import ExpressionFailed
from k2run.language.expressions import Expression
from k2run.language.quantities import Duration, Size

SCOPE: dict[str, Any] = {
    "text": "x" * 100,
    "numbers": list(range(1000)),
    "wide": [list(range(1000))] * 11_000,
    "pause": Duration(5),
    "size": Size(9),
}
TOO_MUCH = "10,000,000 items and characters"


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("([numbers] * 90000) | tojson", "too large"),
        ("([[numbers] * 1000] * 100) | tojson", "too large"),
        ("wide | tojson | length", TOO_MUCH),
        ("wide | map('tojson') | join | length", TOO_MUCH),
        ("wide | map('sort') | list | length", TOO_MUCH),
        ("wide | map('list') | list | length", TOO_MUCH),
        ("wide | sum(start=[]) | length", TOO_MUCH),
        ("''.join(wide)", TOO_MUCH),
        ("(text * 900).join((text * 900) | list)", TOO_MUCH),
        ("range(10000) | map('string') | join(range(10000) | map('string') | join)", TOO_MUCH),
        ("range(10000) | map('string') | map('replace', '1', text * 900) | list", TOO_MUCH),
        ("(range(10000) | list) | select('in', range(10000) | list | reverse | list) | list", TOO_MUCH),
        ("~".join(["text * 900"] * 400), TOO_MUCH),
        ("text ~ (text * 900)" + ".upper()" * 80 + " | length", ""),
        ("(text * 200) | search('x*y')", "too many for this pattern"),
        ("(text * 50) | search('x*x*y')", "too many for this pattern"),
        ("(text * 5) | search('x{0,64}x{0,64}x{0,64}x{0,64}x{0,64}y')", "too many for this pattern"),
        (f"text | search('{'x?' * 30}{'x' * 30}y')", "too many for this pattern"),
        (f"text | search('{'(x|x)' * 30}y')", "too many for this pattern"),
        (f"text | search('{'(' * 60}x{'{0,9})' * 60}y')", ""),
        ("9" * 3000 + " * pause", "the number is too large"),
        ("pause * 10.0 ** 308 * 10", "the number is too large"),
        ("size * 10.0 ** 308 * 10", "the number is too large"),
        (f"duration('{'9' * 3000}s')", "expected a duration"),
        (f"size('{'9' * 300}GiB')", "expected a size"),
        ("10.0 ** 400", "the number is too large"),
        ("not " * 900 + "1", "too long, too deep"),
        ("(text | list)" + " | list" * 100 + " | length", ""),
    ],
)
def test_no_expression_makes_much_of_little(text: str, reason: str) -> None:
    began = time.process_time()
    try:
        Expression(text).evaluate(SCOPE)
    except ExpressionFailed as error:
        assert reason in error.message.split("could not be evaluated")[-1]  # noqa: PT017 - some do have a value
    else:
        assert not reason
    assert time.process_time() - began < 2, "processor seconds, whatever else runs"


def test_each_evaluation_has_the_whole_budget() -> None:
    for _ in range(30):
        assert Expression("(numbers * 100) | length").evaluate(SCOPE) == 100_000
        assert Expression("numbers | map('string') | join(',') | length").evaluate(SCOPE) == 3889


def test_a_large_result_is_still_evidence() -> None:
    rows = {"rows": [{"id": number, "name": f"row {number}", "price": number / 7} for number in range(20_000)]}
    assert Expression("rows | map(attribute='id') | max").evaluate(rows) == 19_999
    assert Expression("rows | selectattr('price', '>', 2700) | list | length").evaluate(rows) == 1099
    assert Expression("rows | tojson | length > 1000000").evaluate(rows) is True


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("foo(1)", "`foo` is not a function", ""),
        ("rang(3) | list", "`rang` is not a function", "did you mean `range`?"),
        ("text(1)", "`text` is not a function", ""),
    ],
)
def test_an_unknown_function_is_named_as_it_was_written(text: str, message: str, hint: str) -> None:
    with pytest.raises(ExpressionFailed) as caught:
        Expression(text).evaluate(SCOPE)
    assert caught.value.message.endswith(message)
    assert caught.value.hint == hint


def test_ordinary_patterns_search_long_texts() -> None:
    log = "2026-11-21 error in line 9, code 5, from 10.0.0.7:9092\n" * 2000
    for text, question, answer in (
        (log, "search('error.*code.*5')", True),
        (log, "search('error.*code.*7$')", False),
        (log, r"search('\d{1,3}:\d{4}')", True),
        ("10.0.0.7", r"matches('(\d{1,3}\.){3}\d{1,3}')", True),
        ("v1.20.3-rc1", r"matches('v\d+\.\d+\.\d+(-\w+)?')", True),
        ("state: ok or healthy", "search('(ok|healthy|up)')", True),
    ):
        written = question.replace("\\", "\\\\")
        assert Expression(f"text is {written}").evaluate({"text": text}) is answer, question


def test_the_text_that_a_tilde_makes_is_that_of_its_parts() -> None:
    scope = {"a": "x", "n": 3, "f": 1.5, "l": [1], "t": True, "e": None}
    assert Expression("a ~ n ~ f ~ l ~ t ~ e").evaluate(scope) == "x31.5[1]TrueNone"

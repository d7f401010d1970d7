"""Expressions give what Jinja2's own code for them gives."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2run.actions.action import Result
from k2run.language.evaluation import evaluator
from k2run.language.jinja import Missing, environment
from k2run.language.quantities import Duration


class Look(Result, frozen=True, kw_only=True):
    status: int = 200
    rows: list[dict[str, Any]] = msgspec.field(default_factory=lambda: [{"id": 7, "items": "x"}])
    took: Duration = Duration(2)


SCOPE: dict[str, Any] = {
    "result": Look(),
    "n": 3,
    "text": "abc",
    "facts": {"a": {"b": [1, 2]}, "items": 4},
    "none_": None,
}


def by_jinja(text: str) -> Any:
    """The value that Jinja2's code generator gives."""
    return environment().compile_expression(text, undefined_to_none=False)(SCOPE)


@pytest.mark.parametrize(
    "text",
    [
        "result.status == 200",
        "result.status == 200 and result.rows[0].id > 6.5",
        "n in facts.a.b or n",
        "not n and text",
        "facts['a']['b']",
        "text[0] == 'a'",
        "text[1:] ~ n ~ text[:1]",
        "facts.a.b[::-1]",
        "none_ == none and true",
        "True != false",
        "-1 < n",
        "+n - -2",
        "facts.items == 4",
        "result.rows[0].items",
        "result.took <= 2",
        "'b' not in text",
        "1 < n < 4 < 5",
        "4 < n < 1 / 0",
        "1 < n + 1 == 4",
        "n ** 2 // 2 % 3 * 1.5 / 2",
        "-n | abs + 2",
        "n | int + 2 | int",
        "[n, (text, 1), {'a': n}]",
        "n if n else 0",
        "0 if n else text",
        "text.upper() ~ text.lower()",
        "text | upper | length",
        "text | default('x', boolean=true)",
        "nowhere | default(n)",
        "nowhere.at.all is defined",
        "n is divisibleby 3 and n is not even",
        "n is in [1, 3]",
        "result.rows | map(attribute='id') | list",
        "result.rows | selectattr('id', 'gt', 5) | map(attribute='items') | join(', ')",
        "'%s' in text",
        "'a' 'b'",
        "facts.get('items', 0)",
        "text.split(*['b'])",
        "facts.a.b | sort(**{'reverse': true})",
    ],
)
def test_an_expression_is_what_jinja_makes_of_it(text: str) -> None:
    found, expected = evaluator(text)(SCOPE), by_jinja(text)
    assert (type(found), repr(found)) == (type(expected), repr(expected))


@pytest.mark.parametrize("text", ["nowhere", "facts.a.c", "result.nothing", "facts.a.b[9]"])
def test_what_leads_nowhere_is_missing_as_it_is_to_jinja(text: str) -> None:
    assert isinstance(evaluator(text)(SCOPE), Missing)
    assert isinstance(by_jinja(text), Missing)


names = st.sampled_from(
    ["n", "text", "result.status", "result.rows", "facts.a.b", "facts.items", "nowhere", "none_", "facts.a.nowhere"]
)
atoms = names | st.sampled_from(
    ["1", "0", "2.5", "'abc'", "''", "true", "false", "none", "-3", "text[0]", "facts['a']", "result.rows[0].id"]
)
operators = st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in", "+", "-", "*", "%", "~", "and", "or"])
suffixes = st.sampled_from([" | string", " | default(1)", " | length", " is defined", " is not none", " is number"])
expressions = st.recursive(
    atoms,
    lambda inner: (
        st.tuples(inner, operators, inner).map(" ".join)
        | st.tuples(inner, suffixes).map("".join)
        | st.tuples(inner, inner, inner).map(lambda three: "({} if {} else {})".format(*three))
        | inner.map("not ({})".format)
        | inner.map("({})".format)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(expressions)
def test_every_answer_is_that_of_jinja(text: str) -> None:
    try:
        expected = by_jinja(text)
    except Exception as error:  # noqa: BLE001 - any error, as long as both raise it
        with pytest.raises(type(error)):
            evaluator(text)(SCOPE)
        return
    found = evaluator(text)(SCOPE)
    assert type(found) is type(expected)
    assert isinstance(expected, Missing) or found == expected


def test_help_and_a_run_without_expressions_import_no_jinja() -> None:
    program = (
        "import sys; from k2run.language.expressions import Expression, Template, render;"
        "assert render({'a': ['b', Expression('c')]}, {}) == {'a': ['b', Expression('c')]};"
        "sys.exit('jinja2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

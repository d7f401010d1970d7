"""Plain expressions give what Jinja2's sandbox gives, or are left to it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2run.actions.action import Result
from k2run.language.evaluation import Missing, compiled
from k2run.language.expressions import Expression
from k2run.language.plain import plain
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


@pytest.mark.parametrize(
    "text",
    [
        "result.status == 200",
        "result.status == 200 and result.rows[0].id > 6.5",
        "n in facts.a.b or n",
        "not n and text",
        "facts['a']['b']",
        "text[0] == 'a'",
        "none_ == none and true",
        "True != false",
        "-1 < n",
        "facts.items == 4",
        "result.rows[0].items",
        "result.took <= 2",
        "'b' not in text",
    ],
)
def test_a_plain_expression_is_what_jinja_makes_of_it(text: str) -> None:
    simply = plain(text)
    assert simply is not None
    assert simply(SCOPE) == compiled(text)(SCOPE)
    assert Expression(text).evaluate(SCOPE) == compiled(text)(SCOPE)


@pytest.mark.parametrize(
    "text",
    [
        "n + 1",
        "n | int",
        "len(text)",
        "text.upper()",
        "n is defined",
        "[n]",
        "n if n else 0",
        "1 < n < 4",
        "self",
        "n ~ 1",
        "5m",
        "'a' 'b'",
    ],
)
def test_what_is_more_than_plain_is_left_to_jinja(text: str) -> None:
    assert plain(text) is None


@pytest.mark.parametrize(
    "text",
    ["nowhere == 1", "result.nothing", "facts.a.c", "text.upper", "result.__class__", "n < text", "facts.a.b[9]"],
)
def test_what_leads_nowhere_is_left_to_jinja(text: str) -> None:
    simply = plain(text)
    if simply is None:
        return
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is, Jinja2 is asked then
        simply(SCOPE)


names = st.sampled_from(
    ["n", "text", "result.status", "result.rows", "facts.a.b", "facts.items", "nowhere", "none_", "facts.a.nowhere"]
)
atoms = names | st.sampled_from(
    ["1", "0", "2.5", "'abc'", "''", "true", "false", "none", "-3", "text[0]", "facts['a']", "result.rows[0].id"]
)
comparisons = st.tuples(atoms, st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"]), atoms).map(" ".join)
expressions = st.recursive(
    atoms | comparisons,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join)
        | inner.map("not ({})".format)
        | inner.map("({})".format)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(expressions)
def test_every_answer_is_that_of_jinja(text: str) -> None:
    simply = plain(text)
    if simply is None:
        return
    try:
        found = simply(SCOPE)
    except Exception:  # noqa: BLE001 - left to Jinja2
        return
    expected = compiled(text)(SCOPE)
    assert not isinstance(expected, Missing)
    assert (type(found), found) == (type(expected), expected)


def test_a_plain_expression_imports_no_jinja() -> None:
    program = (
        "import sys; from k2run.language.expressions import Expression;"
        "assert Expression('a.b == 2 and c').evaluate({'a': {'b': 2}, 'c': True}) is True;"
        "sys.exit('jinja2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

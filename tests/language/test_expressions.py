"""What expressions and templates are worth, and how they fail."""

from __future__ import annotations

import time
from typing import Any

import pytest
from msgspec import Struct

from k2run.errors import ExpressionFailed
from k2run.language.expressions import Expression, Template, has_template, render
from k2run.language.jinja import read_expression
from k2run.language.problems import Place
from k2run.language.quantities import Duration


class Lag(Struct):
    total: int
    p99_ms: float | None = None


SCOPE: dict[str, Any] = {
    "result": {"rows": 3, "items": [1, 2, 3], "none": None, "keys": "mine", "body": {"status": "ok"}},
    "lag": Lag(total=7),
    "name": "trades",
    "code": "012",
    "pause": Duration(90),
    "table": [{"id": 1, "n": 5}, {"id": 2, "n": 7}],
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("result.rows > 2 and lag.total == 7", True),
        ("result.rows in [1, 2, 3]", True),
        ("1 < result.rows <= 3", True),
        ("'up' if lag.total else 'down'", "up"),
        ("result.items", [1, 2, 3]),
        ("result.keys", "mine"),
        ("result.items[0] + result.items[-1]", 4),
        ("result.body.status == 'ok'", True),
        ("name | upper", "TRADES"),
        ("name.startswith('tra')", True),
        ("name is search('ad')", True),
        ("name is matches('ad')", False),
        ("code", "012"),
        ("code | int", 12),
        ("result.nothing is defined", False),
        ("result.nothing.at.all | default(5)", 5),
        ("lag.p99_ms is none", True),
        ("table | map(attribute='n') | sum", 12),
        ("table | selectattr('n', '>', 5) | map(attribute='id') | list", [2]),
        ("result.items | percentile(50)", 2.0),
        ("'1m30s' | to_duration == pause", True),
        ("pause | human", "1m30s"),
        ("1234567 | human", "1.23M"),
        ("'10MiB' | to_size", 10 * 2**20),
        ("'500/s' | to_rate", 500.0),
        ("'{\"a\": [1]}' | from_json", {"a": [1]}),
        ("'yes' | bool", True),
        ("len(result.items) + max(1, 2)", 5),
        ("range(3) | list", [0, 1, 2]),
        ("name ~ '-' ~ result.rows", "trades-3"),
        ("{'a': 1}['a']", 1),
    ],
)
def test_an_expression_has_its_value_with_its_type(text: str, value: object) -> None:
    found = Expression(text).evaluate(SCOPE)
    assert found == value
    assert type(found) is type(value) or isinstance(found, type(value))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("result.rowz > 2", "`result.rowz` does not exist", "did you mean `rows`?"),
        ("lag.totl", "`lag.totl` does not exist", "did you mean `total`?"),
        ("nam | upper", "`nam` has no value here", "did you mean `name`?"),
        ("result.none > 3", "`result.none` is none", ""),
        ("lag.p99_ms < 500", "`lag.p99_ms` is none", ""),
        ("result.rows / 0", "division by zero", ""),
        ("result.items | percentile(99)", "p99 needs at least 100 values, there are 3", ""),
        ("name | int", "invalid literal", ""),
        ("name | to_duration", "expected a duration", ""),
        ("result.body.missing.deep == 1", "`result.body.missing` does not exist: there are status", ""),
    ],
)
def test_a_failed_expression_says_what_was_missing(text: str, message: str, hint: str) -> None:
    with pytest.raises(ExpressionFailed) as caught:
        Expression(text, Place("demo.yaml", 3, 9)).evaluate(SCOPE)
    assert message in caught.value.message
    assert caught.value.message.startswith(f"demo.yaml:3:9: `{text}` could not be evaluated")
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "name.__class__",
        "''.__class__.__mro__[1].__subclasses__()",
        "result['__class__']",
        "lag.__init__",
        "name.format(1)",
        "'{0.__class__}'.format(name)",
        "('%0999999999d' % 1)",
        "name * 1000000000",
        "[0] * 1000000000",
        "9 ** 99999999",
        "range(1000000000) | list",
        "range(5000) | map('string') | join * 1000",
        "open('/etc/passwd')",
        "cycler.__init__.__globals__",
        "self",
        "lipsum(5)",
        "name is search('(a+)+$')",
        "name is search('(a|a)*b')",
        "name | attr('__class__')",
        "result.items.append(1)",
        "table | map(attribute='__class__') | first",
        "name.replace('', name * 10000)",
    ],
)
def test_an_expression_reaches_nothing_but_its_values_and_ends_soon(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ExpressionFailed):
        Expression(text).evaluate(SCOPE)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ result.rows }}", 3),
        ("{{ code }}", "012"),
        ("{{ result.items }}", [1, 2, 3]),
        ("{{ lag }}", Lag(total=7)),
        ("a {{ name }} b {{ result.rows }}", "a trades b 3"),
        ("{{ name }}{{ code }}", "trades012"),
        ("wait {{ pause }}", "wait 1m30s"),
        ("is {{ result.rows == 3 }}", "is true"),
        ("{{ '}}' }} stays", "}} stays"),
        ("{{ {'a': {'b': 1}} }}", {"a": {"b": 1}}),
        ('{"items": {{ result.items }}}', '{"items": [1, 2, 3]}'),
        ("${#array[@]} and {# this #} stay", "${#array[@]} and {# this #} stay"),
        ("no template", "no template"),
        ("", ""),
    ],
)
def test_a_template_that_is_one_expression_keeps_its_type_and_others_are_texts(text: str, value: object) -> None:
    assert Template(text).render(SCOPE) == value


def test_rendering_walks_mappings_and_lists_and_leaves_the_rest() -> None:
    kept = Expression("result.rows")
    value = {"a": [Template("{{ name }}"), 1], "b": (Template("{{ result.rows }}"),), "c": kept, "d": "{{ plain }}"}
    assert render(value, SCOPE) == {"a": ["trades", 1], "b": (3,), "c": kept, "d": "{{ plain }}"}


def test_names_are_those_that_the_scope_must_have() -> None:
    assert Expression("a.b + max(c, 1) | default(d) and true").names == {"a", "c", "d"}
    assert Template("{{ a }} and {{ b.c }}").names == {"a", "b"}


def test_only_double_braces_make_a_template() -> None:
    assert has_template("a {{ b }}")
    assert not has_template("{a} {% b %} ${c}")


def test_the_age_of_a_moment_is_a_duration_whatever_its_unit() -> None:
    now = time.time()
    for moment in (now - 60, (now - 60) * 1e3, (now - 60) * 1e6, (now - 60) * 1e9):
        assert 59 < Expression("moment | age").evaluate({"moment": moment}) < 62
    assert Expression("'2020-01-01T00:00:00Z' | age > '1000d' | to_duration").evaluate({})


def test_expressions_that_differ_in_numbers_alone_keep_their_own_errors_and_places() -> None:
    for number in (1, 23, 456):
        [fault] = read_expression(f"a > {number} {number} or b").faults
        assert (fault.code, fault.offset, fault.length) == ("K401", len(f"a > {number} "), len(str(number)))
        assert [each.offsets for each in read_expression(f"a[{number}] > b").references] == [
            (0, 1),
            (len(f"a[{number}] > "),),
        ]

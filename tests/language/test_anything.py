"""Whatever is given to the language, it answers with a value or with problems, and soon."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from k2run.errors import ExpressionFailed, RunbookInvalid
from k2run.language.document import compose
from k2run.language.expressions import Expression, Template
from k2run.language.jinja import read_expression
from k2run.language.loader import load_runbook, parse_runbook
from k2run.language.problems import render

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Vocabulary

pytestmark = pytest.mark.no_cover  # thousands of examples; what they reach is covered by the other tests
often = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

WORDS = (
    *("runbook", "kind", "name", "sections", "steps", "inputs", "vars", "objective", "score", "always", "steady_state"),
    *("when", "loop", "register", "expect", "until", "within", "points", "block", "rescue", "set", "wait", "assert"),
    *("http.get", "kafka.lag", "run", "requires", "figures", "on_failure", "that", "for", "award", "type", "default"),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(("scenario", "30s", "{{ a }}", "result.status == 200", "{{", "{% x %}", "5 when result.ok", "<<")),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)
TOKENS = st.sampled_from(
    (
        *("result", "a", "b.c", "[0]", "(", ")", "[", "]", "{", "}", "|", "is", "not", "in", "and", "or", "if", "else"),
        *("==", "<", "+", "-", "*", "**", "//", "%", "~", ".", ",", ":", "=", "1", "2.5", "1e3", '"x"', "'y'", "first"),
        *(
            "defined",
            "none",
            "true",
            "range",
            "len",
            "for",
            "lambda",
            "_x",
            "#",
            "\\",
            "\n",
            "é",
            "upper()",
            "default(1)",
            "30s",
            "1m30s",
            "1GiB",
            "size('1GiB')",
        ),
    )
)
EXPRESSIONS = (
    st.lists(TOKENS, max_size=12).map(" ".join) | st.lists(TOKENS, max_size=8).map("".join) | st.text(max_size=40)
)


@often
@given(st.text(max_size=200) | st.text(alphabet="{}[]:-,'\"|>&*!%@`# \n\tab1", max_size=60))
def test_any_text_is_a_document_or_has_problems(text: str) -> None:
    try:
        document = compose(text, "any.yaml")
        shown = render(document.problems)
    except RunbookInvalid as invalid:
        shown = render(invalid.problems)
    assert isinstance(shown, str)


@often
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_runbook_or_have_problems(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary
) -> None:
    file: Path = tmp_path_factory.mktemp("bytes") / "any.yaml"
    file.write_bytes(content)
    with pytest.raises(RunbookInvalid) as caught:
        load_runbook(file, vocabulary)
    assert render(caught.value.problems)


@often
@example(tree={"sections": [{"steps": True}]})
@given(tree=TREES)
def test_any_tree_is_a_runbook_or_has_problems(tree: object, vocabulary: Vocabulary) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True)
    with pytest.raises(RunbookInvalid) as caught:
        parse_runbook(text, "any.yaml", vocabulary)
    assert render(caught.value.problems)


@often
@given(step=st.dictionaries(st.sampled_from(WORDS), TREES, max_size=8))
def test_any_step_is_read_or_has_problems(step: dict[str, object], vocabulary: Vocabulary) -> None:
    runbook = {"runbook": 1, "kind": "scenario", "sections": [{"steps": [step, {"block": [step]}]}]}
    try:
        parse_runbook(yaml.safe_dump(runbook), "any.yaml", vocabulary)
    except RunbookInvalid as invalid:
        assert render(invalid.problems)  # noqa: PT017 - a runbook without problems is as good


@often
@given(EXPRESSIONS)
@example("a" + " + a" * 900)
@example("(" * 300 + ")" * 300)
@example("not " * 900 + "a")
@example("9" * 3000)
@example("a" + ".b" * 1500)
@example("'\\x'")
def test_any_expression_has_a_value_or_fails_with_a_reason(text: str) -> None:
    scope = {"a": 1, "b": {"c": [1, 2]}, "result": {"rows": 3}}
    faults = read_expression(text).faults
    try:
        Expression(text).evaluate(scope)
    except ExpressionFailed as failed:
        assert failed.message  # noqa: PT017 - a value is as good
    else:
        assert not any(fault.code == "K401" for fault in faults)


@often
@given(st.text(max_size=60) | st.lists(TOKENS | st.sampled_from(("{{", "}}", "{%", "text")), max_size=10).map(" ".join))
def test_any_template_renders_or_fails_with_a_reason(text: str) -> None:
    try:
        Template(text).render({"a": 1, "result": {"rows": 3}})
    except ExpressionFailed as failed:
        assert failed.message  # noqa: PT017 - a value is as good


@often
@given(st.text(alphabet="abc é{}:'\"\n ", min_size=1, max_size=30))
def test_the_place_of_a_value_is_where_it_is_written(value: str) -> None:
    text = yaml.safe_dump({"before": [1, 2], "key": {"inner": value}}, allow_unicode=True)
    document = compose(text, "any.yaml")
    assert document.data["key"]["inner"] == value
    place = document.place(("key", "inner"))
    assert text.splitlines()[place.line - 1].strip().startswith(("inner:", '"', "'", "|", ">")) or value.strip()
    assert document.place(("key", "inner"), key=True).column == 3


NASTY = {
    "brackets": "[" * 10_000,
    "braces": "{a: " * 2_500,
    "dashes": "- " * 5_000,
    "question marks": "? " * 5_000,
    "quotes": "'" * 9_999,
    "anchors": "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" if n else "a0: &a0 [x]" for n in range(300)),
    "merges": "\n".join(
        f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}], k{n}: 1}}" if n else "m0: &m0 {k: 1}" for n in range(250)
    ),
    "digits": f"runbook: {'9' * 9_990}",
    "one expression": "runbook: 1\nkind: readiness\nsections: [{steps: [{wait: {for: 1s}, when: "
    + "(" * 4_900
    + "}]}]",
    "many expressions": "runbook: 1\nkind: readiness\nsections: [{steps: [{set: {a: '" + "{{ é }}" * 1_400 + "'}}]}]",
    "nested blocks": "runbook: 1\nkind: readiness\nsections:\n - steps: " + "[{block: " * 30 + "[]" + "}]" * 30,
    "unknown keys": "runbook: 1\nkind: readiness\n" + "\n".join(f"kinds{n}: 1" for n in range(900)),
    "a long word": "runbook: 1\nkind: " + "a" * 9_900,
    "spaces": " " * 9_999 + ":",
}


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY.keys())
def test_ten_kilobytes_of_malice_are_answered_within_a_second(text: str, vocabulary: Vocabulary) -> None:
    began = time.process_time()
    with pytest.raises(RunbookInvalid) as caught:
        parse_runbook(text, "nasty.yaml", vocabulary)
    render(caught.value.problems)
    assert time.process_time() - began < 1

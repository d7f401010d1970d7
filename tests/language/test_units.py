"""Durations, sizes and rates are values: they are computed with, compared, and never mixed up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.errors import ExpressionFailed, RunbookInvalid
from k2run.language.expressions import Expression, Template
from k2run.language.quantities import Duration, Rate, Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.language.model import Runbook

SCOPE = {
    "pause": Duration(90),
    "limit": Size(2**20),
    "size": 7,
    "lag": {"age_s": 4.5, "p99_ms": 12.0, "s": 3},
    "waits": [{"took": Duration(1)}, {"took": Duration(2.5)}],
}
HEAD = "runbook: 1\nkind: readiness\ninputs: {pause: {type: duration, default: 1s}, limit: {type: size, default: 1B}}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30s * 2", Duration(60)),
        ("2 * 1h30m", Duration(10800)),
        ("5m + 30s", Duration(330)),
        ("pause - 2m", Duration(-30)),
        ("-30s", Duration(-30)),
        ("(30s - 1m) | abs", Duration(30)),
        ("pause / 2", Duration(45)),
        ("pause / 30s", 3.0),
        ("pause % 1m", Duration(30)),
        ("1d / 1h", 24.0),
        ("500ms + 1s", Duration(1.5)),
        ("size('1GiB') / 2", Size(2**29)),
        ("1.5GiB - 512MiB", Size(2**30)),
        ("limit * 1.5", Size(1.5 * 2**20)),
        ("limit // 3", Size(2**20 // 3)),
        ("10MiB / 2s", Rate(5 * 2**20)),
        ("rate('500/s') * 10s", 5000.0),
        ("10s * rate('30/min')", 5.0),
        ("100 / 5s", Rate(20)),
        ("1000 / rate('500/s')", Duration(2)),
        ("[30s, 1m] | sum", Duration(90)),
        ("waits | sum(attribute='took')", Duration(3.5)),
        ("waits | map(attribute='took') | max", Duration(2.5)),
        ("max(5m, pause)", Duration(300)),
        ("5m if limit else pause", Duration(300)),
        ("lag.missing | default(5m)", Duration(300)),
        ("duration('1m30s') == pause", True),
        ("lag.age_s < 5m + 30s", True),
        ("lag.age_s + 30s", Duration(34.5)),
        ("1m < pause <= 90s", True),
        ("limit == 1MiB", True),
        ("limit > 1000", True),
        ("size * 2 + lag.s", 17),
        ("pause | human ~ ' and ' ~ 5m", "1m30s and 5m"),
        ("'30s' ~ \"1GiB\"", "30s1GiB"),
    ],
)
def test_quantities_are_computed_with_and_keep_their_unit(text: str, value: object) -> None:
    found = Expression(text).evaluate(SCOPE)
    assert found == value
    assert type(found) is type(value)
    assert not Expression(text).syntax.faults


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pause + limit", "a duration and a size cannot be added"),
        ("limit - pause", "a duration cannot be taken from a size"),
        ("pause < limit", "1m30s and 1MiB cannot be compared"),
        ("pause * pause", "two durations cannot be multiplied"),
        ("pause ** 2", "a duration cannot be raised to the power of a number"),
        ("2 / limit", "a number cannot be divided by a size"),
        ("pause + '30s'", "a duration and a text cannot be added"),
        ("[pause, limit] | sum", "a duration and a size cannot be added"),
    ],
)
def test_what_does_not_go_together_fails_with_a_reason_where_only_the_run_knows_it(text: str, said: str) -> None:
    with pytest.raises(ExpressionFailed) as caught:
        Expression(text).evaluate(SCOPE)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("names", "condition"),
    [
        ("{}", "pause + ▸limit > 0"),
        ("{long: '{{ pause * 4 }}'}", "long < ▸limit"),
        ("{long: '{{ pause * 4 }}', double: '{{ long + long }}'}", "double - ▸1GiB > 0"),
        ("{half: '{{ limit / 2 }}'}", "half * ▸limit > 0"),
    ],
)
def test_the_check_before_the_run_follows_inputs_and_variables(
    read: Callable[[str], Runbook], names: str, condition: str
) -> None:
    before, _, after = condition.partition("▸")
    text = f"{HEAD}vars: {names}\nsections:\n  - steps:\n      - wait: {{for: 1s}}\n        when: {before}{after}\n"
    with pytest.raises(RunbookInvalid) as caught:
        read(text)
    [problem] = caught.value.problems
    assert (problem.code, problem.place.column) == ("K408", len(f"        when: {before}") + 1)


def test_a_value_may_be_called_as_a_function_of_quantities_is(read: Callable[[str], Runbook]) -> None:
    step = "      - {wait: {for: 1s}, when: \"size > size('1KiB') and duration < 5\"}\n"
    read(f"{HEAD}vars: {{size: '{{{{ 2KiB }}}}', duration: 4}}\nsections:\n  - steps:\n{step}")


def test_a_quantity_in_a_text_is_written_with_its_unit() -> None:
    assert Template("waits {{ pause * 2 }} for {{ limit / 2 }}").render(SCOPE) == "waits 3m for 512KiB"

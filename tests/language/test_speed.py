"""Reading a large runbook costs little more than composing its YAML."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import yaml

from k2run.language import syntax

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.language.model import Runbook

STEP = """\
      - name: Step number {n} looks at the lag of consumer group {n}
        kafka.lag: {{topic: "trades-{n}", group: "{{{{ group }}}}", window: 10s}}
        when: backlog > {n} and topic == "trades"
        register: lag_{n}
        expect:
          - result.total < {n}1
          - result.age_s >= 0
        until: result.p99_ms < 500
        every: 500ms
        within: 20s
        severity: warning
        tags: [slow, kafka, part{n}]
        on_failure: Look at the consumer's log; the broker may be behind by {n} messages, or the group may rebalance
"""
INPUTS = "inputs: {backlog: {type: integer}, topic: {type: string}, group: {type: string}}\n"


def large_runbook(sections: int, steps: int) -> str:
    parts = ["runbook: 1\nkind: benchmark\n", INPUTS, "sections:\n"]
    for section in range(sections):
        parts.append(f"  - name: Section {section}\n    steps:\n")
        parts += [STEP.format(n=section * steps + n + 1) for n in range(steps)]
    return "".join(parts)


def least_seconds(work: Callable[[], object]) -> float:
    """The least CPU time of two goes."""
    times = []
    for _ in range(2):
        syntax.read_expression.cache_clear()
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def test_a_large_runbook_is_checked_in_at_most_twice_the_time_of_composing_it(read: Callable[[str], Runbook]) -> None:
    text = large_runbook(20, 100)
    composing = least_seconds(lambda: yaml.compose(text, Loader=yaml.CSafeLoader))
    assert least_seconds(lambda: read(text)) <= 2 * composing


def test_the_time_grows_with_the_runbook_and_not_faster(read: Callable[[str], Runbook]) -> None:
    small, large = large_runbook(1, 250), large_runbook(1, 1000)
    assert least_seconds(lambda: read(large)) < 8 * least_seconds(lambda: read(small))

"""What a runbook becomes when it is read."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent, indent
from typing import TYPE_CHECKING

import pytest

from k2run.errors import RunbookInvalid, UsageError
from k2run.language.expressions import Expression, Template
from k2run.language.loader import load_runbook
from k2run.language.model import AfterFailure, Award, Band, Category, Kind, Severity
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Vocabulary

    from k2run.language.model import Runbook, Step

SCENARIO = """\
runbook: 1
kind: scenario
name: consumer-lag-high
title: The consumer falls behind
description: Holds the consumer, lets a backlog build, and lets go.
owner: platform
stack: sandbox
tags: [nightly]
inputs:
  backlog: {type: integer, default: 600000, help: messages to build up}
  topic: {type: string, required: true}
  pause: {type: duration, default: 30s}
  level: {type: enum, choices: [low, high], default: low}
  token: {type: secret, default: "env:K2_TOKEN"}
vars:
  base: /v1
  path: "{{ base }}/{{ topic }}"
requires: [broker, consumer]
objective: {within: 5m, rto: 90s, rpo: 0, figures: ["lag_peak > backlog_wanted", rto < 60]}
score:
  categories: {INF: {title: Infrastructure, points: 15}, OPS: 5}
  bands: [{at_least: 0, name: Not ready, light: red}, {at_least: 95, name: Outstanding}]
  go: 95
steady_state:
  - http.get: {service: api, path: "{{ path }}"}
    register: before
sections:
  - name: Break
    category: INF
    within: 2m
    steps:
      - name: Hold the consumer
        service.pause: {service: consumer}
        points: 3
      - name: "The lag of {{ topic }} grows"
        kafka.lag: {topic: "{{ topic }}", group: g, window: 500ms}
        until: result.total > backlog and attempt < 50
        every: 250ms
        within: 20s
        timeout: 2s
        register: lag
        figures: {lag_peak: result.total, backlog_wanted: backlog}
        points: {max: 4, category: OPS, award: ["4 when result.p99_ms < 500", 2 when result.p99_ms < 900, 0]}
        tags: slow
        severity: warning
        on_failure: Look at the stream's log
  - name: Recover
    clock: rto
    parallel: true
    after_failure: continue
    vars: {limit: "{{ lag.total }}"}
    steps:
      - wait: {for: 1m30s}
      - assert: {that: [lag.total > limit, "lag.worst.lag >= 0", before.status == 200]}
        when: run.attended and not stack.protected
      - set: {found: "{{ lag.per_partition[0].id }}", plain: text}
always:
  - block:
      - http.get: {service: api}
        expect: result.status == 200
    rescue:
      - http.get: {path: "/{{ item.key }}"}
        loop: {a: 1, b: 2}
    always:
      - wait: {for: 1s}
"""


@pytest.fixture(scope="module")
def scenario(read: Callable[[str], Runbook]) -> Runbook:
    return read(SCENARIO)


def test_the_head_of_a_runbook_is_kept_as_written(scenario: Runbook) -> None:
    assert (scenario.kind, scenario.name, scenario.owner) == (Kind.SCENARIO, "consumer-lag-high", "platform")
    assert scenario.requires == ("broker", "consumer")
    assert scenario.tags == {"nightly"}
    assert scenario.source == SCENARIO
    assert len(scenario.digest) == 64


def test_inputs_keep_their_types_and_defaults(scenario: Runbook) -> None:
    backlog, topic, pause, level, token = scenario.inputs
    assert (backlog.name, backlog.type, backlog.default, backlog.help) == (
        *("backlog", "integer", 600000),
        "messages to build up",
    )
    assert topic.required
    assert pause.default == "30s"
    assert level.choices == ("low", "high")
    assert token.default == "env:K2_TOKEN"


def test_objectives_are_quantities(scenario: Runbook) -> None:
    promised = scenario.objective
    assert (promised.within, promised.rto, promised.rpo) == (Duration(300), Duration(90), 0)
    assert [expression.text for expression in promised.figures] == ["lag_peak > backlog_wanted", "rto < 60"]


def test_a_score_has_its_bands_from_the_highest_down(scenario: Runbook) -> None:
    assert scenario.score is not None
    assert scenario.score.categories[1] == Category(name="OPS", title="OPS", points=5)
    assert scenario.score.bands[0] == Band(at_least=95, name="Outstanding", light="green")
    assert scenario.score.go == 95


def test_a_step_has_its_action_arguments_and_keywords(scenario: Runbook) -> None:
    step = scenario.sections[0].steps[1]
    assert (step.path, step.action, step.register) == ("sections[0].steps[1]", "kafka.lag", "lag")
    assert step.name == Template("The lag of {{ topic }} grows")
    assert step.args == {"topic": Template("{{ topic }}"), "group": "g", "window": "500ms"}
    assert step.until == Expression("result.total > backlog and attempt < 50")
    assert (step.every, step.within, step.timeout) == (Duration(0.25), Duration(20), Duration(2))
    assert step.severity is Severity.WARNING
    assert step.tags == {"slow"}
    assert step.on_failure == "Look at the stream's log"
    line = SCENARIO.splitlines().index('      - name: "The lag of {{ topic }} grows"') + 1
    assert str(step.place) == f"runbook.yaml:{line}:9"


def test_awards_are_read_in_order(scenario: Runbook) -> None:
    points = scenario.sections[0].steps[1].points
    assert points is not None
    assert points.awards[0] == Award(points=4, when=Expression("result.p99_ms < 500"))
    assert points.awards[2] == Award(points=0)
    assert (points.maximum, points.category) == (4, "OPS")


def test_a_step_without_a_category_has_its_sections(scenario: Runbook) -> None:
    points = scenario.sections[0].steps[0].points
    assert points is not None
    assert points.category == "INF"


def test_the_words_of_the_language_have_their_own_arguments(scenario: Runbook) -> None:
    wait, claim, put = scenario.sections[1].steps
    assert wait.args == {"for": Duration(90)}
    assert [expression.text for expression in claim.args["that"]] == [
        "lag.total > limit",
        "lag.worst.lag >= 0",
        "before.status == 200",
    ]
    assert put.args == {"found": Template("{{ lag.per_partition[0].id }}"), "plain": "text"}


def test_parallel_true_runs_all_steps_at_once(scenario: Runbook) -> None:
    assert scenario.sections[1].parallel == 3


def test_a_failure_ends_a_scenario_unless_it_says_otherwise(scenario: Runbook) -> None:
    assert scenario.sections[0].after_failure is AfterFailure.END_RUN
    assert scenario.sections[1].after_failure is AfterFailure.CONTINUE


def test_blocks_hold_steps_with_paths_of_their_own(scenario: Runbook) -> None:
    block = scenario.always[0]
    assert block.action == ""
    assert block.block[0].path == "always[0].block[0]"
    assert block.rescue[0].path == "always[0].rescue[0]"
    assert block.always[0].args == {"for": Duration(1)}


def test_a_mapping_to_loop_over_gives_keys_and_values(scenario: Runbook) -> None:
    assert scenario.always[0].rescue[0].loop == ({"key": "a", "value": 1}, {"key": "b", "value": 2})


def test_a_runbook_that_needs_services_uses_the_stack(scenario: Runbook) -> None:
    assert scenario.uses_stack


def step(read_steps: Callable[[str], tuple[Step, ...]], text: str) -> Step:
    return read_steps(dedent(text))[0]


@pytest.mark.parametrize(
    ("steps", "uses"),
    [
        ("- wait: {for: 1s}", False),
        ("- http.get: {url: 'http://127.0.0.1/'}", False),
        ("- http.get: {service: api}", True),
        ("- kafka.ping: {}", True),
        ("- wait: {for: 1s}\n  requires: broker", True),
        ("- block: [{kafka.ping: {}}]", True),
    ],
)
def test_only_what_asks_for_a_connection_uses_the_stack(read: Callable[[str], Runbook], steps: str, uses: bool) -> None:
    assert read("runbook: 1\nkind: readiness\nsections:\n- steps:\n" + indent(steps, "  ")).uses_stack is uses


def test_an_action_without_arguments_may_be_left_empty(read_steps: Callable[[str], tuple[Step, ...]]) -> None:
    assert step(read_steps, "- kafka.ping:").args == {}


def test_a_loop_over_a_template_is_one_expression(read_steps: Callable[[str], tuple[Step, ...]]) -> None:
    assert step(read_steps, '- wait: {for: 1s}\n  loop: "{{ run.services }}"').loop == Template("{{ run.services }}")


def test_true_and_false_are_conditions(read_steps: Callable[[str], tuple[Step, ...]]) -> None:
    assert step(read_steps, "- wait: {for: 1s}\n  when: false").when == Expression("false")


def test_yes_and_dates_and_ports_stay_texts(read: Callable[[str], Runbook]) -> None:
    variables = "vars: {a: yes, b: 2026-01-02, c: 1:30, d: off}"
    text = f"runbook: 1\nkind: readiness\n{variables}\nsections: [{{steps: [{{wait: {{for: 1s}}}}]}}]"
    assert read(text).vars == {"a": "yes", "b": "2026-01-02", "c": "1:30", "d": "off"}


def test_name_and_title_come_from_the_file_when_not_given(tmp_path: Path, vocabulary: Vocabulary) -> None:
    file = tmp_path / "check.yaml"
    file.write_text("runbook: 1\nkind: readiness\nsections: [{steps: [{wait: {for: 1s}}]}]\n")
    runbook = load_runbook(file, vocabulary)
    assert (runbook.name, runbook.title, runbook.path) == ("check", "check", str(file))


def test_a_byte_order_mark_is_not_part_of_the_runbook(tmp_path: Path, vocabulary: Vocabulary) -> None:
    file = tmp_path / "check.yaml"
    file.write_text("\ufeffrunbook: 1\nkind: readiness\nsections: [{steps: [{wait: {for: 1s}}]}]\n")
    assert load_runbook(file, vocabulary).kind is Kind.READINESS


def test_a_file_in_another_encoding_is_a_problem_at_its_byte(tmp_path: Path, vocabulary: Vocabulary) -> None:
    file = tmp_path / "check.yaml"
    file.write_bytes("runbook: 1\ntitle: Zürich\n".encode("latin-1"))
    with pytest.raises(RunbookInvalid) as caught:
        load_runbook(file, vocabulary)
    problem = caught.value.problems[0]
    assert (problem.code, problem.place.line, problem.place.column) == ("K101", 2, 9)


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path, vocabulary: Vocabulary) -> None:
    with pytest.raises(UsageError, match=r"nothing\.yaml"):
        load_runbook(tmp_path / "nothing.yaml", vocabulary)


def write(folder: Path, name: str, *steps: str) -> Path:
    file = folder / name
    file.write_text(
        "runbook: 1\nkind: recovery\nsections:\n  - steps:\n" + "".join(f"      - {line}\n" for line in steps)
    )
    return file


def problems_of(file: Path, vocabulary: Vocabulary) -> list[tuple[str, int, int]]:
    with pytest.raises(RunbookInvalid) as caught:
        load_runbook(file, vocabulary)
    return [(problem.code, problem.place.line, problem.place.column) for problem in caught.value.problems]


def test_a_runbook_that_is_run_must_exist(tmp_path: Path, vocabulary: Vocabulary) -> None:
    file = write(tmp_path, "a.yaml", "run: {runbook: b.yaml}")
    assert problems_of(file, vocabulary) == [("K501", 5, 24)]
    write(tmp_path, "b.yaml", "wait: {for: 1s}")
    assert load_runbook(file, vocabulary).sections[0].steps[0].args == {"runbook": "b.yaml"}


def test_a_recovery_that_is_offered_must_exist(tmp_path: Path, vocabulary: Vocabulary) -> None:
    file = write(tmp_path, "a.yaml", "{wait: {for: 1s}, on_failure: fix-it.yaml}")
    assert problems_of(file, vocabulary) == [("K501", 5, 39)]
    write(tmp_path, "fix-it.yaml", "wait: {for: 1s}")
    assert load_runbook(file, vocabulary).sections[0].steps[0].recovery == "fix-it.yaml"


def test_a_copy_of_a_runbook_names_the_files_beside_the_original(tmp_path: Path, vocabulary: Vocabulary) -> None:
    write(tmp_path, "b.yaml", "wait: {for: 1s}")
    copies = tmp_path / "runs"
    copies.mkdir()
    copy = write(copies, "runbook.yaml", "run: {runbook: b.yaml}")
    assert problems_of(copy, vocabulary) == [("K501", 5, 24)]
    assert load_runbook(copy, vocabulary, home=tmp_path).path == str(copy)


def test_a_circle_of_runbooks_is_found(tmp_path: Path, vocabulary: Vocabulary) -> None:
    file = write(tmp_path, "a.yaml", "run: {runbook: b.yaml}")
    write(tmp_path, "b.yaml", "block: [{run: {runbook: c.yaml}}]")
    write(tmp_path, "c.yaml", "run: {runbook: a.yaml}")
    assert problems_of(file, vocabulary) == [("K502", 5, 24)]


def test_importing_the_loader_imports_nothing_heavy() -> None:
    heavy = ("jinja2", "jsonschema", "difflib", "rich")
    code = f"import sys, k2run.language.loader; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_step_that_runs_at_once_registers_is_known_in_the_next_section(read: Callable[[str], Runbook]) -> None:
    read(
        dedent("""\
        runbook: 1
        kind: readiness
        sections:
          - parallel: 2
            steps:
              - {http.get: {path: /a}, register: a}
              - {http.get: {path: /b}, register: b}
          - steps:
              - assert: {that: a.status == b.status}
        """)
    )

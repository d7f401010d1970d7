"""An output that was cut is never taken for the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import Outcome
from k2run.engine.run import resume

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

MIDDLE = "yes ok | head -c 200000; echo; echo ERROR disk; yes ok | head -c 200000"
LONGER = "yes ok | head -c 9000000; echo; echo ERROR disk; yes ok | head -c 200000"


def one(command: str, more: str = "") -> str:
    return f"- name: One\n  shell.run: {{command: '{command}'}}\n  severity: warning\n{more}"


def test_what_stands_in_the_middle_of_a_long_output_is_found(bench: Bench, readiness: Callable) -> None:
    bench.run(readiness(one(MIDDLE, "  expect: \"'ERROR' not in result.stdout\"\n")))
    assert bench.steps()["One"].outcome is Outcome.FAILED


def test_a_long_document_is_read_as_a_whole(bench: Bench, readiness: Callable) -> None:
    command = 'python3 -c "import json; print(json.dumps(list(range(500000))))"'
    bench.run(readiness(one(command, "  expect: result.stdout | from_json | length == 500000\n")))
    assert bench.steps()["One"].outcome is Outcome.PASSED, bench.steps()["One"].message


@pytest.mark.parametrize(
    "judged",
    [
        "expect: \"'ERROR' not in result.stdout\"",
        "expect: not (result.stdout | search('ERROR'))",
        "failed_when: \"'ERROR' in result.stdout\"",
        "figures: {errors: result.stdout.count('ERROR')}",
        "expect: result.stdout | length > 5",
    ],
)
def test_of_an_output_that_was_cut_nothing_is_known(bench: Bench, readiness: Callable, judged: str) -> None:
    finished = bench.run(readiness(one(LONGER, f"  {judged}\n")))
    step = bench.steps()["One"]
    assert step.outcome is Outcome.UNKNOWN
    assert "`result.stdout" in step.message
    assert step.result["truncated"]
    assert finished.exit_code == 0  # a warning


@pytest.mark.parametrize("judged", ["result.exit_code == 0", "result.stdout_bytes > 9000000"])
def test_what_does_not_look_into_it_is_judged(bench: Bench, readiness: Callable, judged: str) -> None:
    bench.run(readiness(one(LONGER, f"  expect: {judged}\n")))
    assert bench.steps()["One"].outcome is Outcome.PASSED


@pytest.mark.parametrize(
    "judged",
    [
        "'ERROR' not in out.stdout",
        "outs | selectattr('stdout', 'search', 'ERROR') | list | length == 0",
        "'ERROR' not in outs[0].stdout",
        "'ERROR' not in handed",
        "out | tojson | length > 5",
    ],
)
def test_it_stays_unknown_for_the_steps_after_it_and_after_a_resume(
    bench: Bench, readiness: Callable, judged: str
) -> None:
    text = readiness(
        one(LONGER, "  register: out\n")
        + f"- {{name: Two, loop: [1], shell.run: {{command: '{LONGER}'}}, register: outs}}\n"
        + '- {name: Hand, set: {handed: "{{ out.stdout }}"}}\n'
        + f'- name: Judge\n  assert: {{that: "{judged}"}}\n'
    )
    assert bench.run(text).exit_code == 1
    assert bench.outcomes()["Judge"] == "unknown"
    folder = bench.store.find_run("last")
    journal = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    ended = next(at for at, line in enumerate(journal) if '"step_finished"' in line and '"name":"Hand"' in line)
    (folder / "journal.jsonl").write_text("".join(journal[: ended + 1]))
    bench.seen.clear()
    resume(bench.request(text), folder)
    assert bench.outcomes()["Judge"] == "unknown"


def test_the_whole_output_stands_in_a_file_beside_the_journal(
    bench: Bench, readiness: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K2RUN_TEST_TOKEN", "hush-hush-token")
    top = "inputs: {token: {type: secret, default: 'env:K2RUN_TEST_TOKEN'}}\n"
    bench.run(readiness(one(f"{MIDDLE}; echo {{{{ token }}}}"), top))
    step = bench.steps()["One"]
    folder = bench.store.find_run("last")
    kept = (folder / step.result["stdout_file"]).read_text()
    assert len(kept) > 400_000
    assert "ERROR disk" in kept
    assert "hush-hush" not in kept
    assert len(step.result["stdout"]) < 100_000


def test_no_log_keeps_a_long_output_out_of_every_file(bench: Bench, readiness: Callable) -> None:
    bench.run(readiness(one(MIDDLE, "  no_log: true\n")))
    assert not (bench.store.find_run("last") / "outputs").exists()

"""Whatever is printed about a stack or a run goes through one place, which takes secrets out of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent / "k2run"
ELSEWHERE = {
    *("app/answers", "cli/program"),  # a question to the operator; the help
    *("authoring/action_manual", "authoring/chaos/experiment"),
    *("authoring/graph", "authoring/generated"),
    *("cli/document_tasks", "cli/runbook_tasks", "daemon/schedule/timetable"),  # runbooks, files
    *("cli/command", "engine/safeguards"),  # take secrets out of what they say
    "daemon/own_metrics",  # the metrics of k2run, which are figures
    "web/server",  # the server itself, and the link to sign in
    *("adapters/host/stress_process", "k2/platform/program", "k2/platform/prometheus", "k2/platform/stream"),
    "terminal/safe_stream",  # the one place
}
"""Modules that print by themselves; none of them says anything about a stack."""


def prints(path: Path) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_nothing_is_printed_about_a_stack_but_through_the_one_place() -> None:
    found = {str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.rglob("*.py") if prints(path)}
    assert found - ELSEWHERE == set()


@pytest.mark.parametrize("name", ["say", "complain", "say_json"])
def test_the_one_place_takes_out_every_secret_that_this_process_has_read(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from k2run.stack import redactor
    from k2run.terminal import safe_stream

    monkeypatch.setattr(redactor, "SHOWN", everywhere := redactor.Redactor(lenient=True))
    stack = redactor.Redactor("services: {postgres: {run: docker}}", everywhere)
    for secret in ("hunter2-hunter2", "services", "postgres", "running"):
        stack.add(secret, "env:PW")
    say = getattr(safe_stream, name)
    say(
        {"services": ["a 'hunter2-hunter2' b"], "postgres": "running"}
        if name == "say_json"
        else "postgres hunter2-hunter2"
    )
    shown = "".join(capsys.readouterr())
    expected = '{"services":["a \'•••\' b"],"postgres":"running"}' if name == "say_json" else "postgres •••"
    assert shown == f"{expected}\n"


def test_a_message_of_an_error_keeps_what_anybody_may_read_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from k2run.stack import redactor

    monkeypatch.setattr(redactor, "SHOWN", everywhere := redactor.Redactor(lenient=True))
    stack = redactor.Redactor("services: {postgres: {run: docker}}", everywhere)
    for secret in ("a:hunter2@b", "admin", "postgres"):
        stack.add(secret, "env:PW")
    said = "postgres: Port could not be cast as 'hunter2', admin"
    assert redactor.unsecret(said) == "postgres: Port could not be cast as '•••', •••"
    assert stack(said) == "•••: Port could not be cast as '•••', •••"

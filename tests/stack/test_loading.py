from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from k2run.actions.deadline import Deadline
from k2run.errors import RunbookInvalid, StackInvalid, UsageError
from k2run.stack import lifecycle
from k2run.stack.stack import Stack, load_stack, stack_files

Make = Callable[..., Stack]


def load(path: Path, **overrides: str) -> Stack:
    return load_stack(str(path), near=None, home=path.parent / "home", overrides=overrides)


def test_loading_a_stack_imports_no_template_engine_and_no_client_library() -> None:
    program = (
        "import sys; from pathlib import Path; from k2run.stack.stack import load_stack\n"
        "stack = load_stack('sandbox', near=None, home=Path('.k2run'), overrides={})\n"
        "assert stack.services['api'].url == 'http://127.0.0.1:18000', stack.services['api'].url\n"
        "print([name for name in ('jinja2', 'psutil', 'docker', 'httpx', 'http.client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_sandbox_that_ships_can_be_filled_in_completely(tmp_path: Path) -> None:
    stack = load_stack("sandbox", near=None, home=tmp_path, overrides={"api_port": "28000"})
    assert stack.check() == []
    assert stack.services["api"].url == "http://127.0.0.1:28000"
    assert 28000 in stack.services["network"].ports, "whoever asks the API does so through the network's link"
    assert stack.services["api"].headers == {"X-API-Key": "k2-dev-api-key-2026"}
    assert (stack.settings("kafka") or {})["bootstrap"] == "127.0.0.1:19092"


def test_a_name_is_found_beside_the_runbook_and_above_it(tmp_path: Path) -> None:
    runbooks = tmp_path / "runbooks"
    (runbooks / "stacks").mkdir(parents=True)
    (runbooks / "scenarios").mkdir()
    (runbooks / "stacks" / "staging.yaml").write_text("stack: 1\n")
    for near in (runbooks, runbooks / "scenarios", runbooks / "scenarios" / "lag.yaml"):
        assert load_stack("staging", near=near, home=tmp_path, overrides={}).name == "staging"


def test_an_own_stack_wins_over_the_one_that_ships(tmp_path: Path) -> None:
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "sandbox.yaml").write_text("stack: 1\ntitle: mine\n")
    assert load_stack("sandbox", near=tmp_path, home=tmp_path, overrides={}).title == "mine"
    assert "sandbox" in stack_files(None)


def test_an_unknown_stack_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(StackInvalid, match="sandbocks") as refusal:
        load_stack("sandbocks", near=tmp_path, home=tmp_path, overrides={})
    assert "`sandbox`" in refusal.value.hint


def test_an_override_that_names_no_variable_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="api_prot") as refusal:
        load_stack("sandbox", near=None, home=Path(), overrides={"api_prot": "1"})
    assert "`api_port`" in refusal.value.hint


def test_what_services_need_is_told_each_once_also_where_it_needs_itself(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("stack: 1\nservices: {a: {needs: [b, c]}, b: {needs: [d, c]}, c: {}, d: {needs: [a]}, e: {}}\n")
    stack = load(file)
    assert stack.needed(["b"]) == ["b", "d", "c", "a"]
    assert sorted(stack.needed(["e", "d"])) == ["a", "b", "c", "d", "e"]
    assert stack.needed([]) == []


WRONG = {
    "": ("K201", 1, 1),
    "- a": ("K201", 1, 1),
    "name: x": ("K202", 1, 1),
    "stack: 2": ("K203", 1, 8),
    "stack: 1\nname: a/b": ("K203", 2, 7),
    "stack: 1\nservises: {}": ("K204", 2, 1),
    "stack: 1\nprotected: maybe": ("K203", 2, 12),
    "stack: 1\nallow: demo": ("K203", 2, 8),
    "stack: 1\nfaults: service.kill": ("K203", 2, 9),
    "stack: 1\nfaults: [{service: kill}]": ("K203", 2, 9),
    "stack: 1\nvars: [a]": ("K203", 2, 7),
    "stack: 1\nvars: {a-b: 1}": ("K203", 2, 8),
    "stack: 1\nconnections: {kafka: localhost}": ("K203", 2, 22),
    "stack: 1\nservices: {a b: {}}": ("K203", 2, 12),
    "stack: 1\nservices: {api: 8000}": ("K203", 2, 17),
    "stack: 1\nservices: {api: {urll: x}}": ("K204", 2, 18),
    "stack: 1\nservices: {api: {run: proces, command: [a]}}": ("K203", 2, 23),
    "stack: 1\nservices: {api: {run: process}}": ("K202", 2, 12),
    "stack: 1\nservices: {api: {run: docker}}": ("K202", 2, 12),
    "stack: 1\nservices: {api: {ports: [a]}}": ("K203", 2, 26),
    "stack: 1\nservices: {api: {ready: {tpc: 1}}}": ("K204", 2, 26),
    "stack: 1\nservices: {api: {ready: {}}}": ("K202", 2, 18),
    "stack: 1\nservices: {api: {ready: {tcp: 'a:1', within: 5}}}": ("K203", 2, 46),
    "stack: 1\nservices: {api: {needs: [brocker]}, broker: {}}": ("K501", 2, 26),
    "stack: 1\nservices: {api: {command: serve}}": ("K203", 2, 27),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_stack_file_is_told_with_its_place(text: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(RunbookInvalid) as refusal:
        load(path)
    found = [(problem.code, problem.place.line, problem.place.column) for problem in refusal.value.problems]
    assert WRONG[text] in found, refusal.value.problems


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("stack: 3\ntitel: x\nservices:\n  api: {urll: x, ports: [a]}\n  web: {run: process}\n")
    with pytest.raises(RunbookInvalid) as refusal:
        load(path)
    assert [problem.place.line for problem in refusal.value.problems] == [2, 1, 4, 4, 5]


def test_templates_are_filled_in_and_keep_their_type(make_stack: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_PORT", "4711")
    stack = make_stack("""
        vars:
          port: "{{ env('BENCH_PORT', 80) }}"
          base: "http://127.0.0.1:{{ port }}"
          next: "{{ port | int + 1 }}"
        connections: {kafka: {retries: "{{ next }}", bootstrap: "127.0.0.1:{{ next }}"}}
        services: {api: {url: "{{ base }}/v1", ports: ["{{ port }}"], env: {PORT: "{{ next }}"}}}
    """)
    assert stack.services["api"].url == "http://127.0.0.1:4711/v1"
    assert stack.services["api"].ports == [4711]
    assert stack.services["api"].env == {"PORT": "4712"}
    assert stack.settings("kafka") == {"retries": 4712, "bootstrap": "127.0.0.1:4712"}
    assert stack.facts()["services"]["api"]["url"] == "http://127.0.0.1:4711/v1"
    assert stack.facts()["vars"]["next"] == 4712


def test_what_nobody_reads_need_not_be_there(make_stack: Make) -> None:
    stack = make_stack("""
        vars: {host: "{{ env('BENCH_NOT_SET') }}"}
        services: {api: {url: "http://{{ host }}"}, web: {url: "http://here"}}
    """)
    assert stack.services["web"].url == "http://here"
    with pytest.raises(StackInvalid, match=r"bench\.yaml:\d+:\d+: the environment variable BENCH_NOT_SET is not set"):
        stack.services["api"]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ prot }}", "'prot' is not defined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ port + }}", "cannot be filled in"),
        ("{{ ''.__class__ }}", "cannot be filled in"),
        ("{{ a }}", "defined by itself"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_told_with_its_place(make_stack: Make, template: str, said: str) -> None:
    stack = make_stack(f"""
        vars: {{port: 1, a: "{{{{ b }}}}", b: "{{{{ a }}}}"}}
        services:
          api: {{url: "{template}"}}
    """)
    with pytest.raises(StackInvalid, match=rf"bench\.yaml:\d+:\d+: .*{said}"):
        stack.services["api"]
    problem = next(problem for problem in stack.check() if said in problem.message)
    assert problem.line[problem.place.column - 1 :].startswith('"{{ ')


def test_the_command_line_wins_over_the_file(make_stack: Make) -> None:
    stack = make_stack("vars: {port: 1}\nservices: {api: {ports: ['{{ port }}']}}", port="2")
    assert stack.services["api"].ports == [2]


def test_a_service_or_program_that_is_not_there_says_so(make_stack: Make) -> None:
    stack = make_stack("""
        connections: {kafka: {bootstrap: a}}
        services: {graphs: {run: process, command: [a], program: no-such-program}}
    """)
    assert stack.absent("kafka") == ""
    assert stack.absent("grafana") == "the stack 'bench' has no grafana"
    assert stack.absent("graphs") == "no-such-program is not installed"


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        ("graphs: {url: 'http://elsewhere.example:3000'}", True),  # by its name
        ("prometheus: {url: 'http://127.0.0.1:9191/'}", True),  # by its address
        ("kafka: {bootstrap: 'localhost:9191,localhost:2'}", True),
        ("prometheus: {url: 'http://127.0.0.1:19191/'}", False),
        ("prometheus: {url: 'http://elsewhere.example:9191/'}", False),
    ],
)
def test_a_connection_of_an_absent_service_is_absent_with_it(make_stack: Make, settings: str, *, absent: bool) -> None:
    stack = make_stack(f"""
        connections: {{{settings}}}
        services: {{graphs: {{run: process, command: [a], program: no-such-program, ports: [9191]}}}}
    """)
    [connection] = stack.facts()["connections"]
    assert stack.absent(connection) == ("no-such-program is not installed" if absent else "")


def test_a_service_that_runs_is_there_wherever_its_program_is_found_now(
    make_stack: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "graphs"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    stack = make_stack("services: {graphs: {run: process, command: [sleep, '600'], program: graphs}}")
    lifecycle.start(stack, None, Deadline(10))
    program.unlink()
    assert stack.absent("graphs") == ""
    assert lifecycle.stop(stack) == ["graphs"]
    assert stack.absent("graphs") == "graphs is not installed"


def test_the_state_of_a_stack_is_below_its_home(make_stack: Make, tmp_path: Path) -> None:
    stack = make_stack("vars: {data: '{{ state }}/data'}")
    assert stack.state == tmp_path / "home" / "stacks" / "bench"
    assert stack.facts()["vars"]["data"] == f"{stack.state}/data"


def test_another_kafka_can_take_the_place_of_the_embedded_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("K2RUN_BROKER", "kafka.example:9092")
    stack = load_stack("sandbox", near=None, home=tmp_path, overrides={})
    assert stack.services["broker"].run.value == "external"
    assert (stack.settings("kafka") or {})["bootstrap"] == "kafka.example:9092"
    assert stack.services["consumer"].run.value == "process"

"""A stack file is validated like a runbook: what it names must be there, and mean something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.errors import RunbookInvalid, StackInvalid
from k2run.language.problems import render
from k2run.stack.stack import find_stack, load_stack, stack_files

WRONG = {
    "connections: {postgress: {host: h, database: d, user: u}}": ("K204", 15, "did you mean `postgres`?"),
    "connections: {prometheus: {uri: 'http://p', url: 'http://p'}}": ("K204", 28, "did you mean `url`?"),
    "connections: {prometheus: {}}": ("K202", 15, ""),
    "connections: {kafka: {bootstrap: [a]}}": ("K203", 34, ""),
    "connections: {materials: {}}": ("K204", 15, "own values belong under `vars:`"),
    "connections: {kafka: {bootstrap: a, config: {a: {b: 1}}}}": ("K203", 45, ""),
    "faults: [service.kil]": ("K501", 10, "did you mean `service.kill`?"),
    "faults: [service.kill, netwrok.*]": ("K501", 24, "did you mean `network.*`?"),
    "faults: [kafka.lag]": ("K501", 10, ""),
    "compose: compsoe.yml": ("K501", 10, "did you mean `compose.yml`?"),
    "data_path: pth.yaml": ("K501", 12, "did you mean `path.yaml`?"),
    "services: {a: {run: process, command: [no-such-program]}}": ("K501", 40, "`program: no-such-program`"),
    "services: {a: {run: process, command: [/no/such/program]}}": ("K501", 40, ""),
    "services: {a: {run: process, command: [sleep, '1'], cwd: /no/such/folder}}": ("K501", 58, ""),
    "services: {a: {run: process, command: [sleep, '1'], cwd: serve}}": ("K501", 58, "begins with"),
    "services: {a: {run: process, command: [python, serve.py]}}": ("K501", 48, "{{ here }}/serve.py"),
}
RIGHT = [
    "faults: [service.kill, 'network.*', '*.delete']",
    "faults: []",
    "connections: {kafka: {bootstrap: '{{ env(\"NO_SUCH_VARIABLE\") }}'}}",
    "connections: {postgres: {host: h, port: '{{ env(\"NO\", 1) }}', database: d, user: u, password: 'env:P'}}",
    "connections: {jupyter: {notebook: x.ipynb}}",
    "compose: compose.yml",
    "services: {a: {run: process, command: [no-such-program], program: no-such-program}}",
    "services: {a: {run: process, command: [python, '{{ here }}/serve.py'], cwd: '{{ here }}'}}",
    "services: {a: {run: process, command: [python, serve.py], cwd: '{{ here }}'}}",
    "services: {a: {run: process, command: [sleep, '1'], cwd: '{{ state }}/work'}}",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("compose.yml", "serve.py", "path.yaml"):
        (tmp_path / name).write_text("")
    return tmp_path


def problems(folder: Path, text: str):
    file = folder / "mine.yaml"
    file.write_text(f"stack: 1\n{text}\n")
    stack = load_stack(str(file), near=None, home=folder / "home", overrides={})
    return stack.check(Catalogue().connections(), Catalogue().faults())


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_told_at_its_place_with_the_way_out(folder: Path, text: str) -> None:
    [problem] = problems(folder, text)
    code, column, hint = WRONG[text]
    assert (problem.code, problem.place.line, problem.place.column) == (code, 2, column), problem
    assert hint in problem.hint
    assert text.partition("{")[0] in render([problem])


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_right_or_known_elsewhere_alone_is_no_problem(folder: Path, text: str) -> None:
    assert problems(folder, text) == []


def test_every_problem_of_a_stack_is_told_at_once(folder: Path) -> None:
    found = problems(folder, "compose: no.yml\nconnections: {postgress: {}, kafka: {bootsrap: a}}")
    assert [(problem.code, problem.place.line) for problem in found] == [
        ("K501", 2),
        ("K204", 3),
        ("K204", 3),
        ("K202", 3),
    ]


@pytest.mark.parametrize("file", sorted(Path("runbooks/stacks").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_stacks_that_ship_are_right(file: Path) -> None:
    assert load_stack(str(file), near=None, home=Path(".k2run"), overrides={}).check(Catalogue().connections()) == []


def test_a_mistyped_connection_is_a_mistake_and_not_something_that_the_stack_has_not(folder: Path) -> None:
    from k2run.adapters.postgres import Postgres
    from k2run.errors import NotApplicable

    file = folder / "mine.yaml"
    file.write_text("stack: 1\nconnections: {postgress: {host: h}}\n")
    stack = load_stack(str(file), near=None, home=folder, overrides={})
    with pytest.raises(StackInvalid, match=r"no connection postgres, but one that is called nearly so.*`postgress`"):
        Postgres.of(stack)
    file.write_text("stack: 1\nconnections: {kafka: {bootstrap: a}}\n")
    with pytest.raises(NotApplicable):
        Postgres.of(load_stack(str(file), near=None, home=folder, overrides={}))


def test_a_process_runs_in_its_working_directory(folder: Path) -> None:
    from k2run.actions.deadline import Deadline
    from k2run.stack import lifecycle

    file = folder / "mine.yaml"
    file.write_text(
        "stack: 1\nservices: {a: {run: process, command: [sh, -c, 'pwd > where; sleep 600'], cwd: '{{ here }}'}}\n"
    )
    stack = load_stack(str(file), near=None, home=folder / "home", overrides={})
    lifecycle.start(stack, None, Deadline(10))
    try:
        assert Path((folder / "where").read_text().strip()).samefile(folder)
    finally:
        lifecycle.stop(stack)


# --- where stacks are looked for --------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a stack beside it, and a runbook elsewhere."""
    work = tmp_path / "work"
    (work / "stacks").mkdir(parents=True)
    (work / "stacks" / "mine.yaml").write_text("stack: 1\nservices: {a: {run: process, command: [sleep, '600']}}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "look.yaml").write_text(
        "runbook: 1\nkind: readiness\nsections: [{name: S, steps: [{name: A, assert: {that: stack.name == 'mine'}}]}]\n"
    )
    monkeypatch.chdir(work)
    return work


def test_a_stack_beside_the_working_directory_is_found_from_a_runbook_elsewhere(work: Path) -> None:
    assert find_stack("mine", work.parent / "elsewhere").samefile(work / "stacks" / "mine.yaml")
    shipped = Path(__file__).parents[2] / "runbooks"
    assert find_stack("mine", shipped).samefile(work / "stacks" / "mine.yaml")


def test_one_beside_the_runbook_is_nearer_and_the_shipped_ones_come_last(work: Path) -> None:
    near = work.parent / "elsewhere" / "stacks"
    near.mkdir()
    for folder, name in ((near, "mine"), (work / "stacks", "sandbox")):
        (folder / f"{name}.yaml").write_text("stack: 1\n")
    assert find_stack("mine", work.parent / "elsewhere").samefile(near / "mine.yaml")
    assert find_stack("sandbox", Path(__file__).parents[2] / "runbooks").samefile(work / "stacks" / "sandbox.yaml")
    assert {"mine", "sandbox", "k2", "compose"} <= stack_files(None).keys()


@pytest.mark.parametrize(
    "words",
    [
        ["run", "../elsewhere/look.yaml", "--stack", "mine"],
        ["run", "../elsewhere/look.yaml"],
        ["status", "--stack", "mine"],
        ["status"],
        ["diagnose", "--stack", "mine"],
        ["up", "--stack", "mine"],
        ["validate", "mine"],
        ["validate", "../work/stacks/mine.yaml"],
    ],
    ids=" ".join,
)
def test_every_command_finds_it(work: Path, words: list[str]) -> None:
    def k2run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "k2run"), *words],
            cwd=work,
            env={**os.environ, "K2RUN_HOME": str(work / "home")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    try:
        done = k2run(*words)
        assert "there is no stack" not in done.stdout + done.stderr
        assert done.returncode == (1 if words[0] in {"status", "diagnose"} else 0), done.stdout + done.stderr
    finally:
        k2run("down", "--stack", "mine")


def test_a_stack_file_is_validated_as_one_wherever_it_lies(folder: Path) -> None:
    from k2run.authoring.validate import check_files

    (folder / "mine.yaml").write_text("stack: 1\nconnections: {postgress: {}}\n")
    assert [problem.code for problem in check_files([str(folder / "mine.yaml")], form="json")] == ["K204"]


def test_the_runbook_of_a_data_path_is_validated_with_its_stack(folder: Path) -> None:
    from k2run.authoring.validate import check_files

    (folder / "mine.yaml").write_text("stack: 1\ndata_path: path.yaml\n")
    (folder / "path.yaml").write_text(
        "runbook: 1\nkind: readiness\nsections: [{name: S, steps: [{nosuch.thing: {}}]}]\n"
    )
    [problem] = check_files([str(folder / "mine.yaml")], form="json")
    assert (Path(problem.place.file).name, problem.place.line) == ("path.yaml", 3)


def test_a_stack_file_that_cannot_be_read_says_so(folder: Path) -> None:
    file = folder / "mine.yaml"
    file.write_text("stack: 1\ncompose: [a]\n")
    with pytest.raises(RunbookInvalid):
        load_stack(str(file), near=None, home=folder, overrides={})

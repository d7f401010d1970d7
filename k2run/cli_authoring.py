"""The tasks for those who write runbooks: check, lint, explain, begin, import, draw, complete, look up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from invoke import Context, Exit, task

from k2run.friendly import friendly


@task(
    positional=[],
    iterable=["paths"],
    auto_shortflags=False,
    help={"paths": "runbooks, stack files or folders", "json": "problems as JSON", "sarif": "problems as SARIF 2.1.0"},
)
def validate(c: Context, paths: list[str], json: bool = False, sarif: bool = False) -> None:
    """Check runbooks and stack files without running them: every problem, with its place."""
    with friendly():
        from k2run.faces.checking import check_files

        problems = check_files(paths or ["runbooks"], form=_form(json, sarif))
    if problems:
        raise Exit(code=2)


@task(
    positional=[],
    iterable=["paths"],
    auto_shortflags=False,
    help={"paths": "runbooks or folders", "json": "findings as JSON", "sarif": "findings as SARIF 2.1.0"},
)
def lint(c: Context, paths: list[str], json: bool = False, sarif: bool = False) -> None:
    """Look at valid runbooks for danger and bad style."""
    with friendly():
        from k2run.faces.authoring.lint import lint_files

        findings = lint_files(paths or ["runbooks"], form=_form(json, sarif))
    if findings:
        raise Exit(code=2 if any(finding.code.startswith("K") for finding in findings) else 1)


@task(positional=[], auto_shortflags=False, help={"code": "a code, such as K301; all of them when left out"})
def explain(c: Context, code: str = "") -> None:
    """Explain the code of a problem: why it is one, a wrong and a right example."""
    with friendly():
        from k2run.faces.authoring.explain import show_explanation

        show_explanation(code)


@task(
    positional=["kind", "name"],
    auto_shortflags=False,
    help={
        "kind": "readiness, benchmark, scenario, recovery or rehearsal",
        "name": "name of the runbook, in small letters and dashes",
        "folder": "where to put it",
    },
)
def new(c: Context, kind: str, name: str, folder: str = "runbooks") -> None:
    """Write a commented starting point for a runbook: valid, and ready to run."""
    with friendly():
        from k2run.faces.authoring.new import write_new

        print(write_new(kind, name, folder=Path(folder)))


@task(
    name="import",
    positional=["form", "file"],
    auto_shortflags=False,
    help={"form": "what it comes from: chaos", "file": "the file to read", "folder": "where to put the runbook"},
)
def import_(c: Context, form: str, file: str, folder: str = "runbooks") -> None:
    """Turn a Chaos Toolkit experiment into a runbook: `import chaos FILE.json`."""
    with friendly():
        from k2run.faces.authoring.chaos.importing import import_file

        print(import_file(form, Path(file), folder=Path(folder)))


@task(
    positional=["runbook"],
    auto_shortflags=False,
    help={
        "runbook": "path or name of the runbook",
        "svg": "a picture instead of Mermaid's text",
        "output": "file to write to (printed otherwise); one that ends in .svg is a picture",
    },
)
def graph(c: Context, runbook: str, svg: bool = False, output: str = "") -> None:
    """Draw a runbook: sections, steps, faults with their undos, clocks."""
    with friendly():
        from k2run.faces.authoring.graph.drawing import draw

        draw(runbook, as_svg=svg, output=output)


@task(
    positional=["shell"],
    auto_shortflags=False,
    help={"shell": "bash, zsh or fish"},
)
def completion(c: Context, shell: str) -> None:
    """Print the completion of a shell: commands, options, runbooks, stacks, runs, actions."""
    with friendly():
        from k2run.cli import TASKS
        from k2run.faces.authoring.completion import completion_of

        print(completion_of(shell, TASKS), end="")


@task(positional=[], auto_shortflags=False, help={"action": "name of an action or adapter"})
def doc(c: Context, action: str = "") -> None:
    """Describe an action, an adapter's actions, or list all of them."""
    with friendly():
        from k2run.faces.manual import show_actions

        show_actions(action)


def _form(json: bool, sarif: bool) -> Any:
    return "sarif" if sarif else "json" if json else "text"


AUTHORING = (validate, lint, explain, new, import_, graph, completion, doc)

"""The commands for authors of runbooks: check, lint, explain, begin, import, draw, complete, look up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.cli.command import command

if TYPE_CHECKING:
    from invoke import Context


@command(
    iterable=["paths"],
    help={"paths": "runbooks, stack files or folders", "json": "problems as JSON", "sarif": "problems as SARIF 2.1.0"},
)
def validate(c: Context, paths: list[str], json: bool = False, sarif: bool = False) -> int:
    """Check runbooks and stack files without running them: every problem with its location."""
    from k2run.authoring.validate import check_files

    return 2 if check_files(paths or ["runbooks"], form=_form(json, sarif)) else 0


@command(
    iterable=["paths"],
    help={"paths": "runbooks or folders", "json": "findings as JSON", "sarif": "findings as SARIF 2.1.0"},
)
def lint(c: Context, paths: list[str], json: bool = False, sarif: bool = False) -> int:
    """Check valid runbooks for risks and bad style."""
    from k2run.authoring.lint import lint_files

    findings = lint_files(paths or ["runbooks"], form=_form(json, sarif))
    return 2 if any(finding.code.startswith("K") for finding in findings) else 1 if findings else 0


@command(help={"code": "a code, such as K301; all of them by default"})
def explain(c: Context, code: str = "") -> None:
    """Explain the code of a problem: why it is one, with a wrong and a right example."""
    from k2run.authoring.action_manual import show_explanation

    show_explanation(code)


@command(
    positional=("kind", "name"),
    help={
        "kind": "readiness, benchmark, scenario, recovery, rehearsal, or stack for a stack file",
        "name": "its name, in lower case and dashes",
        "folder": "folder to write it to (runbooks, runbooks/recovery or runbooks/stacks by default)",
        "stack": "the stack whose services the runbook is about",
        "compose": "for a stack: a Compose file that has its services",
        "prometheus": "for a stack: base URL of a Prometheus that scrapes its services",
    },
)
def new(
    c: Context, kind: str, name: str, folder: str = "", stack: str = "", compose: str = "", prometheus: str = ""
) -> None:
    """Write a commented starting point: a runbook that is valid and ready to run, or a stack file."""
    from k2run.authoring.new import write_new

    if kind == "stack":
        from k2run.authoring.new import STACKS, ask_in_terminal, write_new_stack

        ask = ask_in_terminal if sys.stdin.isatty() else None
        print(write_new_stack(name, folder=Path(folder or STACKS), compose=compose, prometheus=prometheus, ask=ask))
        return
    print(write_new(kind, name, folder=Path(folder) if folder else None, stack=stack))


@command(
    name="import",
    positional=("form", "file"),
    help={"form": "the source format: chaos", "file": "the file to read", "folder": "folder to write the runbook to"},
)
def import_(c: Context, form: str, file: str, folder: str = "runbooks") -> None:
    """Turn a Chaos Toolkit experiment into a runbook: `import chaos FILE.json`."""
    from k2run.authoring.chaos.experiment import import_file

    print(import_file(form, Path(file), folder=Path(folder)))


@command(
    positional=("runbook",),
    help={
        "runbook": "path or name of the runbook",
        "svg": "a picture instead of Mermaid text",
        "output": "file to write to (standard output by default); a name ending in .svg makes a picture",
    },
)
def graph(c: Context, runbook: str, svg: bool = False, output: str = "") -> None:
    """Draw a runbook: sections, steps, faults with their undos, clocks."""
    from k2run.authoring.graph import draw

    draw(runbook, as_svg=svg, output=output)


@command(help={"action": "name of an action or adapter"})
def doc(c: Context, action: str = "") -> None:
    """Describe an action or an adapter's actions, or list all of them."""
    from k2run.authoring.action_manual import show_actions

    show_actions(action)


def _form(json: bool, sarif: bool) -> Any:
    return "sarif" if sarif else "json" if json else "text"


TASKS = (validate, lint, explain, new, import_, graph, doc)

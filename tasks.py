"""The tasks of the repository: those of k2run itself, and those for its development."""

import sys

from invoke import Collection, Context, Exit, task
from invoke.main import program

sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)  # Invoke set it: every start would compile k2run anew

from k2run.cli import TASKS, prepare  # noqa: E402 - what comes from here on is kept compiled

COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
"""Tests start hundreds of processes; each would compile all that it imports anew where a machine forbids to keep it."""


@task(
    auto_shortflags=False,
    help={
        "only": "a path to narrow it to",
        "slow": "the slow matrices alone: every fault with every ending, real browsers, repeated kills",
        "coverage": "measure coverage too",
    },
)
def test(c: Context, only: str = "tests", slow: bool = False, coverage: bool = True) -> None:
    """Run what must hold: format, lint, types, tests; with --slow the matrices that take long."""
    if slow:
        if not c.run(f"pytest -n 2 --dist loadgroup -m slow {only}", env=COMPILED, warn=True, pty=False):
            raise Exit(code=1)
        return
    checks = ["ruff format --check .", "ruff check .", "mypy"]
    for check in checks if only == "tests" else []:
        print(f"$ {check}", flush=True)
        if not c.run(check, warn=True, pty=False):
            raise Exit(code=1)
    measured = "--cov --cov-report=term:skip-covered" if coverage and only == "tests" else ""
    command = f"pytest -n 2 --dist loadgroup -m 'not slow' {measured} {only}"
    if not c.run(command, env=COMPILED, warn=True, pty=False):
        raise Exit(code=1)


@task(auto_shortflags=False, help={"only": "name of one benchmark"})
def bench(c: Context, only: str = "") -> None:
    """Measure k2run against its bars and its peers; prints figures and ratios."""
    if not c.run(f"python benchmarks/run_all.py {only}", warn=True, pty=False):
        raise Exit(code=1)


@task(auto_shortflags=False)
def schema(c: Context) -> None:
    """Write the JSON Schemas under schemas/ anew from the code."""
    from k2run.faces.schemas import main

    main()


@task(auto_shortflags=False)
def pages(c: Context) -> None:
    """Write the generated pages under docs/ anew from the code."""
    from k2run.faces.authoring.pages import main

    main()


namespace = Collection(*TASKS, test, bench, schema, pages)
prepare(program)

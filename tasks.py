"""The tasks of the repository: those of k2run itself, and those for its development."""

import sys
from importlib.util import find_spec
from shlex import quote

from invoke import Collection, Context, Exit, task
from invoke.main import program

sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)  # Invoke set it: every start would compile k2run again

from k2run.cli.program import TASKS, adopt  # noqa: E402 - what comes from here on is kept compiled

COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
"""Tests start hundreds of processes; each would compile its imports again where bytecode is not kept."""


@task(
    auto_shortflags=False,
    help={
        "only": "run only the tests under this path",
        "slow": "run only the slow tests: every fault with every ending, real browsers, repeated kills",
        "part": "run one part of the slow tests: 3/7 is every seventh, starting with the third",
        "coverage": "measure line coverage; takes half as long again",
    },
)
def test(c: Context, only: str = "tests", slow: bool = False, part: str = "1/1", coverage: bool = False) -> None:
    """Run the checks: format, lint, types, tests; --slow runs the slow tests instead."""
    if find_spec("pytest") is None:
        print(f"error: {sys.executable} has no pytest", file=sys.stderr)
        raise Exit("  hint: `sh install.sh dev` installs what the tests need", code=5)
    if slow:
        _run(c, f"pytest -n 2 --dist loadgroup -m slow --part {part} {only}")
        return
    for check in ["ruff format --check .", "ruff check .", "mypy"] if only == "tests" else []:
        print(f"$ {check}", flush=True)
        _run(c, check)
    measured = "--cov --cov-report=term:skip-covered " if coverage else ""
    _run(c, f"pytest -n 4 --dist loadgroup -m 'not slow' {measured}{only}")


def _run(c: Context, module: str) -> None:
    """Run a module with this Python, which need not be the one on PATH; exit with 1 when it fails."""
    if not c.run(f"{quote(sys.executable)} -m {module}", env=COMPILED, warn=True, pty=False):
        raise Exit(code=1)


@task(auto_shortflags=False, help={"only": "name of one benchmark"})
def bench(c: Context, only: str = "") -> None:
    """Measure k2run against its bars and its peers; prints figures and ratios."""
    if not c.run(f"{quote(sys.executable)} benchmarks/run_all.py {only}", warn=True, pty=False):
        raise Exit(code=1)


@task(auto_shortflags=False, help={"into": "folder for the pages"})
def site(c: Context, into: str = "site") -> None:
    """Build the documentation site from docs/; a broken link or a page missing from the menu is an error."""
    _run(c, f"sphinx -q -W --keep-going -n -b html docs {quote(into)}")
    print(f"{into}/index.html")


@task(auto_shortflags=False)
def schema(c: Context) -> None:
    """Write the JSON Schemas under schemas/ from the code."""
    from k2run.authoring.generated import write_schemas

    write_schemas()


@task(auto_shortflags=False)
def pages(c: Context) -> None:
    """Write the generated pages under docs/ from the code."""
    from k2run.authoring.generated import write_pages

    write_pages()


namespace = Collection(*TASKS, test, bench, schema, pages, site)
adopt(program)

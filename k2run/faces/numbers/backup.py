"""Makes the materials that a presenter falls back on."""

from __future__ import annotations

from pathlib import Path

from k2run.engine.execution import Options
from k2run.engine.journal import read_journal
from k2run.engine.store import Store
from k2run.errors import OperatorError
from k2run.evidence.history import History
from k2run.faces.launch import launch
from k2run.faces.numbers.papers import write_documents
from k2run.faces.terminal.cast import cast

RUNBOOK = "backup"
SHOWN = "demo-day"
"""The runbook whose last run is kept as a cast."""


def make_backup(into: str, stack: str, *, plain: bool) -> int:
    """Write documents and cast, then run the runbook that makes and checks the rest.

    Args:
        into: The folder for everything.
        stack: Path or name of the stack; "" takes the runbook's own.
        plain: Plain lines instead of the live display.

    Returns:
        The exit code of the run.
    """
    write_documents("all", into=into, stack="", max_age="")
    store = Store()
    shown = [run for run in History(store.home).runs(name=SHOWN, last=50) if run.outcome]
    if shown:
        write_cast(store.home / "runs" / shown[-1].run, Path(into) / f"{SHOWN}.cast")
    options = Options(extra={"materials": into})
    return launch(RUNBOOK, stack=stack, options=options, mode="plain" if plain else "auto").exit_code


def write_cast(run: Path, file: Path) -> None:
    """Write a run down as a terminal showed it.

    Raises:
        UsageError: There is no such run.
        OperatorError: The file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(cast(read_journal(run)), encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{file} cannot be written: {error.strerror}", hint="choose `--into`") from error
    print(file)

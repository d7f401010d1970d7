"""Lists runbooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.actions.catalogue import Catalogue
from k2run.app.launch import runbook_roots
from k2run.app.leftover_faults import warn_of_broken
from k2run.engine.events import RunFinished, RunStarted
from k2run.engine.journal import read_journal
from k2run.engine.store import Store, running
from k2run.errors import K2runError
from k2run.language.loader import load_runbook
from k2run.terminal.safe_stream import say, say_json

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.language.model import Runbook


class Listed(Struct, frozen=True, kw_only=True):
    """One runbook in a line.

    Attributes:
        kind: `invalid` where the file has problems.
        objective: What it promises, such as `within 5m rto 60s`.
        last: The verdict of its last run, or the problems of the file.
        title: Its title, or the path of an invalid file.
    """

    name: str
    kind: str
    objective: str
    last: str
    title: str


def show_runbooks(*, json: bool) -> None:
    """Show every runbook that can be found: name, kind, objective, last verdict, title."""
    store = Store()
    warn_of_broken(store)
    verdicts = _last_verdicts(store)
    rows = []
    for file in runbook_files():
        try:
            rows.append(_row(load_runbook(file, Catalogue()), verdicts))
        except K2runError as invalid:
            rows.append(Listed(name=file.stem, kind="invalid", objective="", last=str(invalid), title=str(file)))
    if json:
        say_json(rows)
        return
    _table(rows)


def runbook_files() -> list[Path]:
    """Every runbook that can be found from here, those of the working directory before those that ship."""
    found: dict[str, Path] = {}
    for root in runbook_roots():
        for file in sorted(root.rglob("*.yaml")):
            if "stacks" not in file.parts:
                found.setdefault(str(file.relative_to(root)), file)
    return list(found.values())


def objective_of(runbook: Runbook) -> str:
    """What a runbook promises, in a few words."""
    promised = runbook.objective
    bounds = (("within", promised.within), ("rto", promised.rto), ("rpo", promised.rpo))
    return " ".join(f"{name} {value}" for name, value in bounds if value is not None)


def _row(runbook: Runbook, verdicts: dict[str, str]) -> Listed:
    return Listed(
        name=runbook.name,
        kind=runbook.kind.value,
        objective=objective_of(runbook),
        last=verdicts.get(runbook.name, "never run"),
        title=runbook.title,
    )


def _last_verdicts(store: Store) -> dict[str, str]:
    verdicts: dict[str, str] = {}
    under_way = running(store.home)
    for folder in reversed(store.runs()):
        try:
            events = read_journal(folder)
        except K2runError:
            continue
        if events and isinstance(events[0], RunStarted) and events[0].name not in verdicts:
            last = events[-1]
            open_ended = "running" if folder.name in under_way else "did not end"
            verdicts[events[0].name] = last.verdict if isinstance(last, RunFinished) else open_ended
    return verdicts


def _table(rows: list[Listed]) -> None:
    if not rows:
        say("no runbooks here; `k2run run FILE` takes a path")
        return
    heads = ("name", "kind", "objective", "last")
    cells = [(row.name, row.kind, row.objective, row.last) for row in rows]
    widths = [min(40, max(map(len, column))) for column in zip(heads, *cells, strict=True)]
    for line, title in zip((heads, *cells), ("title", *(row.title for row in rows)), strict=True):
        say("  ".join(cell[:width].ljust(width) for cell, width in zip(line, widths, strict=True)) + f"  {title}")

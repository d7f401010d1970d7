"""Lists runbooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.catalogue import Catalogue
from k2run.engine.events import RunFinished, RunStarted
from k2run.engine.journal import read_journal
from k2run.engine.store import Store
from k2run.errors import K2runError, RunbookInvalid
from k2run.faces.launch import runbook_roots
from k2run.faces.settle import warn_of_broken
from k2run.language.loader import load_runbook

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.language.model import Runbook


def show_runbooks(*, json: bool) -> None:
    """Show every runbook that can be found: name, kind, objective, last verdict, title."""
    store = Store()
    warn_of_broken(store)
    verdicts = _last_verdicts(store)
    rows = []
    for file in runbook_files():
        try:
            rows.append(_row(load_runbook(file, Catalogue()), verdicts))
        except RunbookInvalid as invalid:
            rows.append(
                {"name": file.stem, "kind": "invalid", "objective": "", "last": str(invalid), "title": str(file)}
            )
    if json:
        import msgspec

        print(msgspec.json.encode(rows).decode())
        return
    _table(rows)


def runbook_files() -> list[Path]:
    """Every runbook that can be found from here, those beside the reader before those that ship."""
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


def _row(runbook: Runbook, verdicts: dict[str, str]) -> dict[str, str]:
    return {
        "name": runbook.name,
        "kind": runbook.kind.value,
        "objective": objective_of(runbook),
        "last": verdicts.get(runbook.name, "never run"),
        "title": runbook.title,
    }


def _last_verdicts(store: Store) -> dict[str, str]:
    verdicts: dict[str, str] = {}
    for folder in reversed(store.runs()):
        try:
            events = read_journal(folder)
        except K2runError:
            continue
        if events and isinstance(events[0], RunStarted) and events[0].name not in verdicts:
            last = events[-1]
            verdicts[events[0].name] = last.verdict if isinstance(last, RunFinished) else "did not end"
    return verdicts


def _table(rows: list[dict[str, str]]) -> None:
    if not rows:
        print("no runbooks here; `k2run run FILE` takes a path")
        return
    columns = ("name", "kind", "objective", "last")
    widths = {column: min(40, max(len(column), *(len(row[column]) for row in rows))) for column in columns}
    print("  ".join(column.ljust(widths[column]) for column in columns) + "  title")
    for row in rows:
        print(
            "  ".join(row[column][: widths[column]].ljust(widths[column]) for column in columns) + f"  {row['title']}"
        )

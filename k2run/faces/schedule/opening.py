"""Starts a scheduler, or shows what it would do."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.engine.store import Store
from k2run.faces.schedule.calendar import read_calendar
from k2run.faces.schedule.ledger import FileLedger
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.faces.schedule.ledger import Ledger

DATABASE = "K2RUN_SCHEDULE_DATABASE"


def keep_schedule(references: Sequence[str], *, calendar: str, patience: str) -> None:
    """Run a scheduler until a signal ends it.

    Args:
        references: The runbooks it looks after; all of `runbooks/` when empty.
        calendar: The calendar file; "" for `calendar.yaml`, where there is one.
        patience: How long runs may still take after the first signal.
    """
    from k2run.faces.schedule.clockwork import Clockwork
    from k2run.faces.settle import warn_of_broken

    store = Store()
    warn_of_broken(store)
    reading = partial(read_calendar, Path(calendar) if calendar else None)
    Clockwork(references, reading, store, open_ledger(store)).run(float(Duration.parse(patience)))


def list_schedule(references: Sequence[str], *, calendar: str, json: bool) -> None:
    """Show what is due next, and what became of the last due times."""
    from k2run.faces.schedule.entries import read_entries, runbook_files
    from k2run.faces.schedule.listing import show_schedule

    events = read_calendar(Path(calendar) if calendar else None)
    entries = read_entries(runbook_files(references), events)
    show_schedule(entries, events, open_ledger(Store()), json=json)


def open_ledger(store: Store) -> Ledger:
    """The ledger: in the database that the environment names, else in the k2run home."""
    address = os.environ.get(DATABASE, "")
    if not address:
        return FileLedger(store.home / "schedule")
    from k2run.faces.schedule.postgres import PostgresLedger

    return PostgresLedger(address)

"""Appends past runs and what they measured to Iceberg tables, where any engine can ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.adapters.iceberg.catalog import judged, open_catalog

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from k2run.actions.deadline import Deadline
    from k2run.adapters.iceberg.catalog import Iceberg
    from k2run.evidence.history import History

PUBLISHED = ("measures", "runs")
"""What is published; a run is complete once its row in `runs` is there, so that comes last."""


class Published(Struct, frozen=True, kw_only=True):
    """How many rows were new, by the name of their table."""

    rows: dict[str, int]


def publish(history: History, iceberg: Iceberg, namespace: str, deadline: Deadline) -> Published:
    """Append the runs that are not there yet; those that did not end are left for later.

    Args:
        history: The runs.
        iceberg: The catalog; its tables are made when they are not there.
        namespace: Namespace of the tables `runs` and `measures`.
        deadline: How long it may take.

    Raises:
        ResponderError: The catalog cannot be reached, or refuses.
    """
    catalog = open_catalog(iceberg, deadline)
    rows: dict[str, int] = {}
    with judged(iceberg, f"publish to {namespace}"):
        catalog.create_namespace_if_not_exists(namespace)
        for name in PUBLISHED:
            deadline.remaining()
            everything = history.arrow(name)
            table = catalog.create_table_if_not_exists(f"{namespace}.{name}", schema=everything.schema)
            rows[f"{namespace}.{name}"] = _append(table, everything)
    return Published(rows=rows)


def _append(table: Table, everything: Any) -> int:
    """Append the rows of runs that the table does not have; returns how many."""
    import pyarrow.compute as pc

    there = pc.unique(table.scan(selected_fields=("run",)).to_arrow()["run"])
    new = everything.filter(pc.invert(pc.is_in(everything["run"], value_set=there)))
    if new.num_rows:
        table.append(new)
    return int(new.num_rows)

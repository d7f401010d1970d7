"""Journals as tables: read with SQL, and appended to Iceberg tables, where any engine can ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duckdb import DuckDBPyConnection
    from pyiceberg.table import Table

    from k2run.actions.deadline import Deadline
    from k2run.adapters.iceberg.catalog import Iceberg

_EVENTS = ("run_started", "run_finished", "scored", "clock_stopped", "step_finished", "section_finished")
_SHAPE = (
    '{"event":"VARCHAR","seq":"INTEGER","at":"VARCHAR","name":"VARCHAR","title":"VARCHAR","kind":"VARCHAR",'
    '"stack":"VARCHAR","owner":"VARCHAR","outcome":"VARCHAR","verdict":"VARCHAR","exit_code":"INTEGER",'
    '"seconds":"DOUBLE","score":"DOUBLE","coverage":"DOUBLE","band":"VARCHAR","clock":"VARCHAR",'
    '"message":"VARCHAR","attended":"BOOLEAN","figures":"JSON","result":"JSON","lines":"JSON"}'
)
# A torn last line is not an event yet; the engine leaves it out, too.
_LINES = f"""
create or replace temp table lines as
select stamps.run as run, stamps.stamp as stamp, from_json(json, '{_SHAPE}') as e
from read_ndjson_objects($files, filename = true, ignore_errors = true) as journal
join stamps on stamps.file = journal.filename
where regexp_matches(json::varchar, '^[{{]"event":"({"|".join(_EVENTS)})"')
"""  # noqa: S608 - constants of this module
_RUNS = """
create or replace temp table new_runs as
with started as (select run, stamp, arg_min(e, e.seq) as e from lines where e.event = 'run_started' group by all),
finished as (select run, arg_max(e, e.seq) as e from lines where e.event = 'run_finished' group by all),
scored as (select run, arg_max(e, e.seq) as e from lines where e.event = 'scored' group by all)
select run, stamp, started.e."at" as began, started.e.name as name, coalesce(started.e.title, '') as title,
    started.e.kind as kind, started.e.stack as stack, coalesce(started.e.owner, '') as owner,
    coalesce(finished.e.outcome, '') as outcome, coalesce(finished.e.verdict, 'did not end') as verdict,
    finished.e.exit_code as exit_code, finished.e.seconds as seconds,
    scored.e.score as score, scored.e.coverage as coverage, coalesce(scored.e.band, '') as band,
    coalesce(started.e.attended, false) as attended
from started left join finished using (run) left join scored using (run)
"""
# The same metric may be measured more than once in a run (a resumed one, say): the last time counts.
_MEASURES = """
create or replace temp table new_measures as
with each_one as (
    select run, stamp, 'seconds' as metric, e.seconds as value, e.seq as seq, 'run' as kind
    from lines where e.event = 'run_finished'
    union all
    select run, stamp, 'score', e.score, e.seq, 'score' from lines where e.event = 'scored'
    union all
    select run, stamp, 'coverage', e.coverage, e.seq, 'score' from lines where e.event = 'scored'
    union all
    select run, stamp, 'score: ' || (line ->> 'category'),
        100 * try_cast(line ->> 'earned' as double) / nullif(try_cast(line ->> 'judged' as double), 0), seq, 'score'
    from (select run, stamp, e.seq as seq, unnest(cast(e.lines as json[])) as line from lines where e.event = 'scored')
    union all
    select run, stamp, e.clock, e.seconds, e.seq, 'clock' from lines
    where e.event = 'clock_stopped' and coalesce(e.message, '') = ''
    union all
    select run, stamp, 'section: ' || e.name, e.seconds, e.seq, 'section' from lines where e.event = 'section_finished'
    union all
    select run, stamp, 'step: ' || e.name, e.seconds, e.seq, 'step' from lines
    where e.event = 'step_finished' and e.outcome in ('passed', 'failed')
    union all
    select run, stamp, key, try_cast(e.figures ->> ('$."' || key || '"') as double), e.seq, 'figure'
    from (select *, unnest(json_keys(e.figures)) as key from lines where e.event = 'step_finished')
    union all
    select run, stamp, e.name || '/' || key, try_cast(e.result ->> ('$."' || key || '"') as double), e.seq, 'result'
    from (
        select *, unnest(json_keys(e.result)) as key from lines
        where e.event = 'step_finished' and json_type(e.result) = 'OBJECT'
    )
)
select run, stamp, metric, arg_max(value, seq) as value, max(seq) as seq, any_value(kind) as kind
from each_one where value is not null and metric is not null group by run, stamp, metric
"""
PUBLISHED = ("measures", "runs")
"""What is published; a run is complete once its row in `runs` is there, so that comes last."""


def harvest(database: DuckDBPyConnection, found: Sequence[tuple[str, str, str]]) -> None:
    """Fill the tables `new_runs` and `new_measures` from journals.

    Args:
        database: Where the tables are made.
        found: Of each journal: the run, the stamp of its file, and the file.
    """
    database.execute("create or replace temp table stamps (run varchar, stamp varchar, file varchar)")
    runs, stamps, files = (list(column) for column in zip(*found, strict=True))
    database.execute("insert into stamps select unnest($1), unnest($2), unnest($3)", [runs, stamps, files])
    database.execute(_LINES, {"files": files})
    database.execute(_RUNS)
    database.execute(_MEASURES)
    database.execute("drop table lines")


class Readable(Protocol):
    """What is published: a history."""

    def arrow(self, table: str) -> Any:
        """A table by its name, as Arrow."""


class Published(Struct, frozen=True, kw_only=True):
    """How many rows were new, by the name of their table."""

    rows: dict[str, int]


def publish(history: Readable, iceberg: Iceberg, namespace: str, deadline: Deadline) -> Published:
    """Append the runs that are not there yet; those that did not end are left for later.

    Args:
        history: The runs.
        iceberg: The catalog; its tables are made when they are not there.
        namespace: Namespace of the tables `runs` and `measures`.
        deadline: How long it may take.

    Raises:
        ResponderError: The catalog cannot be reached, or refuses.
    """
    from k2run.adapters.iceberg.catalog import judged, open_catalog  # reading needs no catalog

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

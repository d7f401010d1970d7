"""The history of all runs: DuckDB reads the journals in place, and keeps what it took out of those that have ended.

What is kept under `.k2run/cache/history` may be thrown away at any time: it is made again from the journals. A journal
that changed since, or is gone, is known by its time and size.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from k2run.bench.regression import Point
from k2run.engine.journal import JOURNAL
from k2run.engine.store import running
from k2run.errors import UsageError
from k2run.files import drafted
from k2run.language.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from duckdb import DuckDBPyConnection

MOST_PIECES = 24
"""Files in the cache from which on they are put together: each new run adds one."""
OF_STEPS = frozenset({"step", "result"})
"""Kinds of metric that every step brings along; the others were declared as worth keeping."""
RUN_COLUMNS = (
    "run, stamp, began, name, title, kind, stack, owner, outcome, verdict, exit_code, seconds, score, coverage, band, "
    "attended"
)
MEASURE_COLUMNS = "run, stamp, metric, value, seq, kind"
_TABLES = {"runs": RUN_COLUMNS, "measures": MEASURE_COLUMNS}
_OUR_OWN = {"stamp", "attended"}
"""Columns that are not published: tables that were made by earlier versions do not have them."""
_EVENTS = ("run_started", "run_finished", "scored", "clock_stopped", "step_finished", "section_finished")
_SHAPE = (
    '{"event":"VARCHAR","seq":"INTEGER","at":"VARCHAR","name":"VARCHAR","title":"VARCHAR","kind":"VARCHAR",'
    '"stack":"VARCHAR","owner":"VARCHAR","outcome":"VARCHAR","verdict":"VARCHAR","exit_code":"INTEGER",'
    '"seconds":"DOUBLE","score":"DOUBLE","coverage":"DOUBLE","band":"VARCHAR","clock":"VARCHAR",'
    '"message":"VARCHAR","attended":"BOOLEAN","figures":"JSON","result":"JSON","lines":"JSON"}'
)


class PastRun(Struct, frozen=True, kw_only=True):
    """A run, as the history lists it; `outcome` is empty and `seconds` None while it has not ended.

    Attributes:
        attended: An operator was there to answer.
    """

    run: str
    began: str
    name: str
    title: str
    kind: str
    stack: str
    owner: str
    outcome: str
    verdict: str
    exit_code: int | None
    seconds: float | None
    score: float | None
    coverage: float | None
    band: str
    attended: bool = False


class Metric(Struct, frozen=True, kw_only=True):
    """Something that runs measure, and how many did.

    Attributes:
        kind: Where it comes from: run, score, clock, section, step, figure, result.
    """

    metric: str
    kind: str
    runs: int


class History:
    """The runs of one k2run home."""

    def __init__(self, home: Path) -> None:
        import duckdb

        self._home = home
        self._runs_folder = home / "runs"
        self._cache = home / "cache" / "history"
        self._database = duckdb.connect()
        try:
            self._refresh()
        except duckdb.Error:  # the cache can be made again
            shutil.rmtree(self._cache, ignore_errors=True)
            self._refresh()

    def runs(self, *, name: str = "", stack: str = "", last: int = 20) -> list[PastRun]:
        """The newest runs, oldest first."""
        columns = ", ".join(PastRun.__struct_fields__)
        query = f"select {columns} from runs where {_narrowed(name, stack)} order by run desc limit {int(last)}"  # noqa: S608 - columns of this module
        found = reversed(self._ask(query, PastRun, {"name": name, "stack": stack}))
        under_way = running(self._home)
        return [replace(run, verdict="running") if run.run in under_way and not run.outcome else run for run in found]

    def known(self) -> tuple[set[str], set[str]]:
        """The names of the runbooks that were run, and of the stacks they ran on."""
        pairs = self._database.execute("select distinct name, stack from runs").fetchall()
        return {name for name, _ in pairs}, {stack for _, stack in pairs}

    def metrics(self, *, name: str = "", stack: str = "") -> list[Metric]:
        """Everything that was ever measured: figures and clocks first, the times of steps and their results last."""
        query = f"""
            select * from (
                select metric, any_value(measures.kind) as kind, count(*) as runs from measures join runs using (run)
                where {_narrowed(name, stack)} group by metric
            ) order by list_position(['score', 'run', 'clock', 'figure', 'section', 'step', 'result'], kind), metric
        """  # noqa: S608 - see above
        return self._ask(query, Metric, {"name": name, "stack": stack})

    def points(self, metric: str, *, name: str = "", stack: str = "", last: int = 0) -> list[Point]:
        """What the runs measured of one metric, oldest first.

        Args:
            metric: Its name, as `metrics` lists it.
            name: Only runs of this runbook.
            stack: Only runs on this stack.
            last: Only the newest so many; 0 for all.
        """
        limit = f"limit {int(last)}" if last else ""
        query = f"""
            select run, began, outcome, value, seq, measures.kind as kind, attended from measures join runs using (run)
            where metric = $metric and {_narrowed(name, stack)} order by run desc {limit}
        """  # noqa: S608 - see above
        return list(reversed(self._ask(query, Point, {"metric": metric, "name": name, "stack": stack})))

    def resolve(self, metric: str, *, name: str = "", stack: str = "") -> str:
        """The name of a metric of which a part was given.

        Raises:
            UsageError: None fits, or several do.
        """
        metrics = self.metrics(name=name, stack=stack)
        known = [each.metric for each in metrics]
        if metric in known:
            return metric
        fitting = [each for each in known if metric.lower() in each.lower()]
        declared = [each.metric for each in metrics if each.metric in fitting and each.kind not in OF_STEPS]
        for only in (fitting, declared):
            if len(only) == 1:
                return only[0]
        if fitting:
            shown = "; ".join(fitting[:8]) + (f"; and {len(fitting) - 8} more" if len(fitting) > 8 else "")  # noqa: PLR2004 - as many as fit a screen
            raise UsageError(f"{metric!r} matches {len(fitting)} metrics", hint=f"choose one: {shown}")
        hint = did_you_mean(metric, known) or "`k2run trend` without a metric lists them"
        raise UsageError(f"no run has measured {metric!r}", hint=hint)

    def arrow(self, table: str) -> Any:
        """One of the tables `runs` and `measures`, as Arrow; only runs that have ended."""
        columns = ", ".join(name for name in _TABLES[table].split(", ") if name not in _OUR_OWN)
        ended = "run in (select run from runs where outcome not in ('', 'interrupted'))"
        return self._database.sql(f"select {columns} from {table} where {ended} order by run").to_arrow_table()  # noqa: S608 - columns of this module

    # --- how it knows -------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        present = self._present()
        self._database.execute("create or replace temp table present (run varchar, stamp varchar)")
        if present:
            self._database.execute(
                "insert into present select unnest($1), unnest($2)",
                [[run for run, _, _ in present], [stamp for _, stamp, _ in present]],
            )
        self._open(self._pieces())
        unknown = set(self._database.execute("select run from present anti join runs using (run, stamp)").fetchall())
        new = [entry for entry in present if entry[:1] in unknown] if unknown else []
        if new:
            harvest(self._database, new)
            fresh = () if self._keep() else _TABLES
            self._open(self._pieces(), fresh)
            self._put_together()

    def _present(self) -> list[tuple[str, str, str]]:
        """Of each journal: its run, time and size, and its file."""
        found: list[tuple[str, str, str]] = []
        try:
            folders = sorted(os.scandir(self._runs_folder), key=lambda entry: entry.name)
        except OSError:
            return found
        for folder in folders:
            file = f"{folder.path}/{JOURNAL}"
            with suppress(OSError):
                about = os.stat(file)  # noqa: PTH116 - ten thousand of them; a Path each costs more than the call
                found.append((folder.name, f"{about.st_mtime_ns}.{about.st_size}", file))
        return found

    def _pieces(self) -> list[Path]:
        """Files of the cache; of each piece, the one with its runs is written last."""
        return sorted(self._cache.glob("*.runs.parquet"))

    def _open(self, pieces: Sequence[Path], fresh: Iterable[str] = ()) -> None:
        """Show what was kept, as far as its journals are still the same, and what was found but could not be kept."""
        for table, columns in _TABLES.items():
            files = ", ".join(_literal(_file(piece, table)) for piece in pieces)
            sources = [f"read_parquet([{files}])"] if pieces else []
            sources += [f"new_{table}"] if table in fresh else []
            rows = " union ".join(
                f"select {columns} from {source} semi join present using (run, stamp)"  # noqa: S608 - columns of this module
                for source in sources or [_EMPTY[table]]
            )
            self._database.execute(f"create or replace temp view {table} as {rows}")

    def _keep(self) -> bool:
        """Write what was found to the cache; returns False when it cannot be written."""
        piece = self._cache / f"{token_hex(6)}.runs.parquet"
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            for table in reversed(_TABLES):
                self._write(f"new_{table}", _file(piece, table))
        except (OSError, _duckdb_error()):
            return False
        return True

    def _put_together(self) -> None:
        old = self._pieces()
        if len(old) < MOST_PIECES:
            return
        with suppress(OSError, _duckdb_error()):
            piece = self._cache / f"{token_hex(6)}.runs.parquet"
            for table in reversed(_TABLES):
                self._write(table, _file(piece, table))
            self._open([piece])
            for file in old:
                file.unlink(missing_ok=True)
                _file(file, "measures").unlink(missing_ok=True)

    def _write(self, table: str, file: Path) -> None:
        order = "metric, run" if "measures" in table else "run"  # what a trend asks for lies together
        with drafted(file) as draft:
            self._database.execute(
                f"copy (from {table} order by {order}) to {_literal(draft)} (format parquet, row_group_size 30720)"
            )

    def _ask(self, query: str, row: type[Any], values: dict[str, Any]) -> list[Any]:
        used = {name: value for name, value in values.items() if f"${name}" in query}
        answer = self._database.execute(query, used)
        names: Sequence[str] = [column[0] for column in answer.description or ()]
        return [msgspec.convert(dict(zip(names, values, strict=True)), row) for values in answer.fetchall()]


_EMPTY = {
    "runs": """(select '' as run, '' as stamp, '' as began, '' as name, '' as title, '' as kind, '' as stack,
        '' as owner, '' as outcome, '' as verdict, 0 as exit_code, 0.0::double as seconds, 0.0::double as score,
        0.0::double as coverage, '' as band, false as attended where false)""",
    "measures": "(select '' as run, '' as stamp, '' as metric, 0.0::double as value, 0 as seq, '' as kind where false)",
}


def _file(piece: Path, table: str) -> Path:
    """The file of a piece that holds a table."""
    return piece.with_name(piece.name.replace(".runs.", f".{table}."))


def _literal(file: Path) -> str:
    return "'" + str(file).replace("'", "''") + "'"


def _duckdb_error() -> type[Exception]:
    import duckdb

    return duckdb.Error


def _narrowed(name: str, stack: str) -> str:
    parts = ["runs.name = $name" if name else "", "runs.stack = $stack" if stack else ""]
    return " and ".join(part for part in parts if part) or "true"


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

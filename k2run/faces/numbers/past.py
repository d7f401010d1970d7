"""Shows past runs: a list of them, two beside each other, one figure over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from k2run.engine.journal import read_journal
from k2run.engine.store import Store
from k2run.errors import UsageError
from k2run.evidence.compare import compare
from k2run.evidence.history import OF_STEPS, History
from k2run.evidence.trend import sparkline, trend
from k2run.evidence.view import view_of
from k2run.evidence.wording import moment, points, span
from k2run.faces.numbers.columns import columns, width

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.evidence.history import PastRun, Point

LISTED = 10
"""Runs that a trend lists under its picture."""


def show_history(runbook: str, stack: str, last: int, *, json: bool) -> None:
    """List past runs, the newest last."""
    runs = _history().runs(name=runbook, stack=stack, last=last)
    if json:
        _print_json(runs)
    elif not runs:
        print("no runs yet; `k2run run RUNBOOK` makes one")
    else:
        print("\n".join(columns(("run", "stack", "took", "score", "verdict"), [_row(run) for run in runs])))


def _row(run: PastRun) -> tuple[str, ...]:
    took = span(run.seconds) if run.seconds is not None else ""
    return run.run, run.stack, took, points(run.score) if run.score is not None else "", run.verdict


def show_metrics(runbook: str, stack: str, *, json: bool) -> None:
    """List what can be asked for; times and results of single steps only as JSON, there are hundreds."""
    metrics = _history().metrics(name=runbook, stack=stack)
    if json:
        _print_json(metrics)
        return
    shown = [each for each in metrics if each.kind not in OF_STEPS]
    print("\n".join(columns(("metric", "from", "runs"), [(each.metric, each.kind, str(each.runs)) for each in shown])))
    rest = len(metrics) - len(shown)
    if rest:
        example = next(each.metric for each in metrics if each.kind in OF_STEPS)
        print(f"and {rest} times and results of single steps, such as `{example}`")


def show_trend(metric: str, runbook: str, stack: str, last: int, *, json: bool) -> None:
    """Show how a figure went from run to run."""
    history = _history()
    points_of = history.points(metric, name=runbook, stack=stack, last=last)
    if not points_of:
        metric = history.resolve(metric, name=runbook, stack=stack)
        points_of = history.points(metric, name=runbook, stack=stack, last=last)
    found = trend(metric, points_of)
    if json:
        _print_json(found)
        return
    change = f"; the last runs against those before: {found.change.says()}" if found.change is not None else ""
    print(f"{metric}: {_figure(found.latest.value)}, of {len(found.points):,} runs")
    print(sparkline([point.value for point in found.points], min(width() - 2, 100)))
    print(f"least {_figure(found.least)}, median {_figure(found.middle)}, most {_figure(found.most)}{change}\n")
    print("\n".join(columns(("when", "value", "outcome", "journal line"), [_point(p) for p in found.points[-LISTED:]])))


def _point(point: Point) -> tuple[str, ...]:
    return moment(point.began), _figure(point.value), point.outcome, f"{point.run} #{point.seq}"


def show_comparison(one: str, other: str, *, json: bool) -> None:
    """Show what differs between two runs."""
    store = Store()
    folders = store.find_run(one), store.find_run(other)
    if folders[0] == folders[1]:
        raise UsageError(f"{one!r} and {other!r} are the same run", hint="`k2run history` lists the runs")
    views = [view_of(read_journal(folder)) for folder in folders]
    rows = compare(views[0], views[1])
    if json:
        _print_json(rows)
        return
    print(f"one    {folders[0].name}\nother  {folders[1].name}\n")
    heads = ("what", "name", "one", "other", "difference")
    print("\n".join(columns(heads, [(row.kind, row.name, row.one, row.other, row.says) for row in rows])))


def show_plots(folder: Path) -> None:
    """Draw what a run measured again and again."""
    from k2run.evidence.text_plots import plots

    drawn = plots(view_of(read_journal(folder)), width())
    print("\n".join(drawn or ["nothing was measured often enough to draw"]) + "\n")


def publish_runs(stack: str, namespace: str, timeout: float) -> None:
    """Append past runs to the Iceberg tables of a stack's catalog, and tell how many rows were new."""
    from k2run.actions.deadline import Deadline
    from k2run.adapters._iceberg.catalog import Iceberg
    from k2run.evidence.publish import publish
    from k2run.faces.launch import open_stack

    iceberg = Iceberg.of(open_stack(stack))
    for table, rows in publish(_history(), iceberg, namespace, Deadline(timeout)).rows.items():
        print(f"{table}  {rows:,} new rows in {iceberg.source}")


def _history() -> History:
    return History(Store().home)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.4g}"  # noqa: PLR2004 - digits shown


def _print_json(value: Any) -> None:
    print(msgspec.json.encode(value).decode())

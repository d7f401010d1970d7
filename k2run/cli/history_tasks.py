"""The commands that answer from the journals of past runs: history, trend, compare, baseline, publish."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from k2run.cli.command import RUN, STACK, command, print_json, say
from k2run.errors import K2runError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from invoke import Context

    from k2run.bench.baseline import Pins
    from k2run.bench.regression import Trend
    from k2run.evidence.history import History, PastRun

LISTED = 10
"""Runs that a trend lists under its picture."""
_NARROWING = {"runbook": "only runs of this runbook", "stack": "only runs on this stack", "json": "as JSON"}
_BASELINE_USAGE = "baseline set NAME RUN …, baseline drop NAME, or baseline alone to list them"


@command(help={"last": "how many runs", **_NARROWING})
def history(c: Context, runbook: str = "", stack: str = "", last: int = 20, json: bool = False) -> None:
    """List past runs, newest last: verdict, score, duration."""
    from k2run.terminal.lines import columns

    past = _history()
    _check_names(past, runbook, stack)
    runs = past.runs(name=runbook, stack=stack, last=last)
    if json:
        print_json(runs)
    elif not runs:
        say(_none_yet(runbook, stack))
    else:
        say("\n".join(columns(("run", "stack", "took", "score", "verdict"), [_row(run) for run in runs])))


@command(
    help={
        "metric": "name of the metric or a part of it; without it, all metrics are listed",
        "last": "only the newest N",
        **_NARROWING,
    },
)
def trend(c: Context, metric: str = "", runbook: str = "", stack: str = "", last: int = 0, json: bool = False) -> None:
    """Show the trend of a metric from run to run, and whether it changed."""
    if metric:
        _show_trend(metric, runbook, stack, last, json=json)
    else:
        _list_metrics(runbook, stack, json=json)


@command(
    positional=("one", "other"),
    help={"one": f"the earlier run: {RUN}", "other": "the later run", "json": "as JSON"},
)
def compare(c: Context, one: str, other: str, json: bool = False) -> None:
    """Compare two runs: outcomes, metrics, latencies, durations."""
    from k2run.bench.baseline import Baselines
    from k2run.engine.journal import read_journal
    from k2run.engine.store import Store, running
    from k2run.evidence import compare as comparison
    from k2run.evidence.view import view_of
    from k2run.terminal.lines import columns

    store = Store()
    folders = store.find_run(one), store.find_run(other)
    if folders[0] == folders[1]:
        raise UsageError(f"{one!r} and {other!r} are the same run", hint="`k2run history` lists the runs")
    views = [view_of(read_journal(folder)) for folder in folders]
    under_way = running(store.home)
    for view, folder in zip(views, folders, strict=True):
        view.alive = view.finished is None and folder.name in under_way
    stack = views[0].started.stack if views[0].started is not None else ""
    rows = comparison.compare(views[0], views[1], Baselines(home=str(store.home), stack=stack))
    if json:
        print_json(rows)
        return
    say(f"one    {folders[0].name}\nother  {folders[1].name}\n")
    heads = ("what", "name", "one", "other", "difference")
    say("\n".join(columns(heads, [(row.kind, row.name, row.one, row.other, row.says) for row in rows])))


@command(
    iterable=["words"],
    help={"words": f"set NAME RUN … (a run: {RUN}), drop NAME, or nothing to list them", "json": "as JSON"},
)
def baseline(c: Context, words: list[str], json: bool = False) -> None:
    """Pin the runs that later loads are compared with: `baseline set NAME RUN …`; each stack has its own."""
    from k2run.bench.baseline import Pins
    from k2run.engine.store import Store

    store = Store()
    pins = Pins(store.home)
    match words:
        case [] | ["list"]:
            _list_baselines(pins, json=json)
        case ["set", name, *runs] if runs:
            _check_baseline_name(name)
            stack = pins.pin(name, [store.find_run(run) for run in runs])
            say(f"{name} on the stack {stack} is {', '.join(pins.runs(name)[stack])}")
        case ["drop", name]:
            pins.drop(name)
            say(f"{name} is dropped")
        case _:
            raise UsageError(f"unknown baseline command: {' '.join(words)}", hint=_BASELINE_USAGE)


@command(
    help={
        "stack": f"the stack whose Iceberg catalog takes them: {STACK}",
        "namespace": "namespace of the tables runs and measures",
        "timeout": "time limit in seconds",
    },
)
def publish(c: Context, stack: str = "", namespace: str = "k2run", timeout: int = 120) -> None:
    """Append past runs and their metrics to Iceberg tables; rows already there are not repeated."""
    from k2run.actions.deadline import Deadline
    from k2run.adapters.iceberg.catalog import Iceberg
    from k2run.app.launch import open_stack
    from k2run.evidence import reports

    iceberg = Iceberg.of(open_stack(stack))
    for table, rows in reports.publish(_history(), iceberg, namespace, Deadline(timeout)).items():
        say(f"{table}  {rows:,} new rows in {iceberg.source}")


def _check_names(past: History, runbook: str, stack: str) -> None:
    """Refuse a name that no runbook or no stack has, neither in a past run nor in a file that can be found.

    Raises:
        UsageError: It is none; the nearest is named.
    """
    from k2run.app.launch import runbook_files
    from k2run.language.problems import did_you_mean
    from k2run.language.references import stack_files

    runbooks, stacks = past.known()
    if runbook and runbook not in runbooks:
        files = {file.stem: file for file in runbook_files()}
        if runbook not in files and runbook not in (named := runbooks | _names_in(files.values())):
            hint = did_you_mean(runbook, named) or "`k2run list` shows them"
            raise UsageError(f"there is no runbook {runbook!r}", hint=hint)
    if stack and stack not in stacks and stack not in (known := stacks | set(stack_files(None))):
        hint = did_you_mean(stack, known) or f"there are {', '.join(sorted(known))}"
        raise UsageError(f"there is no stack {stack!r}", hint=hint)


def _names_in(files: Iterable[Path]) -> set[str]:
    from k2run.actions.catalogue import Catalogue
    from k2run.language.loader import load_runbook

    found = set()
    for file in files:
        with suppress(K2runError):
            found.add(load_runbook(file, Catalogue()).name)
    return found


def _none_yet(runbook: str, stack: str) -> str:
    of, on = f" of {runbook}" if runbook else "", f" on {stack}" if stack else ""
    return f"no runs{of}{on} yet; `k2run run {runbook or 'RUNBOOK'}` makes one"


def _history() -> History:
    from k2run.engine.store import Store
    from k2run.evidence.history import History

    return History(Store().home)


def _row(run: PastRun) -> tuple[str, ...]:
    from k2run.evidence.wording import points, span

    took = span(run.seconds) if run.seconds is not None else ""
    return run.run, run.stack, took, points(run.score) if run.score is not None else "", run.verdict


def _list_metrics(runbook: str, stack: str, *, json: bool) -> None:
    """List the metrics; durations and results of single steps only as JSON, there are hundreds."""
    from k2run.evidence.history import OF_STEPS
    from k2run.terminal.lines import columns

    past = _history()
    _check_names(past, runbook, stack)
    metrics = past.metrics(name=runbook, stack=stack)
    if json:
        print_json(metrics)
        return
    if not metrics:
        say(_none_yet(runbook, stack))
        return
    shown = [each for each in metrics if each.kind not in OF_STEPS]
    say("\n".join(columns(("metric", "from", "runs"), [(each.metric, each.kind, str(each.runs)) for each in shown])))
    rest = len(metrics) - len(shown)
    if rest:
        example = next(each.metric for each in metrics if each.kind in OF_STEPS)
        say(f"and {rest} durations and results of single steps, such as `{example}`")


def _show_trend(metric: str, runbook: str, stack: str, last: int, *, json: bool) -> None:
    from k2run.bench.regression import trends

    past = _history()
    _check_names(past, runbook, stack)
    points = past.points(metric, name=runbook, stack=stack, last=last)
    if not points:
        metric = past.resolve(metric, name=runbook, stack=stack)
        points = past.points(metric, name=runbook, stack=stack, last=last)
    found = trends(metric, points)
    if json:
        print_json(found[0])
        return
    say("\n\n".join(_told(each) for each in found))


def _told(found: Trend) -> str:
    """One trend: its latest figure, its course, its newest runs."""
    from k2run.evidence.measurements import sparkline
    from k2run.evidence.wording import moment
    from k2run.terminal.lines import columns, width

    said = f"; {found.says()}" if found.says() else ""
    of = f"{found.of} " if found.of else ""
    rows = [(moment(p.began), _figure(p.value), p.outcome, f"{p.run} #{p.seq}") for p in found.points[-LISTED:]]
    return "\n".join(
        (
            f"{found.metric}: {_figure(found.latest.value)}, of {len(found.points):,} {of}runs",
            sparkline([point.value for point in found.points], min(width() - 2, 100)),
            f"least {_figure(found.least)}, median {_figure(found.middle)}, most {_figure(found.most)}{said}\n",
            "\n".join(columns(("when", "value", "outcome", "journal line"), rows)),
        )
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.4g}"  # noqa: PLR2004 - digits shown


def _list_baselines(pins: Pins, *, json: bool) -> None:
    from k2run.terminal.lines import columns

    known = pins.all()
    if json:
        print_json(known)
    elif not known:
        say("no baselines yet; `k2run baseline set NAME RUN` makes one")
    else:
        rows = [
            (name, stack, ", ".join(runs))
            for name, stacks in sorted(known.items())
            for stack, runs in sorted(stacks.items())
        ]
        say("\n".join(columns(("baseline", "stack", "run"), rows)))


def _check_baseline_name(name: str) -> None:
    """Refuse a name that a threshold cannot use."""
    from k2run.bench.thresholds import LAST_GREEN, Threshold
    from k2run.files import name_objection
    from k2run.language.quantities import Misread

    try:
        usable = Threshold.parse(f"regression < 10% vs {name}").baseline == name != LAST_GREEN
    except Misread:
        usable = False
    if not usable or name_objection(name):
        raise UsageError(f"{name!r} is not a valid baseline name", hint="letters, digits, `_`, `.` and `-`")


TASKS = (history, trend, compare, baseline, publish)

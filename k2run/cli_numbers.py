"""The tasks that answer from the journals of past runs: history, comparison, trends, reports, documents, backups."""

from __future__ import annotations

from invoke import Context, Exit, task

from k2run.friendly import friendly

_NARROWING = {"runbook": "only runs of this runbook", "stack": "only runs on this stack", "json": "as JSON"}


@task(auto_shortflags=False, help={"last": "how many runs", **_NARROWING})
def history(c: Context, runbook: str = "", stack: str = "", last: int = 20, json: bool = False) -> None:
    """List past runs, the newest last: verdict, score, time."""
    with friendly():
        from k2run.faces.numbers.past import show_history

        show_history(runbook, stack, last, json=json)


@task(
    positional=[],
    auto_shortflags=False,
    help={
        "metric": "its name or a part of it; all of them are listed without",
        "last": "only the newest N",
        **_NARROWING,
    },
)
def trend(c: Context, metric: str = "", runbook: str = "", stack: str = "", last: int = 0, json: bool = False) -> None:
    """Show how a figure went from run to run, and whether it changed."""
    with friendly():
        from k2run.faces.numbers.past import show_metrics, show_trend

        if metric:
            show_trend(metric, runbook, stack, last, json=json)
        else:
            show_metrics(runbook, stack, json=json)


@task(
    positional=["one", "other"],
    auto_shortflags=False,
    help={"one": "the earlier run: id, unique part, `last`", "other": "the later run", "json": "as JSON"},
)
def compare(c: Context, one: str, other: str, json: bool = False) -> None:
    """Show what differs between two runs: outcomes, figures, latencies, times."""
    with friendly():
        from k2run.faces.numbers.past import show_comparison

        show_comparison(one, other, json=json)


@task(
    iterable=["words"],
    auto_shortflags=False,
    help={
        "words": "set NAME RUN (an id, a unique part, `last`), drop NAME, or nothing: list them",
        "json": "as JSON",
    },
)
def baseline(c: Context, words: list[str], json: bool = False) -> None:
    """Pin the run that later loads are held against: `baseline set NAME RUN`; each stack has its own."""
    with friendly():
        from k2run.faces.numbers.pinned import keep_baselines

        keep_baselines(words, json=json)


@task(
    positional=[],
    auto_shortflags=False,
    help={
        "run-id": "the run's id, a unique part of it, or `last`",
        "junit": "also write junit.xml",
        "plots": "draw what was measured in the terminal, too: latencies, lags, levels",
    },
)
def report(c: Context, run_id: str = "last", junit: bool = False, plots: bool = False) -> None:
    """Write the reports of a run anew from its journal."""
    with friendly():
        from k2run.engine.store import Store
        from k2run.evidence.reports import write_reports

        folder = Store().find_run(run_id)
        if plots:
            from k2run.faces.numbers.past import show_plots

            show_plots(folder)
        for path in write_reports(folder, junit=junit):
            print(path)


@task(
    positional=[],
    auto_shortflags=False,
    help={
        "kind": "quick-reference, performance-results, contingency-plan, … or all",
        "into": "the folder to write to",
        "stack": "quote only runs on this stack",
        "max-age": "from which age on a number is stale, such as 24h (each template declares its own)",
        "strict": "exit code 1 when a number is stale, missing or without evidence",
    },
)
def docs(
    c: Context, kind: str = "all", into: str = "reference", stack: str = "", max_age: str = "", strict: bool = False
) -> None:
    """Write documents out of evidence: every number names the journal line it comes from."""
    with friendly():
        from k2run.faces.numbers.papers import write_documents

        problems = write_documents(kind, into=into, stack=stack, max_age=max_age)
    _exit(1 if problems and strict else 0)


@task(
    auto_shortflags=False,
    help={
        "stack": "the stack whose Iceberg catalog takes them",
        "namespace": "namespace of the tables runs and measures",
        "timeout": "seconds it may take",
    },
)
def publish(c: Context, stack: str = "sandbox", namespace: str = "k2run", timeout: int = 120) -> None:
    """Append past runs and their figures to Iceberg tables; what is there already is not repeated."""
    with friendly():
        from k2run.faces.numbers.past import publish_runs

        publish_runs(stack, namespace, timeout)


@task(
    auto_shortflags=False,
    help={
        "into": "the folder for the materials",
        "stack": "path or name of the stack to show",
        "plain": "plain lines instead of the live display",
    },
)
def backup(c: Context, into: str = "reference", stack: str = "", plain: bool = False) -> None:
    """Make what a presenter falls back on: documents, a cast, the executed notebook, screenshots, a video."""
    with friendly():
        from k2run.faces.numbers.backup import make_backup

        code = make_backup(into, stack, plain=plain)
    _exit(code)


def _exit(code: int) -> None:
    if code:
        raise Exit(code=code)


NUMBERS = (history, trend, compare, baseline, report, docs, publish, backup)

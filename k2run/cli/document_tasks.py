"""The commands that write reports, documents and backup materials out of evidence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.cli.command import RUN, command
from k2run.errors import K2runError, OperatorError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke import Context

    from k2run.engine.store import Store
    from k2run.evidence.document_sources import Sources
    from k2run.evidence.history import History
    from k2run.evidence.quoted_document import Document, Footnotes
    from k2run.language.model import Runbook
    from k2run.stack.stack import Stack

TEMPLATES = "documents"
"""Folder beside the runbooks with the templates of documents."""
BACKUP = "backup"
REHEARSAL = "rehearsal"
"""The runbook whose sections and talking points are the walkthrough."""
SHOWN = "demo-day"
"""The runbook whose last run is kept as a cast."""


@command(
    help={
        "run-id": RUN,
        "junit": "also write junit.xml",
        "plots": "also plot latencies, lags and levels in the terminal",
    },
)
def report(c: Context, run_id: str = "last", junit: bool = False, plots: bool = False) -> None:
    """Write the reports of a run again from its journal."""
    from k2run.engine.store import Store
    from k2run.evidence.reports import write_reports

    folder = Store().find_run(run_id)
    if plots:
        _plot(folder)
    for path in write_reports(folder, junit=junit):
        print(path)


@command(
    aliases=["docs"],
    help={
        "kind": "quick-reference, performance-results, contingency-plan, … or all",
        "into": "the folder to write to",
        "stack": "the stack they describe (that of the last demo day by default)",
        "max-age": "age at which a number is stale, such as 24h (each template declares its own)",
        "strict": "exit with 1 when a number is stale, missing or without evidence",
    },
)
def document(
    c: Context, kind: str = "all", into: str = "reference", stack: str = "", max_age: str = "", strict: bool = False
) -> int:
    """Write documents and pages to print; every number cites its journal line (`docs` works until the next release)."""
    return 1 if _write_documents(kind, into=into, stack=stack, max_age=max_age) and strict else 0


@command(
    help={
        "into": "the folder for the materials",
        "stack": "path or name of the stack to show",
        "plain": "plain lines instead of the live display",
    },
)
def backup(c: Context, into: str = "reference", stack: str = "", plain: bool = False) -> int:
    """Write a presenter's backup: documents, a cast, the executed notebook, screenshots, a video of the walkthrough."""
    from k2run.app.launch import launch
    from k2run.cli import backup as materials
    from k2run.daemon.notify.messenger import heralds
    from k2run.engine.execution import Options
    from k2run.engine.store import Store
    from k2run.evidence.history import History

    _write_documents("all", into=into, stack=stack, max_age="", tell=False)  # the run checks that they are there
    store = Store()
    shown = [run for run in History(store.home).runs(name=SHOWN, last=50) if run.outcome]
    if shown:
        write_cast(store.home / "runs" / shown[-1].run, Path(into) / f"{SHOWN}.cast")
    about, _ = _stack_of(stack, store, History(store.home))
    rehearsal = next((each for each in _runbooks() if each.name == REHEARSAL), None)
    shown_run = materials.last_run(store, SHOWN, about)
    if not shown_run[0]:
        print(f"  {SHOWN} has not run on {about}: its charts and its replay are missing", file=sys.stderr)
    with materials.served() as page:
        if rehearsal is not None:
            materials.write_scenes(rehearsal, Path(into), page, about, shown_run)
        given = {"materials": into, "page": page, "shown": shown_run[0], "moment": materials.middle(shown_run[1])}
        options = Options(extra=given)
        ended = launch(BACKUP, stack=stack, options=options, mode="plain" if plain else "auto", heralds=heralds)
    _write_documents("all", into=into, stack=stack, max_age="")  # which quote the run's drill
    return ended.exit_code


@command(
    help={
        "into": "the folder with the materials of `backup`",
        "stack": "path or name of the stack to show",
        "unattended": "never prompt, even on a terminal",
    },
)
def rehearse(c: Context, into: str = "reference", stack: str = "", unattended: bool = False) -> int:
    """Rehearse the demo against the clock: opens the presenter's view, shows what to say, switches to the backup."""
    from k2run.app.launch import is_attended, launch
    from k2run.cli import backup as materials
    from k2run.daemon.notify.messenger import heralds
    from k2run.engine.execution import Options

    attended = is_attended() and not unattended
    options = Options(extra={"materials": into}, attended=attended)
    with materials.served() as page:
        opener = materials.PresenterOpener(page, on_desktop=attended)
        ended = launch(
            REHEARSAL,
            stack=stack,
            options=options,
            mode="auto",
            heralds=lambda store, run: (opener, *heralds(store, run)),
        )
    return ended.exit_code


def write_cast(run: Path, file: Path) -> None:
    """Write a run as a terminal recording.

    Raises:
        UsageError: There is no such run.
        OperatorError: The file cannot be written.
    """
    from k2run.engine.journal import read_journal
    from k2run.terminal.live import cast

    _write(file, cast(read_journal(run)).encode())


def _write(file: Path, content: bytes, *, tell: bool = True) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise OperatorError(f"cannot write {file}: {error.strerror}", hint="choose `--into`") from error
    if tell:
        print(file)


def _plot(folder: Path) -> None:
    """Plot what a run measured repeatedly."""
    from k2run.engine.journal import read_journal
    from k2run.evidence.measurements import plots
    from k2run.evidence.view import view_of
    from k2run.terminal.lines import width

    view = view_of(read_journal(folder))
    drawn = plots(view.measured.all(), view.loads(), width())
    print("\n".join(drawn or ["nothing was measured often enough for a plot"]) + "\n")


def _write_documents(kind: str, *, into: str, stack: str, max_age: str, tell: bool = True) -> int:
    """Write one kind of document, or all of them.

    Args:
        kind: Which; `all` for all of them.
        into: The folder.
        stack: What they are about; "" for the stack of the last demo day.
        max_age: Age at which a value is stale; "" for what each template declares.
        tell: Print the files and their problems.

    Returns:
        How many problems the documents have.
    """
    from k2run.app.launch import runbook_roots
    from k2run.engine.store import Store
    from k2run.evidence.document_sources import Sources
    from k2run.evidence.history import History
    from k2run.evidence.quoted_document import make, templates
    from k2run.language.problems import did_you_mean

    known = templates([root / TEMPLATES for root in runbook_roots()])
    if kind != "all" and kind not in known:
        raise UsageError(
            f"there is no document {kind!r}", hint=did_you_mean(kind, known) or f"there are: {', '.join(known)}, all"
        )
    store = Store()
    history, runbooks = History(store.home), list(_runbooks())
    about, opened = _stack_of(stack, store, history)

    def sources(notes: Footnotes) -> Sources:
        return Sources(history, store.home / "runs", runbooks, notes, opened)

    problems = 0
    for name in known if kind == "all" else [kind]:
        made = make(known[name], sources, max_age=max_age, stack=about)
        problems += len(made.problems)
        _write_document(made, Path(into), tell=tell)
    return problems


def _stack_of(reference: str, store: Store, history: History) -> tuple[str, Stack | None]:
    """The stack that documents are about, by name and read: the one asked for, else that of the last demo day.

    Raises:
        K2runError: The one asked for cannot be read.
    """
    from k2run.app.launch import default_stack, open_stack

    shown = [run.stack for run in history.runs(name=SHOWN, last=1)]
    try:
        opened = open_stack(reference or next(iter(shown), "") or default_stack(), store=store)
    except K2runError as error:
        if reference:
            raise
        print(f"  addresses are left out: {error.message}", file=sys.stderr)
        return next(iter(shown), ""), None
    return opened.name, opened


def _runbooks() -> Iterator[Runbook]:
    from k2run.actions.catalogue import Catalogue
    from k2run.app.runbook_list import runbook_files
    from k2run.language.loader import load_runbook

    for file in runbook_files():
        try:
            yield load_runbook(file, Catalogue())
        except K2runError:
            print(f"skipping {file}: it is not valid", file=sys.stderr)


def _write_document(made: Document, folder: Path, *, tell: bool) -> None:
    import msgspec

    page = Path(made.heading.file).with_suffix(".html").name
    files = {made.heading.file: made.text.encode(), page: made.html.encode()}
    if made.heading.json:
        files[made.heading.json] = msgspec.json.format(msgspec.json.encode(made.quotes)) + b"\n"
    for name, content in files.items():
        _write(folder / name, content, tell=tell)
    for problem in made.problems if tell else ():
        print(f"  {made.heading.file}: {problem}", file=sys.stderr)


TASKS = (report, document, backup, rehearse)

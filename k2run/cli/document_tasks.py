"""The commands that write reports, documents and backup materials out of evidence."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.cli.command import RUN, command
from k2run.errors import K2runError, OperatorError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke import Context

    from k2run.engine.events import AnyEvent
    from k2run.engine.store import Store
    from k2run.evidence.document_sources import Sources
    from k2run.evidence.history import History
    from k2run.evidence.quoted_document import Document, Footnotes
    from k2run.evidence.view import RunView
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
    from k2run.daemon.messenger import heralds
    from k2run.engine.execution import Options
    from k2run.engine.store import Store
    from k2run.evidence.history import History

    store = Store()
    about, _ = _stack_of(stack, store, History(store.home))
    shown_run = last_run(store, SHOWN, about)
    if not shown_run[0]:
        raise UsageError(
            f"{SHOWN} has not run on {about}: there are no charts and no replay of it to show",
            hint=f"run it first: `k2run run {SHOWN}{stack and ' --stack '}{stack}`",
        )
    _write_documents("all", into=into, stack=stack, max_age="", tell=False)  # the run checks that they are there
    write_cast(store.home / "runs" / shown_run[0], Path(into) / f"{SHOWN}.cast")
    rehearsal = next((each for each in _runbooks() if each.name == REHEARSAL), None)
    with served() as page:
        if rehearsal is not None:
            write_scenes(rehearsal, Path(into), page, about, shown_run)
        given = {"materials": into, "page": page, "shown": shown_run[0], "moment": middle(shown_run[1])}
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
    from k2run.daemon.messenger import heralds
    from k2run.engine.execution import Options

    attended = is_attended() and not unattended
    options = Options(extra={"materials": into}, attended=attended)
    with served() as page:
        opener = PresenterOpener(page, on_desktop=attended)
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
    from k2run.engine.journal import read_journal
    from k2run.evidence.measurements import plots
    from k2run.evidence.view import view_of
    from k2run.terminal.lines import width

    view = view_of(read_journal(folder))
    drawn = plots(view.measured.all(), view.loads(), width())
    print("\n".join(drawn or ["nothing was measured often enough for a plot"]) + "\n")


def _write_documents(kind: str, *, into: str, stack: str, max_age: str, tell: bool = True) -> int:
    """Write one kind of document, or `all` of them, into a folder; returns how many problems they have."""
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
    from k2run.app.launch import runbook_files
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


SCENES = "walkthrough.json"
SLIDES = "demo-slides.html"
RESILIENCE = "Resilience"
"""The section whose middle is photographed."""
GRACE_S = 5
"""Seconds that the page has to end before it is killed."""


@contextmanager
def served() -> Iterator[str]:
    """k2run's own page on a free port, for as long as the block lasts; gives its address.

    It ends with this process however that ends, also with kill -9: a pipe between the two is closed then.

    Raises:
        OperatorError: It does not start.
    """
    import subprocess

    command = [sys.executable, "-m", "k2run", "serve", "--port", "0", "--until-eof"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    try:
        said = process.stdout.readline() if process.stdout is not None else ""
        if not said.startswith("serving"):
            raise OperatorError(f"k2run's page does not start: {said.strip()}", hint="`k2run serve` says more")
        yield said.split()[1].rstrip("/")
    finally:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class PresenterOpener:
    """Opens the presenter's view as soon as a run has an id.

    Args:
        page: Address of k2run's page.
        on_desktop: Open it on the desktop; its address is told in any case.
    """

    def __init__(self, page: str, *, on_desktop: bool) -> None:
        self._page = page
        self._on_desktop = on_desktop

    def see(self, event: AnyEvent) -> None:
        """Wait for the start of the run."""
        from k2run.actions.action import open_on_desktop
        from k2run.engine.events import RunStarted

        if not isinstance(event, RunStarted):
            return
        address = f"{self._page}/runs/{event.run}/presenter"
        print(f"presenter's view  {address}", file=sys.stderr, flush=True)
        if self._on_desktop:
            open_on_desktop(address)


def last_run(store: Store, name: str, stack: str) -> tuple[str, RunView | None]:
    """The newest whole run of a runbook, preferably one whose resilience passed; nothing without one."""
    from k2run.engine.journal import read_journal
    from k2run.evidence.history import History
    from k2run.evidence.view import view_of

    newest: tuple[str, RunView | None] = ("", None)
    for run in reversed(History(store.home).runs(name=name, stack=stack, last=20)):
        try:
            view = view_of(read_journal(store.home / "runs" / run.run))
        except K2runError:
            continue
        if view.finished is None or view.finished.partial:
            continue
        newest = newest if newest[0] else (run.run, view)
        shown = (each.finished for each in view.sections.values() if each.name == RESILIENCE)
        if any(finished is not None and finished.outcome == "passed" for finished in shown):
            return run.run, view
    return newest


def middle(view: RunView | None) -> float:
    """Seconds into a run at which it is in the middle of its resilience; its end without that section."""
    if view is None:
        return 0.0
    for section in view.sections.values():
        if section.name == RESILIENCE and section.started and section.finished:
            return round(section.started.t + 0.75 * (section.finished.t - section.started.t), 2)
    return view.seconds


def write_scenes(rehearsal: Runbook, into: Path, page: str, stack: str, shown: tuple[str, RunView | None]) -> None:
    """Write the scenes of the video.

    Raises:
        OperatorError: They cannot be written.
    """
    from datetime import UTC, datetime

    import msgspec

    from k2run.evidence.notebook_pages import Sources, scenes

    run, view = shown
    sources = Sources(
        page=page,
        stack=stack,
        notebook=(into / SLIDES).absolute().as_uri(),
        titles=_titles(rehearsal),
        run=run,
        view=view,
        now=datetime.now(UTC).strftime("%Y-%m-%d"),
    )
    text = msgspec.json.format(msgspec.json.encode(scenes(rehearsal, sources))) + b"\n"
    _write(into / SCENES, text, tell=False)


def _titles(rehearsal: Runbook) -> list[str]:
    """The headings of the notebook's pages: `## 3. Storage` is that of the section `3 Storage`."""
    return [each.name.replace(" ", ". ", 1) for each in rehearsal.sections if each.name[:1].isdecimal()]


TASKS = (report, document, backup, rehearse)

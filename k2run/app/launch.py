"""Starts runs: opens runbook and stack, shows events, writes the reports; and lists the runbooks there are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from k2run.actions.catalogue import Catalogue
from k2run.app.answers import InboxPerson, ask_again, ask_missing, given_again
from k2run.engine.events import RunFinished, RunStarted
from k2run.engine.execution import Options
from k2run.engine.journal import read_journal
from k2run.engine.prompts import Nobody
from k2run.engine.replay import started
from k2run.engine.request import Request
from k2run.engine.run import resume, run
from k2run.engine.safeguards import aside
from k2run.engine.store import RUNBOOK_COPY, Store, running
from k2run.engine.variables import recorded_extra
from k2run.errors import K2runError, UsageError
from k2run.language.loader import load_runbook
from k2run.language.model import Kind
from k2run.stack.secrets import as_written
from k2run.stack.stack import load_stack, own_stack_files
from k2run.terminal.safe_stream import say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from k2run.actions.action import Person
    from k2run.engine.journal import Observer
    from k2run.engine.prompts import Guide
    from k2run.language.model import Runbook
    from k2run.stack.stack import Stack
    from k2run.terminal.face import Face

    Heralds = Callable[[Store, str], tuple[Observer, ...]]
    """Makes the observers that notify others of a run, from the k2run home and, for a resumed run, its id."""

Mode = Literal["auto", "live", "plain", "json"]
DEFAULT_STACK = "sandbox"


def find_runbook(reference: str, among: str = "") -> Path:
    """The file of a runbook: a path, or a name under `runbooks/` here or among those that ship.

    Args:
        reference: The path, the name, or the end of the path: `api-failing`, `recovery/api-failing`.
        among: The folder that is meant where runbooks in several have the name.

    Raises:
        UsageError: There is none, and the message suggests similar names; or there are several.
    """
    path = Path(reference)
    if path.is_file():
        return path
    shipped: list[Path] = []
    for root in runbook_roots():
        here = runbooks_below(root)
        named = [each for each in here if _is_called(each, path)]
        meant = [each for each in named if among and each.parent.name == among] or named
        if len(meant) > 1:
            names = [each.relative_to(root).with_suffix("").as_posix() for each in meant]
            hint = f"choose one: {', '.join(names)}"
            raise UsageError(f"{len(meant)} runbooks are called {reference!r}", hint=hint)
        if meant:
            return meant[0]
        shipped += here
    from k2run.language.problems import did_you_mean

    hint = did_you_mean(path.stem, [path.stem for path in shipped])
    raise UsageError(f"there is no runbook {reference!r}", hint=hint or "`k2run list` shows the available ones")


def _is_called(path: Path, reference: Path) -> bool:
    """Whether a path ends as a reference says, with or without its suffix."""
    length = len(reference.parts)
    return reference.parts in {path.parts[-length:], path.with_suffix("").parts[-length:]}


def runbook_roots() -> list[Path]:
    """Folders that are searched for runbooks: `runbooks/` here, then those that ship with the package."""
    shipped = Path(__file__).parent.parent
    candidates = [Path("runbooks"), shipped / "_runbooks", shipped.parent / "runbooks"]
    found: dict[Path, Path] = {path.resolve(): path for path in reversed(candidates) if path.is_dir()}
    return list(reversed(found.values()))


def open_stack(reference: str, *, near: Path | None = None, store: Store | None = None) -> Stack:
    """The stack of that name or file; that of `default_stack` where none is named."""
    return load_stack(reference or default_stack(), near=near, home=(store or Store()).home, overrides={})


def default_stack() -> str:
    """The stack of a command that names none: the only one beside the working directory, else the embedded one.

    Raises:
        UsageError: There are several, and none has the name of the embedded one.
    """
    beside = own_stack_files()
    if len(beside) == 1:
        return str(*beside.values())
    if beside and DEFAULT_STACK not in beside:
        raise UsageError(
            f"there are {len(beside)} stacks here, and none was chosen",
            hint=f"give --stack: {', '.join(sorted(beside))}",
        )
    return DEFAULT_STACK


def launch_on(  # noqa: PLR0913 - what `run` takes
    stacks: Sequence[str],
    runbook: str,
    *,
    options: Options,
    mode: Mode,
    heralds: Heralds,
    junit: bool = False,
    at_once: bool = False,
) -> int:
    """Run a runbook on one stack or on several, in turn or all `at_once`; returns the worst exit code.

    Each run has a journal of its own. The stack "" is the runbook's own.
    """
    if len(stacks) == 1:
        return launch(runbook, stack=stacks[0], options=options, mode=mode, heralds=heralds, junit=junit).exit_code
    from k2run.app.run_processes import as_json_lines, at_the_same_time, one_after_the_other

    if mode == "json":
        return as_json_lines(stacks, at_once=at_once)
    if at_once:
        return at_the_same_time(stacks)
    return one_after_the_other(
        stacks, lambda stack: launch(runbook, stack=stack, options=options, mode=mode, heralds=heralds, junit=junit)
    )


def launch(  # noqa: PLR0913 - what `run` takes
    runbook: str, *, stack: str, options: Options, mode: Mode, heralds: Heralds, junit: bool = False
) -> RunFinished:
    """Run a runbook in the terminal.

    Args:
        runbook: Path or name of the runbook.
        stack: Path or name of the stack; "" takes the runbook's own.
        options: How to run it.
        mode: How to show it.
        heralds: Makes the observers that notify others of it.
        junit: Write junit.xml too.

    Raises:
        UsageError: It is to be guided step by step without a terminal.
    """
    path = find_runbook(runbook)
    catalogue, store = Catalogue(), Store()
    loaded = load_runbook(path, catalogue)
    chosen = open_stack(stack or loaded.stack, near=path.parent, store=store)
    if options.attended and not options.inbox:
        options = replace(options, extra=ask_missing(loaded, options.extra))
    face, guide = _faced(mode, options)
    with face:
        request = Request(
            runbook=loaded,
            stack=chosen,
            store=store,
            catalogue=catalogue,
            options=options,
            observers=(face, *heralds(store, "")),
            person=_person(options, face),
            guide=guide,
        )
        finished = run(request)
    if not options.check:
        _report(lambda: store.find_run(face.run), mode, junit=junit)
    return finished


def relaunch(reference: str, *, options: Options, mode: Mode, heralds: Heralds) -> RunFinished:
    """Resume an interrupted run, named by its id, a unique part of it, or `last`.

    Tags and `-e` come from the run itself, except secrets, which it does not keep.
    """
    catalogue, store = Catalogue(), Store()
    folder = store.find_run(reference)
    earlier = read_journal(folder)
    begun = started(earlier)
    loaded = load_runbook(folder / RUNBOOK_COPY, catalogue, home=Path(begun.runbook).parent)
    chosen = open_stack(begun.stack_file or begun.stack, store=store)
    before = begun.options
    again = given_again(loaded, begun.inputs, options.extra)
    if options.attended and not options.inbox:
        again = ask_again(loaded, begun.inputs, {**before.get("extra", {}), **again})
    face, guide = _faced(mode, options)
    with face:
        face.recall(earlier)
        request = Request(
            runbook=loaded,
            stack=chosen,
            store=store,
            catalogue=catalogue,
            options=Options(
                tags=frozenset(before.get("tags", ())),
                skip_tags=frozenset(before.get("skip_tags", ())),
                extra={**recorded_extra(loaded, before.get("extra", {})), **again},
                keep=options.keep or bool(before.get("keep")),
                attended=options.attended,
                inbox=options.inbox,
                by=options.by,
            ),
            observers=(face, *heralds(store, folder.name)),
            person=_person(options, face),
            guide=guide,
        )
        finished = resume(request, folder)
    if loaded.kind is Kind.RECOVERY:
        from k2run.recovery.account import write_timeline

        aside("the timeline", lambda: write_timeline(folder), None)
    _report(lambda: folder, mode)
    return finished


def parse_extra(pairs: Iterable[str], file: str = "", *, given: bool = False) -> dict[str, Any]:
    """The `-e name=value` options, and the values in a file of inputs for the names that they do not give.

    An operator writes both, so they may say where a secret is. With `given`, there are values on standard input too.

    Raises:
        UsageError: One has no `=`.
    """
    values: dict[str, Any] = {}
    if given:
        from k2run.app.run_processes import read_given

        values.update(read_given(sys.stdin))
    if file:
        from k2run.app.answers import read_inputs

        values.update({name: as_written(value) for name, value in read_inputs(file).items()})
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"-e {pair}: expected name=value", hint="for example -e backlog=100000")
        values[name] = as_written(value)
    return values


def is_attended() -> bool:
    """Whether an operator is at this terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def _faced(mode: Mode, options: Options) -> tuple[Face, Guide | None]:
    """What shows a run; guided, a face that shows one step at a time, and the operator's guide."""
    if not options.guided:
        from k2run.terminal.mode import open_face

        return open_face(mode, sys.stdout), None
    if not options.attended or options.inbox:
        raise UsageError("--step needs an interactive terminal", hint="run it on a terminal")
    from k2run.app.guided import GuidedFace, TerminalGuide

    face = GuidedFace(sys.stdout)
    return face, TerminalGuide(face)


def _person(options: Options, face: Face) -> Person:
    if not options.attended:
        return Nobody()
    if options.inbox:
        return InboxPerson()
    from k2run.terminal.face import TerminalPerson

    return TerminalPerson(face)


def _report(find: Callable[[], Path], mode: Mode, *, junit: bool = False) -> None:
    """Write the reports beside the journal and print the page's path; a failure here does not change the verdict."""
    from k2run.evidence.reports import write_reports

    page = aside("the report", lambda: write_reports(find(), junit=junit)[0], None)
    if page is not None and mode != "json":
        say(f"report   {page}")


class Listed(Struct, frozen=True, kw_only=True):
    """One runbook in a line.

    Attributes:
        kind: `invalid` where the file has problems.
        objective: What it promises, such as `within 5m rto 60s`.
        last: The verdict of its last run, or the problems of the file.
        title: Its title, or the path of an invalid file.
    """

    name: str
    kind: str
    objective: str
    last: str
    title: str


def show_runbooks(*, json: bool) -> None:
    """Show every runbook that can be found: name, kind, objective, last verdict, title."""
    from k2run.app.leftover_faults import warn_of_broken

    store = Store()
    warn_of_broken(store)
    verdicts = _last_verdicts(store)
    rows = []
    for file in runbook_files():
        try:
            rows.append(_row(load_runbook(file, Catalogue()), verdicts))
        except K2runError as invalid:
            rows.append(Listed(name=file.stem, kind="invalid", objective="", last=str(invalid), title=str(file)))
    if json:
        say_json(rows)
        return
    _table(rows)


def runbook_files() -> list[Path]:
    """Every runbook that can be found from here, those of the working directory before those that ship."""
    found: dict[str, Path] = {}
    for root in runbook_roots():
        for file in runbooks_below(root):
            found.setdefault(str(file.relative_to(root)), file)
    return list(found.values())


def runbooks_below(folder: Path) -> list[Path]:
    """The runbooks in a folder, by their paths; stack files are left out."""
    return [file for file in sorted(folder.rglob("*.yaml")) if "stacks" not in file.parts]


def objective_of(runbook: Runbook) -> str:
    """What a runbook promises, in a few words."""
    promised = runbook.objective
    bounds = (("within", promised.within), ("rto", promised.rto), ("rpo", promised.rpo))
    return " ".join(f"{name} {value}" for name, value in bounds if value is not None)


def _row(runbook: Runbook, verdicts: dict[str, str]) -> Listed:
    return Listed(
        name=runbook.name,
        kind=runbook.kind.value,
        objective=objective_of(runbook),
        last=verdicts.get(runbook.name, "never run"),
        title=runbook.title,
    )


def _last_verdicts(store: Store) -> dict[str, str]:
    verdicts: dict[str, str] = {}
    under_way = running(store.home)
    for folder in reversed(store.runs()):
        try:
            events = read_journal(folder)
        except K2runError:
            continue
        if events and isinstance(events[0], RunStarted) and events[0].name not in verdicts:
            last = events[-1]
            open_ended = "running" if folder.name in under_way else "did not end"
            verdicts[events[0].name] = last.verdict if isinstance(last, RunFinished) else open_ended
    return verdicts


def _table(rows: list[Listed]) -> None:
    if not rows:
        say("no runbooks here; `k2run run FILE` takes a path")
        return
    heads = ("name", "kind", "objective", "last")
    cells = [(row.name, row.kind, row.objective, row.last) for row in rows]
    widths = [min(40, max(map(len, column))) for column in zip(heads, *cells, strict=True)]
    for line, title in zip((heads, *cells), ("title", *(row.title for row in rows)), strict=True):
        say("  ".join(cell[:width].ljust(width) for cell, width in zip(line, widths, strict=True)) + f"  {title}")

"""The command line: Invoke tasks, the same for `invoke …` in the repository and for the console script `k2run …`."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from typing import Any

from invoke import Collection, Context, Exit, ParseError, Program, task

from k2run.cli_authoring import AUTHORING
from k2run.cli_duty import DUTY
from k2run.cli_numbers import NUMBERS
from k2run.cli_recovery import RECOVERY
from k2run.errors import AuthorError, UsageError
from k2run.friendly import friendly

LOOSE = {"validate": "paths", "lint": "paths", "doc": "action", "explain": "code", "baseline": "words"}
"""Tasks whose argument may be left out, or given several times, without its flag."""
OPTIONAL = {
    "abort": "run-id",
    "recover": "runbook",
    "drill": "runbook",
    "trend": "metric",
    "docs": "kind",
    "report": "run-id",
}
"""Tasks whose first argument may be left out; options with values may follow it."""


COLLECTED_AFTER = 50_000
"""New objects between two searches for cycles; Python's own 700 means seventy searches before a run has begun."""
HELP = frozenset({"-h", "--help"})


def _mode(plain: bool, json: bool) -> Any:
    return "json" if json else "plain" if plain else "auto"


@task(
    positional=["runbook"],
    iterable=["e", "stack"],
    optional=["check"],
    auto_shortflags=False,
    help={
        "runbook": "path or name of the runbook",
        "stack": "path or name of the stack to run on (the runbook's own by default); may be given several times",
        "e": "name=value of an input or variable; may be given several times",
        "tags": "run only steps with one of these tags (a,b)",
        "skip-tags": "leave out steps with one of these tags (a,b)",
        "plain": "plain lines instead of the live display",
        "json": "one JSON event per line",
        "keep": "leave the stack up when the run had to start it",
        "max-blast": "refuse faults that reach further than this: service, data or host",
        "inputs": "a YAML file with values of inputs; -e wins over it",
        "start-at": "begin at this step (name, id or path); those before it are left out",
        "check": "resolve every step and call nothing; --check=probe calls what only observes",
        "list-steps": "show the steps and run nothing",
        "step": "ask before each step",
        "yes": "approve destructive steps in advance",
        "at-once": "on several stacks at the same time instead of one after the other",
        "unattended": "ask nobody, even on a terminal",
        "inbox": "questions are answered through the run's inbox, as the web page does",
        "junit": "write junit.xml beside the other reports",
        "by": "who asks for the run, for its journal",
    },
)
def run(
    c: Context,
    runbook: str,
    stack: list[str] | None = None,
    e: list[str] | None = None,
    tags: str = "",
    skip_tags: str = "",
    plain: bool = False,
    json: bool = False,
    keep: bool = False,
    max_blast: str = "",
    inputs: str = "",
    start_at: str = "",
    check: str = "",
    list_steps: bool = False,
    step: bool = False,
    yes: bool = False,
    at_once: bool = False,
    unattended: bool = False,
    inbox: bool = False,
    junit: bool = False,
    by: str = "",
) -> None:
    """Run a runbook: check, measure, break, recover, score, go or no-go."""
    with friendly():
        from k2run.engine.execution import Options
        from k2run.faces.launch import is_attended, launch_on, parse_extra

        if list_steps:
            from k2run.faces.outlining import show_steps

            return show_steps(runbook)
        options = Options(
            tags=_names(tags),
            skip_tags=_names(skip_tags),
            extra=parse_extra(e or [], inputs),
            start_at=start_at,
            check=_check(check),
            yes=yes,
            guided=step,
            keep=keep,
            max_blast=max_blast,
            attended=inbox or (is_attended() and not unattended and not json),
            inbox=inbox,
            by=by,
        )
        mode = _mode(plain, json)
        code = launch_on(stack or [""], runbook, options=options, mode=mode, junit=junit, at_once=at_once)
    return _exit(code)


@task(
    positional=["run_id"],
    iterable=["e"],
    auto_shortflags=False,
    help={
        "run-id": "the run's id, a unique part of it, or `last`",
        "e": "name=value of a secret input, which the run does not keep; may be given several times",
        "inputs": "a YAML file with values of secret inputs; -e wins over it",
        "plain": "plain lines",
        "json": "JSON events",
        "inbox": "questions are answered through the run's inbox, as the web page does",
        "by": "who asks for it, for the run's journal",
    },
)
def resume(
    c: Context,
    run_id: str,
    e: list[str] | None = None,
    inputs: str = "",
    plain: bool = False,
    json: bool = False,
    keep: bool = False,
    unattended: bool = False,
    inbox: bool = False,
    by: str = "",
) -> None:
    """Go on with an interrupted run: what is broken is undone first, finished steps are not repeated."""
    with friendly():
        from k2run.engine.execution import Options
        from k2run.faces.launch import is_attended, parse_extra, relaunch

        attended = inbox or (is_attended() and not unattended and not json)
        options = Options(extra=parse_extra(e or [], inputs), keep=keep, attended=attended, inbox=inbox, by=by)
        finished = relaunch(run_id, options=options, mode=_mode(plain, json))
    _exit(finished.exit_code)


@task(
    auto_shortflags=False,
    iterable=["allow"],
    help={
        "host": "address to listen on; beyond this machine, looking needs a token too",
        "port": "port to listen on",
        "allow": "a further name by which the server is called; may be given several times",
        "private": "looking needs a token too",
    },
)
def serve(
    c: Context, host: str = "127.0.0.1", port: int = 8642, allow: list[str] | None = None, private: bool = False
) -> None:
    """Serve the web page: start runs, follow them live, answer, abort, read reports."""
    with friendly():
        from k2run.faces.web.serve import serve as serve_page

        serve_page(host, port, allow=allow or [], private=private)


@task(auto_shortflags=False, help={"stack": "only this stack"})
def undo(c: Context, stack: str = "") -> None:
    """Put back what dead runs left broken."""
    with friendly():
        from k2run.faces.settle import undo_all

        failed = undo_all(stack)
    _exit(1 if failed else 0)


@task(auto_shortflags=False, help={"stack": "path or name of the stack", "timeout": "seconds it may take"})
def up(c: Context, stack: str = "sandbox", timeout: int = 60) -> None:
    """Start the services of a stack and wait until they do their work."""
    with friendly():
        from k2run.faces.services import bring_up

        bring_up(stack, timeout)


@task(auto_shortflags=False, help={"stack": "path or name of the stack"})
def down(c: Context, stack: str = "sandbox") -> None:
    """Stop the services of a stack."""
    with friendly():
        from k2run.faces.services import take_down

        take_down(stack)


@task(auto_shortflags=False, help={"stack": "path or name of the stack", "json": "as JSON"})
def status(c: Context, stack: str = "sandbox", json: bool = False) -> None:
    """Show how each service of a stack does, and what earlier runs left broken."""
    with friendly():
        from k2run.faces.services import show_status

        healthy = show_status(stack, json=json)
    _exit(0 if healthy else 1)


@task(
    positional=["service"],
    auto_shortflags=False,
    help={
        "service": "name of the service",
        "stack": "path or name of the stack",
        "lines": "how many of the last lines",
    },
)
def logs(c: Context, service: str, stack: str = "sandbox", lines: int = 50) -> None:
    """Show the last lines that a service logged."""
    with friendly():
        from k2run.faces.services import show_logs

        show_logs(service, stack, lines)


@task(name="list", auto_shortflags=False, help={"json": "as JSON"})
def list_(c: Context, json: bool = False) -> None:
    """List the runbooks that can be found, with kind, objective and last verdict."""
    with friendly():
        from k2run.faces.listing import show_runbooks

        show_runbooks(json=json)


def _check(given: str | bool) -> str:
    """How `--check` was given: not at all, alone, or with what it does."""
    words: dict[str | bool, str] = {"": "", True: "resolve", "resolve": "resolve", "probe": "probe"}
    if given not in words:
        raise UsageError(f"--check={given}: expected --check or --check=probe")
    return words[given]


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _exit(code: int) -> None:
    if code:
        raise Exit(code=code)


TASKS = (
    run,
    up,
    down,
    status,
    logs,
    resume,
    undo,
    serve,
    list_,
    *AUTHORING,
    *NUMBERS,
    *RECOVERY,
    *DUTY,
)


def gather(tokens: list[str]) -> list[str]:
    """Let `validate a b c` name several files, and `doc` none: an argument of Invoke without its flag is exactly one.

    Args:
        tokens: The words of the command line from the task's name on.
    """
    if len(tokens) > 1 and tokens[0] in OPTIONAL and not tokens[1].startswith("-"):
        return [tokens[0], f"--{OPTIONAL[tokens[0]]}", *tokens[1:]]
    if not tokens or tokens[0] not in LOOSE:
        return tokens
    flag = f"--{LOOSE[tokens[0]]}"
    words = [word for word in tokens[1:] if not word.startswith("-")]
    flags = [word for word in tokens[1:] if word.startswith("-") and word != flag]
    return [tokens[0], *flags, *(part for word in words for part in (flag, word))]


def prepare(program: Program) -> None:
    """Let an Invoke program read k2run's command lines: several files at once, and exit code 2 for what makes no sense.

    Invoke also forbids Python to keep compiled modules, which would be a third of the time of a short run; a tenth goes
    into searches for cycles, while modules are loaded and at the very end. And whoever started k2run may have it ignore
    the end of its children: then the system keeps no exit code, and every failed command would look like a good one.

    Args:
        program: The program that is running; its core options are parsed, its tasks are not yet.
    """
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)
    gc.set_threshold(COLLECTED_AFTER)
    atexit.register(_leave)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _fill_in_streams()
    parse = program.parse_tasks

    def parse_tasks() -> None:
        words = program.core.unparsed
        if not HELP.isdisjoint(words[1:]):  # Invoke would take it for the runbook's name
            program.args.help.value = words[0]
            words.clear()
        words[:] = gather(words)
        whole = program.collection
        program.collection = _named(whole, {*words, program.args.help.value})
        try:
            parse()
        except ParseError as error:
            print(f"error: {error}", file=sys.stderr)
            print("  hint: `--list` shows the commands, `--help COMMAND` their options", file=sys.stderr)
            raise Exit(code=AuthorError.exit_code) from None
        finally:
            program.collection = whole

    program.parse_tasks = parse_tasks  # type: ignore[method-assign] # Invoke has no hook between the two


def _fill_in_streams() -> None:
    """Standard streams that were closed before the start lead nowhere: no other file is to take their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _leave() -> None:
    """Spare Python its last search for cycles: it goes through all modules and takes longer than many a command.

    DuckDB needs it: it counts what is left of it, and complains.
    """
    if "_duckdb" not in sys.modules:
        gc.freeze()


def _named(whole: Collection, words: set[str]) -> Collection:
    """The tasks that the command line may mean: Invoke's parser copies every task that it is given, twice."""
    names = [name for name, aliases in whole.task_names.items() if not words.isdisjoint({name, *aliases})]
    return Collection(*(whole[name] for name in names)) if names else whole


def main() -> None:
    """The console script `k2run`."""
    import k2run

    program = Program(name="k2run", binary="k2run", namespace=Collection(*TASKS), version=k2run.__version__)
    prepare(program)
    program.run()

"""The commands on runbooks: run them, recover with them when something is broken, write and check them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.cli.command import RUN, STACK, command
from k2run.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from invoke import Context

    from k2run.language.model import Step

EXTRA = "name=value of an input or variable; may be given several times"
INBOX = "answer prompts through the run's inbox, as the web page does"


@command(
    positional=("runbook",),
    iterable=["e", "stack"],
    optional=["check"],
    help={
        "runbook": "path or name of the runbook",
        "stack": "path or name of the stack to run on (the runbook's own by default); may be given several times",
        "e": EXTRA,
        "tags": "run only steps with one of these tags (a,b)",
        "skip-tags": "skip steps with one of these tags (a,b)",
        "plain": "plain lines instead of the live display",
        "json": "one JSON event per line",
        "keep": "leave the stack up when the run had to start it",
        "max-blast": "refuse faults with a larger blast radius: service, data or host",
        "inputs": "a YAML file with values of inputs; -e wins over it",
        "start-at": "begin at this step (name, id or path) and skip those before it",
        "check": "resolve every step and run none; --check=probe runs those that only observe",
        "list-steps": "list the steps and run nothing",
        "step": "ask before each step",
        "yes": "approve destructive steps in advance",
        "at-once": "run on all stacks at the same time instead of one after the other",
        "unattended": "never prompt, even on a terminal",
        "inbox": INBOX,
        "junit": "write junit.xml beside the other reports",
        "by": "who starts the run, as recorded in its journal",
        "given": "read inputs from standard input as JSON; each string is the value itself",
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
    given: bool = False,
) -> int:
    """Run a runbook: check, measure, break, recover, score, go or no-go."""
    from k2run.app.launch import is_attended, launch_on, parse_extra
    from k2run.daemon.messenger import heralds
    from k2run.engine.execution import Options

    if list_steps:
        _list_steps(runbook)
        return 0
    options = Options(
        tags=_names(tags),
        skip_tags=_names(skip_tags),
        extra=parse_extra(e or [], inputs, given=given),
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
    return launch_on(stack or [""], runbook, options=options, mode=mode, heralds=heralds, junit=junit, at_once=at_once)


@command(
    positional=("run_id",),
    iterable=["e"],
    help={
        "run-id": RUN,
        "e": "name=value of a secret input, which the run does not keep; may be given several times",
        "inputs": "a YAML file with values of secret inputs; -e wins over it",
        "plain": "plain lines",
        "json": "JSON events",
        "keep": "leave the stack up when the run had to start it",
        "step": "ask before each step",
        "unattended": "never prompt, even on a terminal",
        "inbox": INBOX,
        "by": "who resumes the run, as recorded in its journal",
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
    step: bool = False,
    unattended: bool = False,
    inbox: bool = False,
    by: str = "",
) -> int:
    """Resume an interrupted run: undo pending faults, skip finished steps."""
    from k2run.app.launch import is_attended, parse_extra, relaunch
    from k2run.daemon.messenger import heralds
    from k2run.engine.execution import Options

    attended = inbox or (is_attended() and not unattended and not json)
    options = Options(extra=parse_extra(e or [], inputs), guided=step, keep=keep, attended=attended, inbox=inbox, by=by)
    return relaunch(run_id, options=options, mode=_mode(plain, json), heralds=heralds).exit_code


@command(name="list", help={"json": "as JSON"})
def list_(c: Context, json: bool = False) -> None:
    """List the available runbooks with kind, objective and last verdict."""
    from k2run.app.launch import show_runbooks

    show_runbooks(json=json)


def _mode(plain: bool, json: bool) -> Any:
    return "json" if json else "plain" if plain else "auto"


def _check(given: str | bool) -> str:
    """How `--check` was given: not at all, alone, or with what it does."""
    words: dict[str | bool, str] = {"": "", True: "resolve", "resolve": "resolve", "probe": "probe"}
    if given not in words:
        raise UsageError(f"--check={given}: expected --check or --check=probe")
    return words[given]


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _list_steps(reference: str) -> None:
    """Print the steps of a runbook in order: path, name, action and tags, with nested steps below."""
    from k2run.actions.catalogue import Catalogue
    from k2run.app.launch import find_runbook
    from k2run.language.loader import load_runbook

    runbook = load_runbook(find_runbook(reference), Catalogue())
    parts = [("steady state", runbook.steady_state), *((section.name, section.steps) for section in runbook.sections)]
    for name, steps in [*parts, ("always", runbook.always)]:
        if steps:
            print("\n".join([name, *_step_lines(steps, 1)]))


def _step_lines(steps: Sequence[Step], depth: int) -> Iterator[str]:
    for step in steps:
        tags = f"  [{', '.join(sorted(step.tags))}]" if step.tags else ""
        what = f"run {step.args.get('runbook')}" if step.action == "run" else step.action or "block"
        yield f"{'  ' * depth}{step.path:<28} {step.name}  ({what}){tags}"
        for inner in (step.block, step.rescue, step.always):
            yield from _step_lines(inner, depth + 1)


TASKS = (run, resume, list_)


@command(
    help={
        "stack": STACK,
        "json": "as JSON",
        "for_": "repeat the checks for this long, such as 20s: symptoms that come and go are reported as flapping",
    },
)
def diagnose(c: Context, stack: str = "", json: bool = False, for_: str = "") -> int:
    """Name what is wrong with a stack, with the evidence and the runbook that recovers it."""
    from k2run.app.diagnose import show_diagnosis

    return 0 if show_diagnosis(stack, json=json, lasting=for_) else 1


@command(
    iterable=["e"],
    help={
        "runbook": "path or name of the recovery runbook (the one that matches the symptoms by default)",
        "stack": STACK,
        "auto": "never prompt: manual steps take their defaults, nothing is destroyed",
        "e": "name=value of an input; may be given several times",
    },
)
def recover(c: Context, runbook: str = "", stack: str = "", auto: bool = False, e: list[str] | None = None) -> int:
    """Recover a stack, guided step by step against the clock."""
    from k2run.app.launch import parse_extra
    from k2run.app.recover import Recovery
    from k2run.daemon.messenger import heralds

    recovery = Recovery(stack, auto=auto, extra=parse_extra(e or []), heralds=heralds)
    return recovery.by(runbook) if runbook else recovery.from_diagnosis()


@command(
    help={
        "runbook": "path or name of the runbook whose steps are the faults",
        "stack": "path or name of the stack (the runbook's own by default)",
        "seed": "seed for choosing the faults; the same seed chooses the same ones",
        "rounds": "number of rounds; with --every, rounds per fault",
        "every": "inject every fault of the runbook",
        "keep": "leave the stack up when the drill had to start it",
    },
)
def drill(
    c: Context,
    runbook: str = "drill",
    stack: str = "",
    seed: int = 1,
    rounds: int = 1,
    every: bool = False,
    keep: bool = False,
) -> int:
    """Inject an undisclosed fault, diagnose it, recover from it, and show how long that took and what was lost."""
    from k2run.app.recover import hold_drill
    from k2run.daemon.messenger import heralds
    from k2run.recovery.drill import Choice

    choice = Choice(seed=seed, rounds=rounds, every=every)
    return hold_drill(runbook, choice, stack=stack, keep=keep, heralds=heralds)


@command(help={"run-id": f"{RUN} (by default the one in progress)"})
def abort(c: Context, run_id: str = "") -> int:
    """Abort a run in progress, and watch it undo its faults."""
    from k2run.app.run_processes import abort_and_watch
    from k2run.engine.store import Store
    from k2run.files import account_name

    return 0 if abort_and_watch(Store(), run_id, account_name()) else 1


@command(
    iterable=["e"],
    help={
        "stack": "only this stack",
        "e": "name=value of a secret input that an undo needs; may be given several times",
    },
)
def undo(c: Context, stack: str = "", e: list[str] | None = None) -> int:
    """Undo the faults that interrupted runs left."""
    from k2run.app.launch import parse_extra
    from k2run.app.leftover_faults import undo_all

    return 1 if undo_all(stack, parse_extra(e or [])) else 0


RECOVERY_TASKS = (diagnose, recover, drill, abort, undo)


@command(
    iterable=["paths"],
    help={"paths": "runbooks, stack files or folders", "json": "problems as JSON", "sarif": "problems as SARIF 2.1.0"},
)
def validate(c: Context, paths: list[str], json: bool = False, sarif: bool = False) -> int:
    """Check runbooks and stack files without running them: every problem with its location."""
    from k2run.authoring.validate import check_files

    return 2 if check_files(paths or ["runbooks"], form=_form(json, sarif)) else 0


@command(
    iterable=["paths"],
    help={"paths": "runbooks or folders", "json": "findings as JSON", "sarif": "findings as SARIF 2.1.0"},
)
def lint(c: Context, paths: list[str], json: bool = False, sarif: bool = False) -> int:
    """Check valid runbooks for risks and bad style."""
    from k2run.authoring.lint import lint_files

    findings = lint_files(paths or ["runbooks"], form=_form(json, sarif))
    return 2 if any(finding.code.startswith("K") for finding in findings) else 1 if findings else 0


@command(help={"code": "a code, such as K301; all of them by default"})
def explain(c: Context, code: str = "") -> None:
    """Explain the code of a problem: why it is one, with a wrong and a right example."""
    from k2run.authoring.action_manual import show_explanation

    show_explanation(code)


@command(
    positional=("kind", "name"),
    help={
        "kind": "readiness, benchmark, scenario, recovery, rehearsal, or stack for a stack file",
        "name": "its name, in lower case and dashes",
        "folder": "folder to write it to (runbooks, runbooks/recovery or runbooks/stacks by default)",
        "stack": "the stack whose services the runbook is about",
        "compose": "for a stack: a Compose file that has its services",
        "prometheus": "for a stack: base URL of a Prometheus that scrapes its services",
    },
)
def new(
    c: Context, kind: str, name: str, folder: str = "", stack: str = "", compose: str = "", prometheus: str = ""
) -> None:
    """Write a commented starting point: a runbook that is valid and ready to run, or a stack file."""
    from k2run.authoring.new import write_new

    if kind == "stack":
        from k2run.authoring.new import STACKS, ask_in_terminal, write_new_stack

        ask = ask_in_terminal if sys.stdin.isatty() else None
        print(write_new_stack(name, folder=Path(folder or STACKS), compose=compose, prometheus=prometheus, ask=ask))
        return
    print(write_new(kind, name, folder=Path(folder) if folder else None, stack=stack))


@command(
    name="import",
    positional=("form", "file"),
    help={"form": "the source format: chaos", "file": "the file to read", "folder": "folder to write the runbook to"},
)
def import_(c: Context, form: str, file: str, folder: str = "runbooks") -> None:
    """Turn a Chaos Toolkit experiment into a runbook: `import chaos FILE.json`."""
    from k2run.authoring.chaos.experiment import import_file

    print(import_file(form, Path(file), folder=Path(folder)))


@command(
    positional=("runbook",),
    help={
        "runbook": "path or name of the runbook",
        "svg": "a picture instead of Mermaid text",
        "output": "file to write to (standard output by default); a name ending in .svg makes a picture",
    },
)
def graph(c: Context, runbook: str, svg: bool = False, output: str = "") -> None:
    """Draw a runbook: sections, steps, faults with their undos, clocks."""
    from k2run.authoring.graph import draw

    draw(runbook, as_svg=svg, output=output)


@command(help={"action": "name of an action or adapter"})
def doc(c: Context, action: str = "") -> None:
    """Describe an action or an adapter's actions, or list all of them."""
    from k2run.authoring.action_manual import show_actions

    show_actions(action)


def _form(json: bool, sarif: bool) -> Any:
    return "sarif" if sarif else "json" if json else "text"


AUTHORING_TASKS = (validate, lint, explain, new, import_, graph, doc)
